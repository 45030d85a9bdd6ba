//! Reads a TOML document key by key and collects every mistake with its place, instead of stopping at the first. A
//! reader always goes on (with nothing, so that the default stands); the document counts only when no problem was found.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fmt;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use serde_spanned::Spanned;
use toml::de::{DeTable, DeValue};

/// One mistake in a configuration file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// The key's path, for example `api.max_connections`; empty for a mistake of syntax.
    pub key: String,
    /// What is wrong and what would be right.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: ", self.line, self.column)?;
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        f.write_str(&self.message)
    }
}

/// Collects the problems of one document.
#[derive(Debug)]
pub struct Problems<'a> {
    text: &'a str,
    found: RefCell<Vec<Problem>>,
}

impl<'a> Problems<'a> {
    /// For a document with this text.
    pub fn of(text: &'a str) -> Self {
        Self { text, found: RefCell::default() }
    }

    /// Notes a problem at a byte offset of the text.
    pub fn add(&self, offset: usize, key: &str, message: impl Into<String>) {
        let before = &self.text[..self.text.floor_char_boundary(offset)];
        let line = before.matches('\n').count() + 1;
        let column = before.rsplit('\n').next().unwrap_or("").chars().count() + 1;
        self.found.borrow_mut().push(Problem { line, column, key: key.to_owned(), message: message.into() });
    }

    /// All problems, in the order of the text.
    pub fn into_sorted(self) -> Vec<Problem> {
        let mut found = self.found.into_inner();
        found.sort_by_key(|problem| (problem.line, problem.column));
        found
    }
}

/// One table of the document.
#[derive(Debug)]
pub struct Section<'a> {
    problems: &'a Problems<'a>,
    path: String,
    offset: usize,
    table: Option<&'a DeTable<'a>>,
    known: BTreeSet<&'static str>,
}

impl<'a> Section<'a> {
    /// The document itself.
    pub fn root(problems: &'a Problems<'a>, document: &'a Spanned<DeTable<'a>>) -> Self {
        Self { problems, path: String::new(), offset: 0, table: Some(document.get_ref()), known: BTreeSet::new() }
    }

    /// The table under `key`; one without entries where it is left out.
    pub fn section(&mut self, key: &'static str) -> Section<'a> {
        let path = self.path_of(key);
        let mut inner =
            Section { problems: self.problems, path, offset: self.offset, table: None, known: BTreeSet::new() };
        if let Some(value) = self.take(key) {
            inner.offset = value.span().start;
            match value.get_ref() {
                DeValue::Table(table) => inner.table = Some(table),
                other => self.wrong_type(key, value, "a table", other),
            }
        }
        inner
    }

    /// The tables of the array `[[key]]`.
    pub fn sections(&mut self, key: &'static str) -> Vec<Section<'a>> {
        let Some(value) = self.take(key) else { return Vec::new() };
        let DeValue::Array(array) = value.get_ref() else {
            self.wrong_type(key, value, "an array of tables", value.get_ref());
            return Vec::new();
        };
        let mut inner = Vec::new();
        for (index, item) in array.iter().enumerate() {
            let path = format!("{}[{index}]", self.path_of(key));
            match item.get_ref() {
                DeValue::Table(table) => inner.push(Section {
                    problems: self.problems,
                    path,
                    offset: item.span().start,
                    table: Some(table),
                    known: BTreeSet::new(),
                }),
                other => self.wrong_type(key, item, "a table", other),
            }
        }
        inner
    }

    /// A string, where it is there.
    pub fn string(&mut self, key: &'static str) -> Option<String> {
        self.parsed(key, |text| if text.is_empty() { Err("must not be empty".to_owned()) } else { Ok(text.to_owned()) })
    }

    /// A string that must be there.
    pub fn required_string(&mut self, key: &'static str) -> String {
        if !self.is_present(key) {
            self.problem(key, "is missing");
        }
        self.string(key).unwrap_or_default()
    }

    /// A string that `parse` understands, where it is there.
    pub fn parsed<T>(&mut self, key: &'static str, parse: impl FnOnce(&str) -> Result<T, String>) -> Option<T> {
        let value = self.take(key)?;
        let DeValue::String(text) = value.get_ref() else {
            self.wrong_type(key, value, "a string", value.get_ref());
            return None;
        };
        match parse(text) {
            Ok(parsed) => Some(parsed),
            Err(why) => {
                self.problems.add(value.span().start, &self.path_of(key), why);
                None
            }
        }
    }

    /// An absolute path, where it is there.
    pub fn path(&mut self, key: &'static str) -> Option<PathBuf> {
        self.parsed(key, absolute_path)
    }

    /// Absolute paths.
    pub fn paths(&mut self, key: &'static str) -> Option<Vec<PathBuf>> {
        self.list(key, "a string", |value| value.as_str().map(absolute_path))
    }

    /// Strings, none of them empty.
    pub fn strings(&mut self, key: &'static str) -> Option<Vec<String>> {
        self.list(key, "a string", |value| {
            let text = value.as_str()?;
            Some(if text.is_empty() { Err("must not be empty".to_owned()) } else { Ok(text.to_owned()) })
        })
    }

    /// One of several words.
    pub fn choice<T: Copy>(&mut self, key: &'static str, choices: &[(&'static str, T)]) -> Option<T> {
        self.parsed(key, |text| {
            choices.iter().find(|(word, _)| *word == text).map(|(_, value)| *value).ok_or_else(|| {
                let words: Vec<String> = choices.iter().map(|(word, _)| format!("{word:?}")).collect();
                format!("must be {}, is {text:?}", words.join(" or "))
            })
        })
    }

    /// true or false, where it is there.
    pub fn boolean(&mut self, key: &'static str) -> Option<bool> {
        let value = self.take(key)?;
        if value.get_ref().as_bool().is_none() {
            self.wrong_type(key, value, "true or false", value.get_ref());
        }
        value.get_ref().as_bool()
    }

    /// A whole number within `range`, where it is there.
    pub fn integer(&mut self, key: &'static str, range: RangeInclusive<u64>) -> Option<u64> {
        let value = self.take(key)?;
        let within =
            whole_number(value.get_ref()).and_then(|n| u64::try_from(n).ok()).filter(|number| range.contains(number));
        if within.is_none() {
            let actual = shown(value.get_ref());
            let message = format!("must be a whole number from {} to {}, is {actual}", range.start(), range.end());
            self.problems.add(value.span().start, &self.path_of(key), message);
        }
        within
    }

    /// Milliseconds within `range_ms`, where they are there.
    pub fn milliseconds(&mut self, key: &'static str, range_ms: RangeInclusive<u64>) -> Option<Duration> {
        self.integer(key, range_ms).map(Duration::from_millis)
    }

    /// Seconds within `range_s`, where they are there.
    pub fn seconds(&mut self, key: &'static str, range_s: RangeInclusive<u64>) -> Option<Duration> {
        self.integer(key, range_s).map(Duration::from_secs)
    }

    /// uids.
    pub fn uids(&mut self, key: &'static str) -> Option<Vec<u32>> {
        self.list(key, "a uid", |value| {
            let number = whole_number(value)?;
            Some(u32::try_from(number).map_err(|_| format!("must be a uid, is {number}")))
        })
    }

    /// True where the key is there, whatever its value.
    pub fn is_present(&self, key: &str) -> bool {
        self.table.is_some_and(|table| table.iter().any(|(name, _)| name.get_ref() == key))
    }

    /// Notes a problem of this table or of one of its keys (`key` may be empty).
    pub fn problem(&self, key: &str, message: impl Into<String>) {
        let offset = self
            .table
            .and_then(|table| table.iter().find(|(name, _)| name.get_ref() == key))
            .map_or(self.offset, |(_, value)| value.span().start);
        self.problems.add(offset, &self.path_of(key), message);
    }

    /// Reports every key that nobody asked for.
    pub fn finish(self) {
        for (name, _) in self.table.into_iter().flatten() {
            if self.known.contains(name.get_ref().as_ref()) {
                continue;
            }
            let near = self.known.iter().map(|known| (strsim::damerau_levenshtein(known, name.get_ref()), known)).min();
            let message = match near {
                Some((distance, known)) if distance <= 3 => format!("unknown key; did you mean {known:?}?"),
                _ => {
                    let known: Vec<&str> = self.known.iter().copied().collect();
                    format!("unknown key; known here: {}", known.join(", "))
                }
            };
            self.problems.add(name.span().start, &self.path_of(name.get_ref()), message);
        }
    }

    fn take(&mut self, key: &'static str) -> Option<&'a Spanned<DeValue<'a>>> {
        self.known.insert(key);
        self.table?.iter().find(|(name, _)| name.get_ref() == key).map(|(_, value)| value)
    }

    fn list<T>(
        &mut self,
        key: &'static str,
        what: &str,
        read: impl Fn(&DeValue<'_>) -> Option<Result<T, String>>,
    ) -> Option<Vec<T>> {
        let value = self.take(key)?;
        let DeValue::Array(array) = value.get_ref() else {
            self.wrong_type(key, value, "an array", value.get_ref());
            return None;
        };
        let mut items = Vec::new();
        for item in array {
            match read(item.get_ref()) {
                Some(Ok(read)) => items.push(read),
                Some(Err(why)) => self.problems.add(item.span().start, &self.path_of(key), why),
                None => self.wrong_type(key, item, what, item.get_ref()),
            }
        }
        Some(items)
    }

    fn path_of(&self, key: &str) -> String {
        match (self.path.is_empty(), key.is_empty()) {
            (true, _) => key.to_owned(),
            (false, true) => self.path.clone(),
            (false, false) => format!("{}.{key}", self.path),
        }
    }

    fn wrong_type(&self, key: &str, value: &Spanned<DeValue<'_>>, expected: &str, actual: &DeValue<'_>) {
        let message = format!("must be {expected}, is {}", shown(actual));
        self.problems.add(value.span().start, &self.path_of(key), message);
    }
}

fn whole_number(value: &DeValue<'_>) -> Option<i128> {
    let integer = value.as_integer()?;
    i128::from_str_radix(integer.as_str(), integer.radix()).ok()
}

fn absolute_path(text: &str) -> Result<PathBuf, String> {
    let path = PathBuf::from(text);
    if path.is_absolute() { Ok(path) } else { Err(format!("must be an absolute path, is {text:?}")) }
}

fn shown(value: &DeValue<'_>) -> String {
    match value {
        DeValue::String(text) => format!("{text:?}"),
        DeValue::Integer(number) => number.as_str().to_owned(),
        DeValue::Boolean(truth) => truth.to_string(),
        DeValue::Float(number) => number.as_str().to_owned(),
        other @ (DeValue::Datetime(_) | DeValue::Array(_) | DeValue::Table(_)) => {
            format!("of type {}", other.type_str())
        }
    }
}
