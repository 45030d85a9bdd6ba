//! The key template of a hot folder: pure. Promises that a template which was taken makes a key of every file whose name
//! can be part of one; must never repair a name, only refuse it.

use std::fmt;
use std::time::{Duration, SystemTime};

/// What may stand in braces, and what it becomes. Times are those of the file's last write, in UTC.
pub const PLACEHOLDERS: [(&str, &str); 11] = [
    ("name", "the file's name"),
    ("stem", "the name without its extension"),
    ("ext", "the extension without its dot"),
    ("folder", "the sub-folder with a / behind it, or nothing"),
    ("device", "the device's name"),
    ("date", "2026-11-26"),
    ("time", "174530"),
    ("year", "2026"),
    ("month", "11"),
    ("day", "26"),
    ("hour", "17"),
];

/// Years that can be written with four digits end here, in seconds since 1970.
const LAST_SECOND: u64 = 253_402_300_799;

/// A template, checked.
#[derive(Clone, PartialEq, Eq)]
pub struct KeyTemplate {
    text: String,
    parts: Vec<Part>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Literal(String),
    Value(&'static str),
}

/// What a template is filled with.
#[derive(Debug, Clone, Copy)]
pub struct Values<'a> {
    /// The path beneath the folder, with `/` between its parts.
    pub relative: &'a str,
    /// When the file was last written.
    pub written: SystemTime,
    /// The device's name.
    pub device: &'a str,
}

impl fmt::Debug for KeyTemplate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.text, f)
    }
}

impl KeyTemplate {
    /// Reads a template.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some(at) = rest.find(['{', '}']) {
            let (before, from) = rest.split_at(at);
            if !before.is_empty() {
                parts.push(Part::Literal(before.to_owned()));
            }
            if from.starts_with('}') {
                return Err(format!("has a }} without a {{ before it: {text:?}"));
            }
            let end = from.find('}').ok_or_else(|| format!("has a {{ without a }} behind it: {text:?}"))?;
            let name = &from[1..end];
            let known = PLACEHOLDERS.iter().find(|(known, _)| *known == name);
            let (known, _) = known.ok_or_else(|| {
                let all: Vec<_> = PLACEHOLDERS.iter().map(|(known, _)| format!("{{{known}}}")).collect();
                format!("names {{{name}}}; known are {}", all.join(" "))
            })?;
            parts.push(Part::Value(known));
            rest = &from[end + 1..];
        }
        if !rest.is_empty() {
            parts.push(Part::Literal(rest.to_owned()));
        }
        let template = Self { text: text.to_owned(), parts };
        let sample = Values { relative: "a.b", written: SystemTime::UNIX_EPOCH, device: "device" };
        for relative in ["a.b", "c/a.b"] {
            let key = template.fill(&Values { relative, ..sample });
            check(&key).map_err(|why| format!("makes keys like {key:?}: {why}"))?;
        }
        Ok(template)
    }

    /// True where files of different names always get different keys.
    pub fn tells_files_apart(&self) -> bool {
        let has = |name: &str| self.parts.contains(&Part::Value(name_of(name)));
        has("name") || (has("stem") && has("ext"))
    }

    /// The key of a file.
    pub fn fill(&self, values: &Values<'_>) -> String {
        let (folder, name) = match values.relative.rfind('/') {
            Some(slash) => values.relative.split_at(slash + 1),
            None => ("", values.relative),
        };
        // A leading dot is part of the name.
        let dot = name.rfind('.').filter(|at| *at > 0);
        let seconds = values.written.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let written = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds.min(LAST_SECOND));
        // 2026-11-26T17:45:30Z
        let written = humantime::format_rfc3339_seconds(written).to_string();
        let mut key = String::new();
        for part in &self.parts {
            match part {
                Part::Literal(text) => key.push_str(text),
                Part::Value("name") => key.push_str(name),
                Part::Value("stem") => key.push_str(dot.map_or(name, |at| &name[..at])),
                Part::Value("ext") => key.push_str(dot.map_or("", |at| &name[at + 1..])),
                Part::Value("folder") => key.push_str(folder),
                Part::Value("device") => key.push_str(values.device),
                Part::Value("date") => key.push_str(&written[..10]),
                Part::Value("time") => key.extend(written[11..19].chars().filter(|c| *c != ':')),
                Part::Value("year") => key.push_str(&written[..4]),
                Part::Value("month") => key.push_str(&written[5..7]),
                Part::Value("day") => key.push_str(&written[8..10]),
                Part::Value("hour") => key.push_str(&written[11..13]),
                Part::Value(other) => unreachable!("{other} is not among the placeholders"),
            }
        }
        key
    }
}

fn name_of(name: &str) -> &'static str {
    PLACEHOLDERS.iter().find(|(known, _)| *known == name).map_or("", |(known, _)| known)
}

fn check(key: &str) -> Result<(), String> {
    use crate::upload::key::whole_key;
    use crate::upload::{KeyPolicy, Ulid, UploadError};
    match whole_key("", key, KeyPolicy::Exact, Ulid::nil()) {
        Ok(_) => Ok(()),
        Err(UploadError::InvalidKey { why, .. }) => Err(why),
        Err(other) => Err(other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    fn values(relative: &str) -> Values<'_> {
        // 2026-11-26T17:45:30Z
        let written = SystemTime::UNIX_EPOCH + Duration::from_secs(1_795_715_130);
        Values { relative, written, device: "kiosk-7" }
    }

    #[test]
    fn every_placeholder_becomes_what_is_documented() {
        for (template, relative, key) in [
            ("free/{folder}{name}", "cat.jpg", "free/cat.jpg"),
            ("free/{folder}{name}", "DCIM/100/cat.jpg", "free/DCIM/100/cat.jpg"),
            ("{device}/{date}/{time}-{name}", "cat.jpg", "kiosk-7/2026-11-26/174530-cat.jpg"),
            ("{year}/{month}/{day}/{hour}/{stem}.{ext}", "a/cat.tar.gz", "2026/11/26/17/cat.tar.gz"),
            ("{stem}", ".cat", ".cat"),
            ("x-{ext}", "cat", "x-"),
        ] {
            assert_eq!(KeyTemplate::parse(template).unwrap().fill(&values(relative)), key, "{template}");
        }
        for (name, _) in PLACEHOLDERS {
            KeyTemplate::parse(&format!("x{{{name}}}x")).unwrap();
        }
    }

    #[test]
    fn mistakes_are_named() {
        for (template, why) in [
            ("free/{nmae}", "names {nmae}; known are {name} {stem}"),
            ("free/{name", "without a }"),
            ("free/name}", "without a {"),
            ("/{name}", "empty segment"),
            ("free/{folder}/{name}", "empty segment"),
            ("../{name}", "\"..\""),
            ("", "empty"),
        ] {
            let error = KeyTemplate::parse(template).unwrap_err();
            assert!(error.contains(why), "{template}: {error}");
        }
    }

    #[test]
    fn a_template_says_whether_it_tells_files_apart() {
        for (template, apart) in [("{name}", true), ("{stem}.{ext}", true), ("{stem}", false), ("{date}", false)] {
            assert_eq!(KeyTemplate::parse(template).unwrap().tells_files_apart(), apart);
        }
    }

    #[test]
    fn times_outside_the_calendar_are_moved_into_it() {
        let template = KeyTemplate::parse("{date}").unwrap();
        for (written, date) in [
            (SystemTime::UNIX_EPOCH - Duration::from_secs(9), "1970-01-01"),
            (SystemTime::UNIX_EPOCH + Duration::from_secs(1 << 40), "9999-12-31"),
        ] {
            assert_eq!(template.fill(&Values { written, ..values("a") }), date);
        }
    }

    proptest! {
        #[test]
        fn no_template_panics(text in "[a-z{}/.]{0,30}|(\\{(name|folder|date|ext)\\}|/|x){0,6}", name in "\\PC{1,20}") {
            if let Ok(template) = KeyTemplate::parse(&text) {
                let _ = template.fill(&values(&name));
            }
        }
    }
}
