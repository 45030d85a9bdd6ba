//! The IAM evaluator, case by case: each says in words why AWS decides as it does.

// The tables write documents as `json!` where they are used: borrowing each would only add noise.
#![allow(clippy::needless_pass_by_value)]

mod conditions;
mod differential;
mod elements;
mod scenario;

use serde_json::{Value, json};
use tidegate::local_cloud::iam::{Context, Decision, Policy, PolicyError, Request, RequestPrincipal, evaluate};

pub(crate) use Decision::{Allow, ExplicitDeny, ImplicitDeny};

/// Which kind of document a case is about.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Kind {
    Permission,
    Trust,
    Resource,
}

/// One question with its answer and the reason.
pub(crate) struct Case {
    pub(crate) why: &'static str,
    pub(crate) expect: Decision,
    pub(crate) kind: Kind,
    pub(crate) policies: Vec<Value>,
    pub(crate) principal: RequestPrincipal<'static>,
    pub(crate) action: &'static str,
    pub(crate) resource: String,
    pub(crate) context: Vec<(&'static str, Vec<&'static str>)>,
}

impl Case {
    /// A permission policy of these statements; refine it with the other methods.
    pub(crate) fn new(why: &'static str, expect: Decision, statements: Value) -> Self {
        Self {
            why,
            expect,
            kind: Kind::Permission,
            policies: vec![json!({ "Version": "2012-10-17", "Statement": statements })],
            principal: RequestPrincipal::Aws {
                arn: "arn:aws:sts::123456789012:assumed-role/Free/session",
                role_arn: Some("arn:aws:iam::123456789012:role/Free"),
            },
            action: "s3:PutObject",
            resource: "arn:aws:s3:::b/k".to_owned(),
            context: Vec::new(),
        }
    }

    pub(crate) fn version(mut self, version: Option<&str>) -> Self {
        for policy in &mut self.policies {
            let document = policy.as_object_mut().unwrap();
            match version {
                Some(version) => drop(document.insert("Version".to_owned(), json!(version))),
                None => drop(document.remove("Version")),
            }
        }
        self
    }

    pub(crate) fn and_policy(mut self, statements: Value) -> Self {
        self.policies.push(json!({ "Version": "2012-10-17", "Statement": statements }));
        self
    }

    pub(crate) fn kind(mut self, kind: Kind, principal: RequestPrincipal<'static>) -> Self {
        (self.kind, self.principal) = (kind, principal);
        self
    }

    pub(crate) fn action(mut self, action: &'static str) -> Self {
        self.action = action;
        self
    }

    pub(crate) fn on(mut self, resource: impl Into<String>) -> Self {
        self.resource = resource.into();
        self
    }

    pub(crate) fn with(mut self, key: &'static str, values: &[&'static str]) -> Self {
        self.context.push((key, values.to_vec()));
        self
    }

    fn decide(&self) -> Result<Decision, PolicyError> {
        let parse = match self.kind {
            Kind::Permission => Policy::parse,
            Kind::Trust => Policy::parse_trust,
            Kind::Resource => Policy::parse_resource,
        };
        let policies = self.policies.iter().map(parse).collect::<Result<Vec<_>, _>>()?;
        let owned = |values: &Vec<&str>| values.iter().map(|value| (*value).to_owned()).collect();
        let context: Context = self.context.iter().map(|(key, values)| ((*key).to_owned(), owned(values))).collect();
        let request =
            Request { principal: self.principal, action: self.action, resource: &self.resource, context: &context };
        Ok(evaluate(&policies, &request))
    }
}

#[test]
fn every_case_is_decided_as_aws_does() {
    let tables =
        [("scenario", scenario::cases()), ("elements", elements::cases()), ("conditions", conditions::cases())];
    let mut wrong = Vec::new();
    let mut count = 0;
    for (table, cases) in &tables {
        println!("{table}: {} cases", cases.len());
        for case in cases {
            count += 1;
            let decided = case.decide();
            if decided.as_ref() != Ok(&case.expect) {
                wrong.push(format!("{table}: {}: expected {:?}, got {decided:?}", case.why, case.expect));
            }
        }
    }
    println!("{count} cases");
    assert!(wrong.is_empty(), "{} of {count}:\n{}", wrong.len(), wrong.join("\n"));
    assert!(count >= 60, "{count}");
}

/// A refusal, with the words that have to be in it.
#[test]
fn documents_that_iam_refuses_are_refused_with_the_place() {
    let statement = |extra: Value| {
        let mut statement = json!({ "Effect": "Allow", "Action": "s3:PutObject", "Resource": "*" });
        for (key, value) in extra.as_object().unwrap() {
            match value {
                Value::Null => drop(statement.as_object_mut().unwrap().remove(key)),
                value => drop(statement.as_object_mut().unwrap().insert(key.clone(), value.clone())),
            }
        }
        json!({ "Version": "2012-10-17", "Statement": [statement] })
    };
    let condition = |operator: &str, value: Value| statement(json!({ "Condition": { operator: { "k": value } } }));
    let cases = [
        (json!([]), "the policy: expected an object"),
        (json!({ "Version": "2012-10-17" }), "the policy: Statement is missing"),
        (json!({ "Version": "2012-10-17", "Statement": [] }), "Statement: expected at least one statement"),
        (json!({ "Version": "2012-10-18", "Statement": [] }), "Version: `2012-10-18` does not exist"),
        (json!({ "Version": 2012, "Statement": [] }), "Version: `2012` does not exist"),
        (json!({ "Statements": [] }), "the policy: unknown element `Statements`; known are Version, Id, Statement"),
        (json!({ "Statement": ["x"] }), "Statement[0]: expected an object"),
        (statement(json!({ "Effect": null })), "Statement[0]: Effect is missing"),
        (statement(json!({ "Effect": "allow" })), "Statement[0].Effect: `allow` is not usable: it has to be exactly"),
        (statement(json!({ "Action": null })), "Statement[0]: Action or NotAction is missing"),
        (statement(json!({ "Resource": null })), "Statement[0]: Resource or NotResource is missing"),
        (statement(json!({ "Actions": "x" })), "Statement[0]: unknown element `Actions`; known are Sid, Effect"),
        (statement(json!({ "NotAction": "s3:x" })), "Statement[0]: Action and NotAction cannot stand together"),
        (statement(json!({ "NotResource": "*" })), "Statement[0]: Resource and NotResource cannot stand together"),
        (statement(json!({ "Action": "PutObject" })), "Statement[0].Action: `PutObject` is not usable"),
        (statement(json!({ "Action": [] })), "Statement[0].Action: expected a string or a list of strings"),
        (statement(json!({ "Action": ["s3:x", 5] })), "Statement[0].Action: expected a string or a list of strings"),
        (statement(json!({ "Resource": "app-photos/*" })), "Statement[0].Resource: `app-photos/*` is not usable"),
        (statement(json!({ "Resource": "arn:aws:s3:::b/${" })), "opens a policy variable without `}`"),
        (statement(json!({ "Resource": "arn:aws:s3:::b/${}" })), "does not name a condition key"),
        (statement(json!({ "Resource": "arn:aws:s3:::b/${k, d}" })), "has to stand in single quotes"),
        (statement(json!({ "Principal": "*" })), "Statement[0]: Principal does not belong into a permission policy"),
        (statement(json!({ "Sid": "not good" })), "Statement[0].Sid: `not good` is not usable"),
        (statement(json!({ "Condition": "x" })), "Statement[0].Condition: expected an object"),
        (condition("StringsEqual", json!("x")), "the condition operator `StringsEqual` does not exist"),
        (condition("ForSomeValues:StringEquals", json!("x")), "`ForSomeValues:StringEquals` does not exist"),
        (condition("NullIfExists", json!(true)), "the condition operator `NullIfExists` does not exist"),
        (condition("StringEquals", json!({ "a": 1 })), "Condition.StringEquals.k: expected a value or a list"),
        (condition("NumericLessThan", json!("ten")), "NumericLessThan.k: `ten` is not usable: it is not a number"),
        (condition("DateLessThan", json!("soon")), "`soon` is not usable: it is neither an ISO 8601 date"),
        (condition("IpAddress", json!("10.0.0.0/40")), "it is neither an address nor a CIDR range"),
        (condition("Bool", json!("yes")), "`yes` is not usable: it is neither true nor false"),
        (condition("BinaryEquals", json!("***")), "it is not Base64"),
    ];
    println!("{} refusals", cases.len());
    for (document, expected) in cases {
        let error = Policy::parse(&document).expect_err("it has to be refused").to_string();
        assert!(error.contains(expected), "{document}: {error}");
    }
}

#[test]
fn trust_and_resource_policies_have_rules_of_their_own() {
    let document = |statement: Value| json!({ "Version": "2012-10-17", "Statement": statement });
    let trust = |statement: Value| Policy::parse_trust(&document(statement)).unwrap_err().to_string();
    let resource = |statement: Value| Policy::parse_resource(&document(statement)).unwrap_err().to_string();
    let assume = "sts:AssumeRoleWithWebIdentity";
    assert!(trust(json!({ "Effect": "Allow", "Action": assume })).contains("Principal is missing"));
    let with_resource = json!({ "Effect": "Allow", "Action": assume, "Principal": "*", "Resource": "*" });
    assert!(trust(with_resource).contains("Resource does not belong into a trust policy"));
    let not_principal = json!({ "Effect": "Deny", "Action": assume, "NotPrincipal": { "AWS": "123456789012" } });
    assert!(trust(not_principal).contains("NotPrincipal does not belong into a trust policy"));
    let put = |principal: Value| {
        resource(json!({ "Effect": "Allow", "Action": "s3:PutObject", "Resource": "*", "Principal": principal }))
    };
    assert!(put(json!("123456789012")).contains("it has to be \"*\" or an object"));
    assert!(put(json!({})).contains("it names nobody"));
    assert!(put(json!({ "Nation": "x" })).contains("unknown element `Nation`"));
    assert!(put(json!({ "AWS": "arn:aws:iam::123456789012:role/*" })).contains("takes no wildcard"));
    assert!(put(json!({ "AWS": "some one" })).contains("neither an account, nor an ARN, nor a unique id"));
    let allow_not = json!({ "Effect": "Allow", "Action": "s3:*", "Resource": "*", "NotPrincipal": { "AWS": "*" } });
    assert!(resource(allow_not).contains("NotPrincipal and Effect Allow cannot stand together"));
    let sid =
        json!({ "Sid": "spaces are fine here", "Effect": "Deny", "Action": "s3:*", "Resource": "*", "Principal": "*" });
    assert!(Policy::parse_resource(&document(sid)).is_ok());
}

#[test]
fn decisions_combine_as_sets_of_policies_do() {
    let all = [Allow, ImplicitDeny, ExplicitDeny];
    for one in all {
        for other in all {
            assert_eq!(one.or(other), other.or(one));
            assert_eq!(one.and(other), other.and(one));
            if one == ExplicitDeny {
                assert_eq!((one.or(other), one.and(other)), (ExplicitDeny, ExplicitDeny));
            }
        }
    }
    assert_eq!((Allow.or(ImplicitDeny), Allow.and(ImplicitDeny)), (Allow, ImplicitDeny));
    assert!(Allow.is_allowed() && !ImplicitDeny.is_allowed() && !ExplicitDeny.is_allowed());
}
