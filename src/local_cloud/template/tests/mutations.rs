//! Whatever the input, the loader answers: it never panics, and never runs away.

use proptest::prelude::*;

use super::*;

/// Texts that mean something to a template, put where they do not belong.
const PIECES: [&str; 24] = [
    "!Ref UserPool",
    "!GetAtt Bucket.Arn",
    "!Sub ${",
    "!Sub ${Bucket.Arn}",
    "!If [GuestsAllowed, 1, 2]",
    "!Join",
    "{",
    "}",
    "[",
    "]",
    ": ",
    "\n",
    "  ",
    "- ",
    "&a ",
    "*a",
    "<<: *a",
    "null",
    "~",
    "!!binary",
    "\u{0}",
    "é",
    "\"",
    "${!x}",
];

fn mutate(mut text: Vec<char>, edits: &[(usize, usize, usize)]) -> String {
    for (at, remove, piece) in edits {
        let at = at % (text.len() + 1);
        let end = (at + remove).min(text.len());
        let insert = PIECES.get(*piece).copied().unwrap_or_default();
        text.splice(at..end, insert.chars());
    }
    text.into_iter().collect()
}

/// Replaces one value anywhere in a JSON tree.
fn replace_nth(value: &mut Value, nth: &mut usize, with: &Value) -> bool {
    if *nth == 0 {
        *value = with.clone();
        return true;
    }
    *nth -= 1;
    match value {
        Value::Array(items) => items.iter_mut().any(|item| replace_nth(item, nth, with)),
        Value::Object(entries) => entries.values_mut().any(|entry| replace_nth(entry, nth, with)),
        _ => false,
    }
}

fn odd_value() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::Null),
        Just(json!([])),
        Just(json!({})),
        Just(json!({ "Ref": "UserPool" })),
        Just(json!({ "Ref": "Nobody" })),
        Just(json!({ "Ref": "AWS::NoValue" })),
        Just(json!({ "Fn::GetAtt": ["PaidTierRole", "Arn"] })),
        Just(json!({ "Fn::Sub": "${PaidTierRole}${AWS::Region}${!x}" })),
        Just(json!({ "Fn::If": ["GuestsAllowed", { "Ref": "GuestRole" }, "x"] })),
        Just(json!({ "Fn::Select": [3, { "Fn::Split": [",", "a,b"] }] })),
        Just(json!({ "Fn::Join": ["", [{ "Ref": "AppName" }, 1, true]] })),
        any::<i64>().prop_map(Value::from),
        any::<bool>().prop_map(Value::from),
        "\\PC{0,12}".prop_map(Value::from),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn edited_text_never_panics(
        edits in prop::collection::vec((any::<usize>(), 0_usize..40, 0_usize..30), 1..6),
    ) {
        let text = mutate(built_in().chars().collect(), &edits);
        let _ = load(&text, &Options::default());
    }

    #[test]
    fn replaced_values_never_panic_and_errors_say_where(nth in 0_usize..700, with in odd_value()) {
        let mut json = long_forms(serde_norway::from_str(built_in()).unwrap());
        replace_nth(&mut json, &mut nth.clone(), &with);
        if let Err(error) = load(&json.to_string(), &Options::default()) {
            prop_assert!(error.to_string().len() > 10, "{error}");
        }
    }

    #[test]
    fn any_text_never_panics(text in "\\PC{0,200}") {
        let _ = load(&text, &Options::default());
    }

    #[test]
    fn any_parameters_never_panic(name in "[A-Za-z]{1,12}", value in "\\PC{0,30}", known in 0_usize..10) {
        let names = ["AppName", "BucketName", "AbortIncompleteUploadsAfterDays", "PasswordMinimumLength",
            "RefreshTokenValidityDays", "UsersWithoutGroup", "AllowGuests",
            "SecondFactor", "RememberDevices", "SignInByMailedCode"];
        let _ = load(built_in(), &options(&[(&name, &value)]));
        let _ = load(built_in(), &options(&[(names[known], &value)]));
    }
}

#[test]
fn deep_and_repeating_input_is_refused_not_followed() {
    let deep = format!("Resources: {}x{}", "[".repeat(5000), "]".repeat(5000));
    assert!(matches!(load(&deep, &Options::default()), Err(TemplateError::Syntax { .. })));
    let deep_json = format!("{{\"Resources\": {}1{}}}", "[".repeat(5000), "]".repeat(5000));
    assert!(matches!(load(&deep_json, &Options::default()), Err(TemplateError::Syntax { .. })));

    let mut laughs = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
    for level in 1..12 {
        let before = format!("*a{}, ", level - 1).repeat(10);
        laughs.push_str(&format!("a{level}: &a{level} [{before}]\n"));
    }
    laughs.push_str("Resources: *a11\n");
    assert!(load(&laughs, &Options::default()).is_err());

    let chain: String = (0..400).map(|n| format!("  C{n}: !Condition C{}\n", n + 1)).collect();
    let template =
        format!("Conditions:\n{chain}  C400: !Equals [a, a]\nResources:\n  B: {{ Type: AWS::S3::Bucket }}\n");
    assert!(matches!(load(&template, &Options::default()), Err(TemplateError::TooLarge { limit: 32, .. })));

    let huge = format!("Description: {}\n", "x".repeat(1_000_001));
    assert!(matches!(load(&huge, &Options::default()), Err(TemplateError::TooLarge { .. })));
    let many: String = (0..501).map(|n| format!("  B{n}: {{ Type: AWS::S3::Bucket }}\n")).collect();
    assert!(matches!(load(&format!("Resources:\n{many}"), &Options::default()), Err(TemplateError::TooLarge { .. })));
}
