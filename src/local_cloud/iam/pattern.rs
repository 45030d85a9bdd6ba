//! Text with wildcards and policy variables, and how it matches.
//!
//! Owns the syntax of `*`, `?` and `${…}`. Promises linear memory and at most pattern × text steps for any input, so no
//! policy can stall the evaluator. Must never treat a substituted value as a pattern.

use super::{Context, lookup};

/// Which rule the wildcards of a pattern follow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wildcards {
    /// There are none: `*` and `?` are themselves.
    None,
    /// `*` matches anything: actions and `StringLike`.
    Anywhere,
    /// A resource: in the first five segments of the ARN a wildcard stays within its segment, except a `*` that ends
    /// it; in the last segment, which may hold colons itself, `*` matches anything.
    Resource,
    /// `ArnLike`: the six components are compared one by one.
    Arn,
}

/// A parsed pattern.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Pattern {
    pieces: Vec<Piece>,
    wildcards: Wildcards,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Piece {
    Literal(char),
    Many,
    One,
    Variable { key: String, default: Option<String> },
}

/// A pattern after substitution, one step of matching each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Exactly(char),
    Many { colons: bool },
    One { colons: bool },
}

/// How many colons an ARN has before its resource part.
const ARN_COLONS: usize = 5;

impl Pattern {
    /// Reads a pattern; `variables` is false for documents of version 2008-10-17, where `${` is plain text.
    ///
    /// # Errors
    /// Says what is wrong with a `${…}`.
    pub(super) fn parse(text: &str, wildcards: Wildcards, variables: bool) -> Result<Self, String> {
        let mut pieces = Vec::with_capacity(text.len());
        let mut rest = text;
        while let Some(first) = rest.chars().next() {
            if variables && let Some(inner) = rest.strip_prefix("${") {
                let end =
                    variable_end(inner).ok_or_else(|| format!("`{rest}` opens a policy variable without `}}`"))?;
                pieces.push(parse_variable(&inner[..end])?);
                rest = &inner[end + 1..];
                continue;
            }
            rest = &rest[first.len_utf8()..];
            pieces.push(match first {
                '*' if wildcards != Wildcards::None => Piece::Many,
                '?' if wildcards != Wildcards::None => Piece::One,
                other => Piece::Literal(other),
            });
        }
        Ok(Self { pieces, wildcards })
    }

    /// True where the whole text matches. A variable that has no value, or several, makes it false.
    pub(super) fn matches(&self, text: &str, context: &Context) -> bool {
        self.resolve(context).is_some_and(|steps| run(&steps, text.chars()))
    }

    /// As [`Self::matches`], without regard to case.
    pub(super) fn matches_ignoring_case(&self, text: &str, context: &Context) -> bool {
        let Some(steps) = self.resolve(context) else { return false };
        let mut folded = Vec::with_capacity(steps.len());
        for step in steps {
            match step {
                Step::Exactly(character) => folded.extend(character.to_lowercase().map(Step::Exactly)),
                other => folded.push(other),
            }
        }
        run(&folded, text.chars().flat_map(char::to_lowercase))
    }

    fn resolve(&self, context: &Context) -> Option<Vec<Step>> {
        let everything = matches!(self.pieces.as_slice(), [Piece::Many]) && self.wildcards == Wildcards::Resource;
        let mut steps = Vec::with_capacity(self.pieces.len());
        let mut colons_seen = 0_usize;
        for (index, piece) in self.pieces.iter().enumerate() {
            let in_resource_part = match self.wildcards {
                Wildcards::None | Wildcards::Anywhere => true,
                Wildcards::Resource | Wildcards::Arn => everything || colons_seen >= ARN_COLONS,
            };
            match piece {
                Piece::Literal(character) => {
                    colons_seen += usize::from(*character == ':');
                    steps.push(Step::Exactly(*character));
                }
                Piece::Many => {
                    let ends_segment = matches!(self.pieces.get(index + 1), None | Some(Piece::Literal(':')));
                    let colons = in_resource_part || (self.wildcards == Wildcards::Resource && ends_segment);
                    // Two stars in a row are one, and cost twice.
                    if steps.last() != Some(&Step::Many { colons }) {
                        steps.push(Step::Many { colons });
                    }
                }
                Piece::One => steps.push(Step::One { colons: in_resource_part }),
                Piece::Variable { key, default } => {
                    let value = single_value(context, key).or(default.as_deref())?;
                    if self.wildcards == Wildcards::Arn {
                        // The components are counted in the finished ARN, so a value may hold several of them.
                        colons_seen += value.matches(':').count();
                    }
                    steps.extend(value.chars().map(Step::Exactly));
                }
            }
        }
        Some(steps)
    }
}

/// A variable stands for exactly one value that is not empty.
fn single_value<'c>(context: &'c Context, key: &str) -> Option<&'c str> {
    match lookup(context, key)? {
        [value] if !value.is_empty() => Some(value),
        _ => None,
    }
}

/// Where the variable ends: at the first `}` that is not within the quotes of its default.
fn variable_end(inner: &str) -> Option<usize> {
    let mut quoted = false;
    for (index, character) in inner.char_indices() {
        match character {
            '\'' => quoted = !quoted,
            '}' if !quoted => return Some(index),
            _ => {}
        }
    }
    None
}

fn parse_variable(inner: &str) -> Result<Piece, String> {
    if let "*" | "?" | "$" = inner {
        return Ok(Piece::Literal(inner.chars().next().unwrap_or('$')));
    }
    let (key, default) = match inner.split_once(',') {
        None => (inner.trim(), None),
        Some((key, default)) => {
            let default = default.trim();
            let quoted = default.strip_prefix('\'').and_then(|rest| rest.strip_suffix('\''));
            let quoted = quoted.ok_or_else(|| {
                format!("the default of `${{{inner}}}` has to stand in single quotes: `${{key, 'x'}}`")
            })?;
            (key.trim(), Some(quoted.to_owned()))
        }
    };
    if key.is_empty() || key.contains(|c: char| c.is_whitespace() || matches!(c, '{' | '}' | '*' | '?' | '\'')) {
        return Err(format!("`${{{inner}}}` does not name a condition key"));
    }
    Ok(Piece::Variable { key: key.to_owned(), default })
}

/// Matches by keeping the set of steps that can be reached, one pass over the text.
fn run(steps: &[Step], text: impl Iterator<Item = char>) -> bool {
    let mut reached = vec![false; steps.len() + 1];
    let mut next = vec![false; steps.len() + 1];
    reached[0] = true;
    skip_empty_stars(steps, &mut reached);
    for character in text {
        next.fill(false);
        let mut alive = false;
        for (index, step) in steps.iter().enumerate().filter(|(index, _)| reached[*index]) {
            let to = match *step {
                Step::Exactly(expected) if expected == character => index + 1,
                Step::One { colons } if colons || character != ':' => index + 1,
                Step::Many { colons } if colons || character != ':' => index,
                _ => continue,
            };
            next[to] = true;
            alive = true;
        }
        if !alive {
            return false;
        }
        skip_empty_stars(steps, &mut next);
        std::mem::swap(&mut reached, &mut next);
    }
    reached[steps.len()]
}

/// A star also matches nothing at all.
fn skip_empty_stars(steps: &[Step], reached: &mut [bool]) {
    for (index, step) in steps.iter().enumerate() {
        if reached[index] && matches!(step, Step::Many { .. }) {
            reached[index + 1] = true;
        }
    }
}

#[cfg(test)]
#[path = "pattern_tests.rs"]
mod tests;
