//! Keys: pure. Promises that a key starts with the destination's prefix, whatever the caller asked for, and holds no
//! segment that any reader could take for a step upwards; must never repair a key, only refuse it.

use ulid::Ulid;

use super::{KeyPolicy, UploadError};

/// S3's limit, in bytes of UTF-8.
pub const KEY_MAX_BYTES: usize = 1_024;

/// Fills the prefix template of a destination.
///
/// # Errors
/// What is wrong with the template, or with a value that would leave its segment.
pub fn expand_prefix(template: &str, identity_id: &str, subject: &str) -> Result<String, String> {
    let mut prefix = String::with_capacity(template.len() + identity_id.len());
    let mut rest = template;
    while let Some(open) = rest.find('{') {
        let (before, from_open) = rest.split_at(open);
        prefix.push_str(before);
        let close = from_open.find('}').ok_or("the prefix has a { without a }")?;
        let value = match &from_open[1..close] {
            "identity_id" => identity_id,
            "sub" => subject,
            other => return Err(format!("the prefix names {{{other}}}; known are {{identity_id}} and {{sub}}")),
        };
        if value.is_empty() || value == "." || value == ".." || value.contains('/') || value.contains(char::is_control)
        {
            return Err(format!("the value of {} cannot be part of a key", &from_open[..=close]));
        }
        prefix.push_str(value);
        rest = &from_open[close + 1..];
    }
    prefix.push_str(rest);
    check_prefix(&prefix).map(|()| prefix)
}

/// Checks a destination's template before any upload needs it.
///
/// # Errors
/// What is wrong with it.
pub fn check_template(template: &str) -> Result<(), String> {
    expand_prefix(template, "identity", "subject").map(|_| ())
}

fn check_prefix(prefix: &str) -> Result<(), String> {
    if prefix.is_empty() {
        return Ok(());
    }
    let Some(segments) = prefix.strip_suffix('/') else {
        return Err("the prefix must end with /".into());
    };
    segments.split('/').try_for_each(check_segment)
}

fn check_segment(segment: &str) -> Result<(), String> {
    match segment {
        "" => Err("it has an empty segment (starts or ends with / or has //)".into()),
        "." | ".." => Err(format!("it has the segment {segment:?}")),
        _ if segment.contains(char::is_control) => Err("it has a control character".into()),
        _ => Ok(()),
    }
}

/// The whole key: prefix, then the caller's key by its policy.
///
/// # Errors
/// `InvalidKey` with what is wrong.
pub fn whole_key(prefix: &str, key: &str, policy: KeyPolicy, id: Ulid) -> Result<String, UploadError> {
    let refuse = |why: String| UploadError::InvalidKey { key: shortened(key), why };
    if key.is_empty() {
        return Err(refuse("it is empty".into()));
    }
    key.split('/').try_for_each(check_segment).map_err(refuse)?;
    let whole = match policy {
        KeyPolicy::Exact => format!("{prefix}{key}"),
        KeyPolicy::Unique => format!("{prefix}{}", with_id(key, id)),
    };
    if whole.len() > KEY_MAX_BYTES {
        return Err(refuse(format!(
            "with the prefix it has {} bytes, at most {KEY_MAX_BYTES} are allowed",
            whole.len()
        )));
    }
    Ok(whole)
}

/// "a/cat.jpg" becomes "a/cat-{id}.jpg". A leading dot is part of the name: ".cat" becomes ".cat-{id}".
fn with_id(key: &str, id: Ulid) -> String {
    let start = key.rfind('/').map_or(0, |slash| slash + 1);
    let dot = key[start..].rfind('.').filter(|at| *at > 0).map_or(key.len(), |at| start + at);
    format!("{}-{id}{}", &key[..dot], &key[dot..])
}

/// Errors repeat the key: not all of it where it is absurd.
fn shortened(key: &str) -> String {
    match key.char_indices().nth(200) {
        Some((end, _)) => format!("{}…", &key[..end]),
        None => key.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    const PREFIX: &str = "users/us-east-1:abc/";

    fn id() -> Ulid {
        "01JD7Z8Q6V0000000000000000".parse().unwrap()
    }

    #[test]
    fn the_id_goes_before_the_extension() {
        for (key, whole) in [
            ("cat.jpg", "cat-01JD7Z8Q6V0000000000000000.jpg"),
            ("free/cat.tar.gz", "free/cat.tar-01JD7Z8Q6V0000000000000000.gz"),
            ("free/v1.2/cat", "free/v1.2/cat-01JD7Z8Q6V0000000000000000"),
            (".hidden", ".hidden-01JD7Z8Q6V0000000000000000"),
            ("Grüße.jpg", "Grüße-01JD7Z8Q6V0000000000000000.jpg"),
        ] {
            assert_eq!(whole_key("", key, KeyPolicy::Unique, id()).unwrap(), whole);
        }
    }

    #[test]
    fn what_could_leave_the_prefix_is_refused() {
        let long = "x".repeat(1_010);
        for key in [
            "",
            "/",
            "/a",
            "a/",
            "a//b",
            ".",
            "..",
            "free/../premium/x",
            "free/./x",
            "../x",
            "a/..",
            "a\nb",
            "a\0",
            "a\u{7f}b",
            "a\u{85}b",
            &long,
        ] {
            let error = whole_key(PREFIX, key, KeyPolicy::Exact, id()).unwrap_err();
            assert!(matches!(error, UploadError::InvalidKey { .. }), "{key:?}: {error}");
        }
        for key in ["free/..x", "free/x..", "free/...", "a b", "%2e%2e/x", "free\\..\\x"] {
            whole_key(PREFIX, key, KeyPolicy::Exact, id()).unwrap();
        }
    }

    #[test]
    fn templates() {
        assert_eq!(expand_prefix("users/{identity_id}/", "us:1", "s").unwrap(), "users/us:1/");
        assert_eq!(expand_prefix("{sub}/x/", "us:1", "s").unwrap(), "s/x/");
        assert_eq!(expand_prefix("", "us:1", "s").unwrap(), "");
        for template in ["users/{identity_id}", "/x/", "x//", "{nobody}/", "{sub/", "../{sub}/"] {
            assert!(check_template(template).is_err(), "{template}");
        }
        for value in ["..", "a/b", "", "a\n"] {
            assert!(expand_prefix("users/{sub}/", "us:1", value).is_err(), "{value:?}");
        }
    }

    proptest! {
        #[test]
        fn a_key_never_leaves_its_prefix(key in "[a-z./\\\\ \\x00-\\x1f]{0,40}|\\PC{0,400}", unique: bool) {
            let policy = if unique { KeyPolicy::Unique } else { KeyPolicy::Exact };
            if let Ok(whole) = whole_key(PREFIX, &key, policy, id()) {
                prop_assert!(whole.starts_with(PREFIX));
                prop_assert!(whole.len() > PREFIX.len() && whole.len() <= KEY_MAX_BYTES);
                prop_assert!(whole.split('/').all(|segment| !matches!(segment, "" | "." | "..")));
                prop_assert!(!whole.contains(char::is_control));
                prop_assert_eq!(whole.contains(&id().to_string()), unique);
            }
        }
    }
}
