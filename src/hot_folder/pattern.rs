//! Which files a hot folder takes, by their names: pure. `*` and `?` stand for characters of one name, `**` for any
//! folders; a pattern without `/` is for the name alone. Upper and lower case are the same.

/// Some patterns.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Patterns(Vec<Pattern>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Pattern {
    name_only: bool,
    segments: Vec<Vec<char>>,
}

impl Patterns {
    /// Reads patterns.
    ///
    /// # Errors
    /// What is wrong with the first one that cannot be used.
    pub fn parse(texts: &[String]) -> Result<Self, String> {
        texts.iter().map(|text| Pattern::parse(text)).collect::<Result<_, _>>().map(Self)
    }

    /// True where there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// True where one of them fits the path beneath the folder.
    pub fn fit(&self, relative: &str) -> bool {
        let segments: Vec<Vec<char>> = relative.split('/').map(folded).collect();
        self.0.iter().any(|pattern| pattern.fits(&segments))
    }
}

impl Pattern {
    fn parse(text: &str) -> Result<Self, String> {
        if let Some(odd) = text.chars().find(|c| "[]{}\\!".contains(*c)) {
            return Err(format!("{text:?} has {odd:?}: patterns know *, ? and **"));
        }
        let (text_of_folder, whole) = match text.strip_suffix('/') {
            Some(folder) => (folder, true),
            None => (text, false),
        };
        let mut segments: Vec<Vec<char>> = text_of_folder.split('/').map(folded).collect();
        if segments.iter().any(Vec::is_empty) {
            return Err(format!("{text:?} is empty between slashes: patterns start beneath the folder, without /"));
        }
        if whole {
            segments.push(vec!['*', '*']);
        }
        Ok(Self { name_only: segments.len() == 1, segments })
    }

    fn fits(&self, path: &[Vec<char>]) -> bool {
        if self.name_only {
            return path.last().is_some_and(|name| segment_fits(&self.segments[0], name));
        }
        path_fits(&self.segments, path)
    }
}

fn folded(text: &str) -> Vec<char> {
    text.chars().flat_map(char::to_lowercase).collect()
}

fn path_fits(pattern: &[Vec<char>], path: &[Vec<char>]) -> bool {
    match pattern.split_first() {
        None => path.is_empty(),
        Some((first, rest)) if *first == ['*', '*'] => (0..=path.len()).any(|skip| path_fits(rest, &path[skip..])),
        Some((first, rest)) => {
            path.split_first().is_some_and(|(name, inner)| segment_fits(first, name) && path_fits(rest, inner))
        }
    }
}

/// Goes back to the last `*` only: linear in practice, at most the product of the lengths.
fn segment_fits(pattern: &[char], name: &[char]) -> bool {
    let (mut at, mut pos, mut star) = (0, 0, None);
    while pos < name.len() {
        match pattern.get(at) {
            Some('*') => {
                star = Some((at, pos));
                at += 1;
            }
            Some(c) if *c == '?' || *c == name[pos] => {
                at += 1;
                pos += 1;
            }
            _ => {
                let Some((star_at, taken)) = star else { return false };
                star = Some((star_at, taken + 1));
                (at, pos) = (star_at + 1, taken + 1);
            }
        }
    }
    pattern[at..].iter().all(|c| *c == '*')
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    fn fit(pattern: &str, path: &str) -> bool {
        Patterns::parse(&[pattern.to_owned()]).unwrap().fit(path)
    }

    #[test]
    fn patterns_fit_what_people_mean() {
        for (pattern, path) in [
            ("*.jpg", "cat.JPG"),
            ("*.jpg", "a/b/cat.jpg"),
            ("*", ""),
            ("img_????.*", "IMG_0001.jpg"),
            ("a/*.jpg", "a/cat.jpg"),
            ("**/raw/*", "raw/x"),
            ("**/raw/*", "a/b/raw/x"),
            ("cache/", "cache/a/b"),
            ("*a*b*", "xxaxxbxx"),
        ] {
            assert!(fit(pattern, path), "{pattern} {path}");
        }
        for (pattern, path) in [
            ("*.jpg", "cat.jpg.part"),
            ("a/*.jpg", "a/b/cat.jpg"),
            ("a/*.jpg", "cat.jpg"),
            ("img_????", "img_123"),
            ("*a*b*", "xxbxxa"),
            ("cache/", "cache2/x"),
        ] {
            assert!(!fit(pattern, path), "{pattern} {path}");
        }
        for bad in ["*.{jpg,png}", "[ab]", "/abs", "a//b", ""] {
            assert!(Patterns::parse(&[bad.to_owned()]).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn a_name_fits_itself_and_a_star_fits_all(name in "[a-zA-Z0-9._ -]{1,30}", at in 0_usize..30) {
            prop_assert!(fit(&name, &name));
            let at = at.min(name.len());
            let with_star = format!("{}*{}", &name[..at], &name[at..]);
            prop_assert!(fit(&with_star, &name));
            prop_assert!(fit("*", &name));
        }
    }
}
