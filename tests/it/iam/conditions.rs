//! Every condition operator with its prefixes and its suffix, and what a missing key means for it.

use serde_json::{Value, json};

use super::{Allow, Case, Decision, ExplicitDeny, ImplicitDeny};

/// An allow of everything under one condition block.
fn when(why: &'static str, expect: Decision, condition: Value) -> Case {
    Case::new(why, expect, json!({ "Effect": "Allow", "Action": "*", "Resource": "*", "Condition": condition }))
}

/// The same for one operator on the key `k`.
fn op(why: &'static str, holds: bool, operator: &str, value: Value, given: &[&'static str]) -> Case {
    let case = when(why, if holds { Allow } else { ImplicitDeny }, json!({ operator: { "k": value } }));
    if given.is_empty() { case } else { case.with("k", given) }
}

pub(super) fn cases() -> Vec<Case> {
    let mut cases = logic();
    cases.extend(strings());
    cases.extend(sets());
    cases.extend(typed());
    cases
}

fn logic() -> Vec<Case> {
    let both = || json!({ "StringEquals": { "a": "1", "b": "2" } });
    let operators = || json!({ "StringEquals": { "a": "1" }, "Bool": { "b": true } });
    vec![
        when("keys are joined by AND", Allow, both()).with("a", &["1"]).with("b", &["2"]),
        when("so one that fails is enough", ImplicitDeny, both()).with("a", &["1"]).with("b", &["1"]),
        when("operators are joined by AND", Allow, operators()).with("a", &["1"]).with("b", &["true"]),
        when("so one that fails is enough here too", ImplicitDeny, operators()).with("a", &["1"]).with("b", &["false"]),
        op("values are joined by OR", true, "StringEquals", json!(["1", "2"]), &["2"]),
        op("those of a negated operator by NOR", false, "StringNotEquals", json!(["1", "2"]), &["2"]),
        op("none of them equal", true, "StringNotEquals", json!(["1", "2"]), &["3"]),
        op("an empty list matches nothing", false, "StringEquals", json!([]), &["1"]),
        when("an empty block is no condition", Allow, json!({})),
        when("a key is found in any case", Allow, json!({ "StringEquals": { "AWS:userName": "ann" } }))
            .with("aws:username", &["ann"]),
        Case::new(
            "a deny whose condition fails does not deny",
            Allow,
            json!([
                { "Effect": "Allow", "Action": "*", "Resource": "*" },
                { "Effect": "Deny", "Action": "*", "Resource": "*", "Condition": { "Bool": { "k": "true" } } },
            ]),
        ),
        Case::new(
            "a deny by a negated operator hits when the key is missing",
            ExplicitDeny,
            json!([
                { "Effect": "Allow", "Action": "*", "Resource": "*" },
                { "Effect": "Deny", "Action": "*", "Resource": "*", "Condition": { "StringNotEquals": { "k": "x" } } },
            ]),
        ),
        op("several values without a set operator: any may match", true, "StringEquals", json!("x"), &["y", "x"]),
        op("and none may for a negated one", false, "StringNotEquals", json!("x"), &["y", "x"]),
    ]
}

fn strings() -> Vec<Case> {
    vec![
        op("StringEquals has case", false, "StringEquals", json!("Ann"), &["ann"]),
        op("a star in StringEquals is text", false, "StringEquals", json!("a*"), &["ann"]),
        op("and equals itself", true, "StringEquals", json!("a*"), &["a*"]),
        op("StringEquals without the key", false, "StringEquals", json!("x"), &[]),
        op("StringNotEquals without the key", true, "StringNotEquals", json!("x"), &[]),
        op("StringEqualsIgnoreCase", true, "StringEqualsIgnoreCase", json!("ÄNN"), &["änn"]),
        op("StringNotEqualsIgnoreCase", false, "StringNotEqualsIgnoreCase", json!("ANN"), &["ann"]),
        op("StringLike with a star", true, "StringLike", json!("a*n"), &["aXYZn"]),
        op("StringLike with a question mark", false, "StringLike", json!("a?n"), &["an"]),
        op("StringLike has case", false, "StringLike", json!("A*"), &["ann"]),
        op("StringLike spans slashes and colons", true, "StringLike", json!("a*z"), &["a/b:c/z"]),
        op("StringNotLike", false, "StringNotLike", json!(["x*", "a*"]), &["ann"]),
        op("StringNotLike without the key", true, "StringNotLike", json!("a*"), &[]),
        op("a number in the policy is compared as text", true, "StringEquals", json!(5), &["5"]),
        op("a variable in a condition", true, "StringEquals", json!("${other}"), &["same"]).with("other", &["same"]),
        op("a variable without a value equals nothing", false, "StringEquals", json!("${other}"), &["same"]),
        op("not even the empty text", false, "StringLike", json!("${other}*"), &["same"]),
        op("so a negated operator holds", true, "StringNotEquals", json!("${other}"), &["same"]),
        op("a star in a variable's value is text", false, "StringLike", json!("${other}"), &["same"])
            .with("other", &["s*"]),
        op("beside it a star of the policy works", true, "StringLike", json!("${other}*"), &["s*me"])
            .with("other", &["s*"]),
        op(
            "ArnEquals takes wildcards as ArnLike does",
            true,
            "ArnEquals",
            json!("arn:aws:iam::*:role/*"),
            &["arn:aws:iam::123456789012:role/Free"],
        ),
        op(
            "ArnLike compares segment by segment",
            false,
            "ArnLike",
            json!("arn:aws:iam:*:role/Free"),
            &["arn:aws:iam::123456789012:role/Free"],
        ),
        op(
            "the last segment may hold colons",
            true,
            "ArnLike",
            json!("arn:aws:sns:*:*:t:*"),
            &["arn:aws:sns:eu-west-1:123456789012:t:1:2"],
        ),
        op(
            "ArnLike has case",
            false,
            "ArnLike",
            json!("arn:aws:iam::*:role/free"),
            &["arn:aws:iam::123456789012:role/Free"],
        ),
        op(
            "ArnNotLike",
            false,
            "ArnNotLike",
            json!("arn:aws:iam::*:role/F*"),
            &["arn:aws:iam::123456789012:role/Free"],
        ),
        op("ArnNotEquals without the key", true, "ArnNotEquals", json!("arn:aws:iam::*:role/F*"), &[]),
        op("IfExists without the key", true, "StringEqualsIfExists", json!("x"), &[]),
        op("IfExists with another value", false, "StringEqualsIfExists", json!("x"), &["y"]),
        op("IfExists with the value", true, "StringLikeIfExists", json!("x*"), &["xy"]),
        op("IfExists on a negated operator", false, "StringNotEqualsIfExists", json!("x"), &["x"]),
    ]
}

fn sets() -> Vec<Case> {
    vec![
        op("ForAnyValue: one in common", true, "ForAnyValue:StringEquals", json!(["a", "b"]), &["x", "b"]),
        op("ForAnyValue: none in common", false, "ForAnyValue:StringEquals", json!(["a", "b"]), &["x", "y"]),
        op("ForAnyValue without the key", false, "ForAnyValue:StringEquals", json!("a"), &[]),
        op("ForAnyValue on a null set", false, "ForAnyValue:StringLike", json!("*"), &[""]),
        op("ForAnyValue with IfExists without the key", true, "ForAnyValue:StringEqualsIfExists", json!("a"), &[]),
        op(
            "ForAnyValue negated: one that is none of them",
            true,
            "ForAnyValue:StringNotEquals",
            json!(["a", "b"]),
            &["a", "x"],
        ),
        op(
            "ForAnyValue negated: all are among them",
            false,
            "ForAnyValue:StringNotEquals",
            json!(["a", "b"]),
            &["a", "b"],
        ),
        op("ForAnyValue negated without the key", false, "ForAnyValue:StringNotEquals", json!("a"), &[]),
        op("ForAllValues: all are among them", true, "ForAllValues:StringEquals", json!(["a", "b", "c"]), &["a", "b"]),
        op("ForAllValues: one is not", false, "ForAllValues:StringEquals", json!(["a", "b"]), &["a", "x"]),
        op("ForAllValues without the key holds: the trap", true, "ForAllValues:StringEquals", json!("a"), &[]),
        op("ForAllValues on a null set holds too", true, "ForAllValues:StringEquals", json!("a"), &[""]),
        op(
            "ForAllValues negated: none is among them",
            true,
            "ForAllValues:StringNotLike",
            json!(["a*", "b*"]),
            &["x", "y"],
        ),
        op("ForAllValues negated: one is", false, "ForAllValues:StringNotLike", json!(["a*", "b*"]), &["x", "ay"]),
        op("ForAllValues on one value", true, "ForAllValues:StringLike", json!("a*"), &["ab"]),
        op("ForAllValues:Bool", false, "ForAllValues:Bool", json!("true"), &["true", "false"]),
        when(
            "Null false beside ForAllValues closes the trap",
            ImplicitDeny,
            json!({ "ForAllValues:StringEquals": { "k": "a" }, "Null": { "k": "false" } }),
        ),
        when(
            "and lets those through that have the key",
            Allow,
            json!({ "ForAllValues:StringEquals": { "k": "a" }, "Null": { "k": "false" } }),
        )
        .with("k", &["a"]),
    ]
}

fn typed() -> Vec<Case> {
    vec![
        op("Null true: the key has to be missing", true, "Null", json!("true"), &[]),
        op("Null true with the key", false, "Null", json!(true), &["x"]),
        op("Null false: it has to be there", true, "Null", json!("false"), &["x"]),
        op("Null false without it", false, "Null", json!(false), &[]),
        op("NumericEquals compares numbers, not texts", true, "NumericEquals", json!("10"), &["10.0"]),
        op("NumericNotEquals", true, "NumericNotEquals", json!(10), &["11"]),
        op("NumericNotEquals without the key", true, "NumericNotEquals", json!(10), &[]),
        op("NumericLessThan: 9 is less than 10", true, "NumericLessThan", json!("10"), &["9"]),
        op("NumericLessThan is strict", false, "NumericLessThan", json!("10"), &["10"]),
        op("NumericLessThanEquals", true, "NumericLessThanEquals", json!("10"), &["10"]),
        op(
            "NumericGreaterThan with several: above one is enough",
            true,
            "NumericGreaterThan",
            json!(["10", "100"]),
            &["50"],
        ),
        op("NumericGreaterThanEquals below zero", true, "NumericGreaterThanEquals", json!(-5), &["-4.5"]),
        op("a value that is no number matches nothing", false, "NumericLessThan", json!("10"), &["few"]),
        op("so a negated operator holds", true, "NumericNotEquals", json!("10"), &["few"]),
        op("NumericLessThanIfExists without the key", true, "NumericLessThanIfExists", json!(5), &[]),
        op("DateGreaterThan", true, "DateGreaterThan", json!("2026-11-30T00:00:00Z"), &["2026-11-30T00:00:01Z"]),
        op(
            "dates are compared as moments, whatever their zone",
            true,
            "DateEquals",
            json!("2026-11-30T12:00:00Z"),
            &["2026-11-30T13:00:00+01:00"],
        ),
        op("epoch seconds are dates too", true, "DateLessThan", json!(1_796_042_096), &["2026-11-30T12:34:55Z"]),
        op("a day is its beginning", true, "DateLessThanEquals", json!("2026-11-30"), &["2026-11-30T00:00:00Z"]),
        op("DateNotEquals", false, "DateNotEquals", json!("2026-11-30"), &["2026-11-30T00:00Z"]),
        op("DateGreaterThanEquals on what is no date", false, "DateGreaterThanEquals", json!("2026-11-30"), &["today"]),
        op("Bool takes a boolean or its text", true, "Bool", json!(true), &["TRUE"]),
        op("Bool without the key", false, "Bool", json!("false"), &[]),
        op("BoolIfExists without the key", true, "BoolIfExists", json!("true"), &[]),
        op("BoolIfExists with the other value", false, "BoolIfExists", json!("true"), &["false"]),
        op("BinaryEquals compares the bytes", true, "BinaryEquals", json!("aGVsbG8="), &["aGVsbG8="]),
        op("Base64 has case", false, "BinaryEquals", json!("aGVsbG8="), &["AGVSBG8="]),
        op("IpAddress in a range", true, "IpAddress", json!("203.0.113.0/24"), &["203.0.113.77"]),
        op("IpAddress outside of it", false, "IpAddress", json!("203.0.113.0/24"), &["203.0.114.1"]),
        op("an address alone is a range of one", false, "IpAddress", json!("203.0.113.7"), &["203.0.113.8"]),
        op(
            "one of several ranges, of version 6",
            true,
            "IpAddress",
            json!(["10.0.0.0/8", "2001:db8::/32"]),
            &["2001:db8:1::1"],
        ),
        op("a version 4 range holds no version 6 address", false, "IpAddress", json!("0.0.0.0/0"), &["::1"]),
        op("NotIpAddress", false, "NotIpAddress", json!(["10.0.0.0/8", "192.168.0.0/16"]), &["192.168.1.1"]),
        op("NotIpAddress without the key", true, "NotIpAddress", json!("10.0.0.0/8"), &[]),
        op("what is no address is in no range", false, "IpAddress", json!("0.0.0.0/0"), &["here"]),
    ]
}
