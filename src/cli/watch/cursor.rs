//! How far the ends of uploads were handled: in order, and in a file where one is wanted.

use std::collections::VecDeque;
use std::path::PathBuf;

use super::super::exit::CliError;
use super::super::private_file;

/// See the module.
#[derive(Debug)]
pub(super) struct Cursor {
    file: Option<PathBuf>,
    /// What was begun and not handled up to its end, oldest first, with the token behind each.
    open: VecDeque<(u64, String, bool)>,
    next: u64,
}

impl Cursor {
    /// With the token that the file holds; empty where there is none.
    ///
    /// # Errors
    /// Where the file cannot be read.
    pub(super) fn load(file: Option<PathBuf>) -> Result<(Self, String), CliError> {
        let token = match &file {
            None => String::new(),
            Some(path) => match std::fs::read_to_string(path) {
                Ok(text) => text.trim().to_owned(),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
                Err(error) => return Err(CliError::failed(format!("cannot read {}: {error}", path.display()))),
            },
        };
        Ok((Self { file, open: VecDeque::new(), next: 0 }, token))
    }

    /// Something is handled from now on; `token` goes on behind it.
    pub(super) fn begin(&mut self, token: String) -> u64 {
        let number = self.next;
        self.next += 1;
        self.open.push_back((number, token, false));
        number
    }

    /// It was handled. The file then says how far everything was.
    ///
    /// # Errors
    /// Where the file cannot be written.
    pub(super) fn done(&mut self, number: u64) -> Result<(), CliError> {
        if let Some(entry) = self.open.iter_mut().find(|entry| entry.0 == number) {
            entry.2 = true;
        }
        let mut reached = None;
        while let Some((_, token, _)) = self.open.pop_front_if(|entry| entry.2) {
            reached = Some(token);
        }
        match (reached, &self.file) {
            // The file holds one token or another, never half of one.
            (Some(token), Some(file)) => private_file::replace(file, &format!("{token}\n"))
                .map_err(|error| CliError::failed(format!("cannot write {}: {error}", file.display()))),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_file_never_runs_ahead_of_what_was_handled() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("cursor");
        let (mut cursor, token) = Cursor::load(Some(file.clone())).unwrap();
        assert_eq!(token, "");
        let numbers: Vec<u64> = ["a", "b", "c"].iter().map(|token| cursor.begin((*token).to_owned())).collect();
        cursor.done(numbers[1]).unwrap();
        assert!(!file.exists());
        cursor.done(numbers[0]).unwrap();
        assert_eq!(Cursor::load(Some(file.clone())).unwrap().1, "b");
        cursor.done(numbers[2]).unwrap();
        assert_eq!(Cursor::load(Some(file)).unwrap().1, "c");
    }
}
