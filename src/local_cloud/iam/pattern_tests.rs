#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use super::*;

fn context(pairs: &[(&str, &[&str])]) -> Context {
    pairs.iter().map(|(key, values)| ((*key).to_owned(), values.iter().map(|v| (*v).to_owned()).collect())).collect()
}

fn glob(pattern: &str, text: &str, wildcards: Wildcards) -> bool {
    Pattern::parse(pattern, wildcards, true).unwrap().matches(text, &Context::new())
}

#[test]
fn escapes_stand_for_themselves() {
    for (pattern, text) in [("a${*}b", "a*b"), ("a${?}b", "a?b"), ("a${$}b", "a$b"), ("${$}{x}", "${x}")] {
        assert!(glob(pattern, text, Wildcards::Anywhere), "{pattern} is {text}");
    }
    assert!(!glob("a${*}b", "axb", Wildcards::Anywhere));
    assert!(!glob("a${?}b", "axb", Wildcards::Anywhere));
}

#[test]
fn defaults_stand_in_for_missing_keys_and_may_hold_any_text() {
    let parse = |text| Pattern::parse(text, Wildcards::Anywhere, true).unwrap();
    assert!(parse("x-${k, 'a, }b*'}").matches("x-a, }b*", &Context::new()));
    assert!(!parse("x-${k, 'a*'}").matches("x-abc", &Context::new()), "a default is literal");
    assert!(parse("x-${k,'d'}").matches("x-v", &context(&[("K", &["v"])])), "a value goes before the default");
}

#[test]
fn malformed_variables_are_named() {
    for bad in ["${", "${x", "a${}b", "${ }", "${k, x}", "${k, 'x}", "${a b}", "${${a}}", "${**}"] {
        assert!(Pattern::parse(bad, Wildcards::Anywhere, true).is_err(), "{bad}");
        assert!(Pattern::parse(bad, Wildcards::Anywhere, false).is_ok(), "{bad} is plain text in 2008-10-17");
    }
}

#[test]
fn several_or_empty_values_are_no_value() {
    let pattern = Pattern::parse("u/${k}/x", Wildcards::Anywhere, true).unwrap();
    assert!(pattern.matches("u/1/x", &context(&[("k", &["1"])])));
    assert!(!pattern.matches("u/1/x", &context(&[("k", &["1", "2"])])));
    assert!(!pattern.matches("u//x", &context(&[("k", &[""])])));
    assert!(!pattern.matches("u//x", &context(&[("k", &[])])));
    assert!(!pattern.matches("u//x", &Context::new()));
}

#[test]
fn resource_wildcards_keep_to_arn_segments_as_documented() {
    let cases = [
        ("*", "arn:aws:s3:::b/k", true),
        ("arn:aws:s3:::b/*", "arn:aws:s3:::b/x:y/z", true),
        ("arn:aws:s3:::*/x", "arn:aws:s3:::b:c/x", true),
        ("arn:aws:s3:::b/a*z", "arn:aws:s3:::b/a:/z", true),
        ("arn:aws:*", "arn:aws:s3:::b/k", true),
        ("arn:aws:s*::b", "arn:aws:s3:::b", true),
        ("arn:aws:s*3:::b", "arn:aws:s3:::b", true),
        ("arn:aws:s*3:::b", "arn:aws:sx:3:::b", false),
        ("arn:aws:sqs:*:1:q", "arn:aws:sqs:eu-west-1:1:q", true),
        ("arn:aws:sqs:?:1:q", "arn:aws:sqs:::1:q", false),
        ("arn:aws:s3:::b/?", "arn:aws:s3:::b/:", true),
        ("arn:aws:s3:::b/k", "arn:aws:s3:::b/K", false),
    ];
    for (pattern, text, expected) in cases {
        assert_eq!(glob(pattern, text, Wildcards::Resource), expected, "{pattern} against {text}");
    }
}

#[test]
fn arn_like_compares_six_components() {
    let cases = [
        ("arn:aws:iam::*:role/*", "arn:aws:iam::1:role/a/b", true),
        ("arn:aws:iam:*", "arn:aws:iam::1:role/a", false),
        ("*", "arn:aws:iam::1:role/a", false),
        ("arn:*:*:*:*:*", "arn:aws:iam::1:role/a:b", true),
        ("arn:aws:sns:*:1:t*", "arn:aws:sns:a:b:1:t", false),
    ];
    for (pattern, text, expected) in cases {
        assert_eq!(glob(pattern, text, Wildcards::Arn), expected, "{pattern} against {text}");
    }
}

#[test]
fn a_pattern_of_many_stars_ends_quickly() {
    let pattern = "*a".repeat(500);
    let text = "a".repeat(499) + &"b".repeat(500);
    assert!(!glob(&pattern, &text, Wildcards::Anywhere));
}

/// The definition, by recursion: slow and obviously right.
fn reference(pattern: &[char], text: &[char]) -> bool {
    match pattern {
        [] => text.is_empty(),
        ['*', rest @ ..] => (0..=text.len()).any(|taken| reference(rest, &text[taken..])),
        ['?', rest @ ..] => !text.is_empty() && reference(rest, &text[1..]),
        [first, rest @ ..] => text.first() == Some(first) && reference(rest, &text[1..]),
    }
}

proptest! {
    #[test]
    fn globs_match_their_definition(pattern in "[ab:*?]{0,8}", text in "[ab:]{0,8}") {
        let expected = reference(&pattern.chars().collect::<Vec<_>>(), &text.chars().collect::<Vec<_>>());
        prop_assert_eq!(glob(&pattern, &text, Wildcards::Anywhere), expected);
    }

    #[test]
    fn a_value_matches_only_itself(value in "[a-z*?${}:/.]{1,12}", other in "[a-z*?${}:/.]{1,12}") {
        let pattern = Pattern::parse("${k}", Wildcards::Anywhere, true).unwrap();
        let context = context(&[("k", &[value.as_str()])]);
        prop_assert!(pattern.matches(&value, &context));
        prop_assert_eq!(pattern.matches(&other, &context), value == other);
    }

    #[test]
    fn reading_a_pattern_never_panics(text in "\\PC{0,40}", variables: bool) {
        if let Ok(pattern) = Pattern::parse(&text, Wildcards::Resource, variables) {
            pattern.matches_ignoring_case(&text, &Context::new());
        }
    }
}
