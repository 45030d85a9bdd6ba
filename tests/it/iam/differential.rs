//! The evaluator against an independent one, on random policies and requests.
//!
//! The other one (iam-rs) is right about what is drawn here. Left out is where it differs from AWS: variables without a
//! value and wildcards inside values (it substitutes text into patterns), documents of 2008 (it substitutes there too),
//! variables in conditions (it has none), `ArnEquals` with wildcards (it takes them literally), `ArnLike` (its star
//! crosses segments), set operators on empty texts, negated operators on several values without a set operator, a `*` in
//! a compared text, wildcards in the ARN's service, NotPrincipal and accounts in `Principal`.

use std::collections::BTreeMap;

use proptest::prelude::*;
use proptest::strategy::ValueTree as _;
use serde_json::{Map, Value, json};
use tidegate::local_cloud::iam::{Context, Decision, Policy, Request, RequestPrincipal, evaluate};

const USER: &str = "arn:aws:iam::123456789012:user/ann";

/// A value that texts are drawn from, small enough that matches happen.
fn word() -> impl Strategy<Value = String> {
    "[abAB/:]{1,3}"
}

fn pattern() -> impl Strategy<Value = String> {
    "[abAB/:*?]{1,4}"
}

fn one_or_more(item: impl Strategy<Value = Value> + 'static) -> BoxedStrategy<Value> {
    let item = item.boxed();
    prop_oneof![item.clone(), prop::collection::vec(item, 1..4).prop_map(Value::from)].boxed()
}

fn action() -> BoxedStrategy<Value> {
    let names = prop::sample::select(vec![
        "*",
        "s3:*",
        "s3:PutObject",
        "S3:putobject",
        "s3:Put*",
        "s3:?etObject",
        "s3:GetObject",
        "sts:*",
        "s3:*Object*",
    ]);
    one_or_more(names.prop_map(Value::from))
}

fn resource() -> BoxedStrategy<Value> {
    let object = prop_oneof![
        2 => pattern().prop_map(|key| format!("arn:aws:s3:::b/{key}")),
        1 => pattern().prop_map(|key| format!("arn:aws:s3:::b/${{user}}/{key}")),
        1 => Just("arn:aws:s3:::b/*".to_owned()),
        1 => Just("*".to_owned()),
        1 => pattern().prop_map(|name| format!("arn:aws:s3:::{}", name.replace([':', '/'], "b"))),
    ];
    one_or_more(object.prop_map(Value::from))
}

/// An operator on a key, with values of its type. Keys: s and t are texts, m several texts, n a number, d a date, f a flag,
/// i an address; each may be missing.
fn condition() -> BoxedStrategy<(String, String, Value)> {
    let texts = prop::sample::select(vec![
        "StringEquals",
        "StringNotEquals",
        "StringEqualsIgnoreCase",
        "StringNotEqualsIgnoreCase",
        "StringLike",
        "StringNotLike",
    ]);
    let orders = prop::sample::select(vec![
        "Equals",
        "NotEquals",
        "LessThan",
        "LessThanEquals",
        "GreaterThan",
        "GreaterThanEquals",
    ]);
    let if_exists = prop::sample::select(vec!["", "IfExists"]);
    let plain_text = (
        texts.clone(),
        if_exists.clone(),
        prop::sample::select(vec!["s", "t"]),
        one_or_more(pattern().prop_map(Value::from)),
    )
        .prop_map(|(operator, suffix, key, values)| (format!("{operator}{suffix}"), key.to_owned(), values));
    let set = (
        prop::sample::select(vec!["ForAnyValue", "ForAllValues"]),
        texts,
        one_or_more(pattern().prop_map(Value::from)),
    )
        .prop_map(|(set, operator, values)| (format!("{set}:{operator}"), "m".to_owned(), values));
    let number = (orders.clone(), if_exists.clone(), one_or_more((-2_i64..3).prop_map(|n| Value::from(n.to_string()))))
        .prop_map(|(order, suffix, values)| (format!("Numeric{order}{suffix}"), "n".to_owned(), values));
    let date = (orders, if_exists.clone(), one_or_more(moment().prop_map(Value::from)))
        .prop_map(|(order, suffix, values)| (format!("Date{order}{suffix}"), "d".to_owned(), values));
    let flag = (if_exists.clone(), any::<bool>())
        .prop_map(|(suffix, value)| (format!("Bool{suffix}"), "f".to_owned(), Value::from(value)));
    let ranges =
        prop::sample::select(vec!["10.0.0.0/8", "10.1.0.0/16", "10.1.2.3", "0.0.0.0/0", "2001:db8::/32", "::/0"]);
    let address =
        (prop::sample::select(vec!["IpAddress", "NotIpAddress"]), if_exists, one_or_more(ranges.prop_map(Value::from)))
            .prop_map(|(operator, suffix, values)| (format!("{operator}{suffix}"), "i".to_owned(), values));
    let null = (prop::sample::select(vec!["s", "m", "n", "user"]), any::<bool>())
        .prop_map(|(key, value)| ("Null".to_owned(), key.to_owned(), Value::from(value)));
    prop_oneof![3 => plain_text, 3 => set, 1 => number, 1 => date, 1 => flag, 1 => address, 1 => null].boxed()
}

fn moment() -> impl Strategy<Value = String> {
    prop::sample::select(vec![
        "1796042096",
        "2026-11-30T12:34:56Z",
        "2026-11-30T13:34:56+01:00",
        "2026-11-30T12:34:57Z",
        "0",
    ])
    .prop_map(str::to_owned)
}

fn statement() -> impl Strategy<Value = Value> {
    let conditions = prop::collection::vec(condition(), 0..3);
    let parts = (any::<bool>(), any::<bool>(), action(), any::<bool>(), resource(), conditions);
    parts.prop_map(|(deny, not_action, action, not_resource, resource, conditions)| {
        let mut statement = Map::new();
        statement.insert("Effect".to_owned(), json!(if deny { "Deny" } else { "Allow" }));
        statement.insert(if not_action { "NotAction" } else { "Action" }.to_owned(), action);
        statement.insert(if not_resource { "NotResource" } else { "Resource" }.to_owned(), resource);
        let mut block: BTreeMap<String, Map<String, Value>> = BTreeMap::new();
        for (operator, key, values) in conditions {
            block.entry(operator).or_default().insert(key, values);
        }
        if !block.is_empty() {
            statement.insert("Condition".to_owned(), json!(block));
        }
        Value::Object(statement)
    })
}

fn context() -> impl Strategy<Value = Context> {
    let text = || prop::option::weighted(0.8, word().prop_map(|word| vec![word]));
    let of = |values: Vec<&'static str>| prop::option::weighted(0.8, prop::sample::select(values));
    let several = prop::option::weighted(0.8, prop::collection::vec(word(), 1..4));
    let user = "[abAB]{1,2}";
    let moments = of(vec!["1796042096", "2026-11-30T12:34:56Z", "2026-11-30T12:34:57.5Z"]);
    let parts = (
        (text(), text(), several, user),
        (of(vec!["-1", "0", "1", "1.5"]), moments, of(vec!["true", "false"])),
        of(vec!["10.1.2.3", "10.9.9.9", "192.0.2.1", "2001:db8::1"]),
    );
    parts.prop_map(|((s, t, m, user), (n, d, f), i)| {
        let mut context = Context::from([("user".to_owned(), vec![user])]);
        for (key, values) in [("s", s), ("t", t), ("m", m)] {
            context.extend(values.map(|values| (key.to_owned(), values)));
        }
        for (key, value) in [("n", n), ("d", d), ("f", f), ("i", i)] {
            context.extend(value.map(|value| (key.to_owned(), vec![value.to_owned()])));
        }
        context
    })
}

fn requested_resource() -> impl Strategy<Value = String> {
    prop_oneof![
        3 => word().prop_map(|key| format!("arn:aws:s3:::b/{key}")),
        2 => ("[abAB]{1,2}", word()).prop_map(|(user, key)| format!("arn:aws:s3:::b/{user}/{key}")),
        1 => Just("arn:aws:s3:::b".to_owned()),
    ]
}

fn ours(policies: &[Value], action: &str, resource: &str, context: &Context) -> Decision {
    let policies: Vec<Policy> = policies.iter().map(|policy| Policy::parse(policy).unwrap()).collect();
    let principal = RequestPrincipal::Aws { arn: USER, role_arn: None };
    evaluate(&policies, &Request { principal, action, resource, context })
}

fn theirs(policies: &[Value], action: &str, resource: &str, context: &Context) -> Decision {
    let policies: Vec<iam_rs::IAMPolicy> =
        policies.iter().map(|policy| iam_rs::IAMPolicy::from_json(&policy.to_string()).unwrap()).collect();
    let mut their_context = iam_rs::Context::new();
    for (key, values) in context {
        let value = match (key.as_str(), values.as_slice()) {
            ("m", values) => iam_rs::ContextValue::StringList(values.to_vec()),
            ("f", [value]) => iam_rs::ContextValue::Boolean(value == "true"),
            ("n", [value]) => iam_rs::ContextValue::Number(value.parse().unwrap()),
            (_, values) => iam_rs::ContextValue::String(values[0].clone()),
        };
        their_context.insert(key.clone(), value);
    }
    let principal = iam_rs::Principal::Aws(iam_rs::PrincipalId::String(USER.to_owned()));
    let arn = iam_rs::Arn::parse(resource).unwrap();
    let request = iam_rs::IAMRequest::new_with_context(principal, action, arn, their_context);
    match iam_rs::evaluate_policies(&policies, &request).unwrap() {
        iam_rs::Decision::Allow => Decision::Allow,
        iam_rs::Decision::Deny => Decision::ExplicitDeny,
        iam_rs::Decision::NotApplicable => Decision::ImplicitDeny,
    }
}

type Question = (Vec<Value>, &'static str, String, Context);

fn question() -> impl Strategy<Value = Question> {
    let actions = vec!["s3:PutObject", "s3:GetObject", "s3:putobject", "s3:ListBucket", "sts:AssumeRole"];
    let policies = prop::collection::vec(prop::collection::vec(statement(), 1..4), 1..3);
    let document = |statements| json!({ "Version": "2012-10-17", "Statement": Value::Array(statements) });
    (
        policies.prop_map(move |policies| policies.into_iter().map(document).collect()),
        prop::sample::select(actions),
        requested_resource(),
        context(),
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3000, ..ProptestConfig::default() })]

    #[test]
    fn both_evaluators_agree((policies, action, resource, context) in question()) {
        prop_assert_eq!(
            ours(&policies, action, &resource, &context),
            theirs(&policies, action, &resource, &context),
            "{} on {} with {:?}: {}", action, resource, context, json!(policies)
        );
    }
}

/// Agreement means something only where every answer is given often.
#[test]
fn the_questions_have_all_three_answers() {
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let (mut allowed, mut denied, mut silent) = (0, 0, 0);
    for _ in 0..1000 {
        let (policies, action, resource, context) = question().new_tree(&mut runner).unwrap().current();
        match ours(&policies, action, &resource, &context) {
            Decision::Allow => allowed += 1,
            Decision::ExplicitDeny => denied += 1,
            Decision::ImplicitDeny => silent += 1,
        }
    }
    println!("of 1000 questions: {allowed} allowed, {denied} denied, {silent} without a word");
    assert!(allowed > 100 && denied > 100 && silent > 100, "{allowed} {denied} {silent}");
}
