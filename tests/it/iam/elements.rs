//! Effect, Action, Resource, Principal, Version, variables.

use serde_json::{Value, json};
use tidegate::local_cloud::iam::RequestPrincipal;

use super::{Allow, Case, Decision, ExplicitDeny, ImplicitDeny, Kind};

fn allow(action: Value, resource: Value) -> Value {
    json!({ "Effect": "Allow", "Action": action, "Resource": resource })
}

fn deny(resource: &str) -> Value {
    json!({ "Effect": "Deny", "Action": "s3:*", "Resource": resource })
}

fn resource_policy(why: &'static str, expect: Decision, effect: &str, element: &str, who: Value) -> Case {
    let statement = json!({ "Effect": effect, element: who, "Action": "s3:*", "Resource": "arn:aws:s3:::b/*" });
    let session = RequestPrincipal::Aws {
        arn: "arn:aws:sts::123456789012:assumed-role/Free/session",
        role_arn: Some("arn:aws:iam::123456789012:role/Free"),
    };
    Case::new(why, expect, statement).kind(Kind::Resource, session)
}

const ROOT: RequestPrincipal<'_> = RequestPrincipal::Aws { arn: "arn:aws:iam::123456789012:root", role_arn: None };
const FREE_ROLE: &str = "arn:aws:iam::123456789012:role/Free";
const FREE_SESSION: &str = "arn:aws:sts::123456789012:assumed-role/Free/session";

pub(super) fn cases() -> Vec<Case> {
    let put = || json!("s3:PutObject");
    let any = || json!("*");
    let k = |pattern: &str| json!(format!("arn:aws:s3:::b/{pattern}"));
    vec![
        // Effect.
        Case::new("what nothing speaks about is denied", ImplicitDeny, allow(json!("s3:GetObject"), any())),
        Case::new("a deny goes before an allow", ExplicitDeny, json!([allow(put(), any()), deny("arn:aws:s3:::b/k")])),
        Case::new("whichever comes first", ExplicitDeny, json!([deny("arn:aws:s3:::b/k"), allow(put(), any())])),
        Case::new("also from another policy", ExplicitDeny, allow(put(), any())).and_policy(deny("*")),
        Case::new("a deny of something else changes nothing", Allow, json!([allow(put(), any()), deny("arn:aws:s3:::b/x")])),
        Case::new("a deny alone is an explicit one", ExplicitDeny, deny("*")),
        Case::new("allows add up over policies", Allow, allow(json!("s3:GetObject"), any())).and_policy(allow(put(), any())),
        // Action.
        Case::new("a star in an action", Allow, allow(json!("s3:Put*"), any())),
        Case::new("a question mark is exactly one character", Allow, allow(json!("s3:PutObjec?"), any())),
        Case::new("never none", ImplicitDeny, allow(json!("s3:PutObject?"), any())),
        Case::new("all actions of a service", Allow, allow(json!("s3:*"), any())),
        Case::new("not of another service", ImplicitDeny, allow(json!("sts:*"), any())),
        Case::new("every action", Allow, allow(any(), any())),
        Case::new("one of a list", Allow, allow(json!(["s3:GetObject", "s3:PUTOBJECT"]), any())),
        Case::new("NotAction is everything but", Allow, json!({ "Effect": "Allow", "NotAction": "s3:Delete*", "Resource": "*" })),
        Case::new("what NotAction lists is left out", ImplicitDeny, json!({ "Effect": "Allow", "NotAction": ["s3:Delete*"], "Resource": "*" }))
            .action("s3:DeleteObject"),
        Case::new("a deny by NotAction hits the rest", ExplicitDeny, json!([allow(any(), any()), { "Effect": "Deny", "NotAction": "s3:GetObject", "Resource": "*" }])),
        Case::new("and spares what it lists", Allow, json!([allow(any(), any()), { "Effect": "Deny", "NotAction": "s3:putobject", "Resource": "*" }])),
        // Resource.
        Case::new("a star spans slashes", Allow, allow(put(), k("*"))).on("arn:aws:s3:::b/x/y/z"),
        Case::new("in the middle as well", Allow, allow(put(), k("x/*/z"))).on("arn:aws:s3:::b/x/1/2/z"),
        Case::new("a bucket's ARN is not its objects'", ImplicitDeny, allow(put(), json!("arn:aws:s3:::b"))),
        Case::new("nor the other way round", ImplicitDeny, allow(json!("s3:ListBucket"), k("*"))).action("s3:ListBucket").on("arn:aws:s3:::b"),
        Case::new("a question mark in a key", Allow, allow(put(), k("photo-?.jpg"))).on("arn:aws:s3:::b/photo-7.jpg"),
        Case::new("resources have case", ImplicitDeny, allow(put(), k("K"))),
        Case::new("a star in the region stays in its segment", ImplicitDeny, allow(json!("sqs:*"), json!("arn:aws:sqs:eu-*-1:123456789012:q")))
            .action("sqs:SendMessage")
            .on("arn:aws:sqs:eu-west:1-1:123456789012:q"),
        Case::new("and matches a region", Allow, allow(json!("sqs:*"), json!("arn:aws:sqs:eu-*-1:123456789012:q")))
            .action("sqs:SendMessage")
            .on("arn:aws:sqs:eu-west-1:123456789012:q"),
        Case::new("a star that ends a segment may go on behind the colon", Allow, allow(json!("sqs:*"), json!("arn:aws:sqs:*")))
            .action("sqs:SendMessage")
            .on("arn:aws:sqs:eu-west-1:123456789012:q"),
        Case::new("NotResource is everywhere but", Allow, json!({ "Effect": "Allow", "Action": "s3:*", "NotResource": k("secret/*") })),
        Case::new("what NotResource lists is left out", ImplicitDeny, json!({ "Effect": "Allow", "Action": "s3:*", "NotResource": k("secret/*") }))
            .on("arn:aws:s3:::b/secret/x"),
        Case::new("a deny outside of one's own prefix", ExplicitDeny, json!([allow(put(), any()), { "Effect": "Deny", "Action": "s3:*", "NotResource": k("users/${aws:username}/*") }]))
            .on("arn:aws:s3:::b/users/eve/x")
            .with("aws:username", &["ann"]),
        Case::new("spares the prefix", Allow, json!([allow(put(), any()), { "Effect": "Deny", "Action": "s3:*", "NotResource": k("users/${aws:username}/*") }]))
            .on("arn:aws:s3:::b/users/ann/x")
            .with("aws:username", &["ann"]),
        Case::new("a NotResource whose variable is missing lists nothing, so the deny hits", ExplicitDeny, json!([allow(put(), any()), { "Effect": "Deny", "Action": "s3:*", "NotResource": k("users/${aws:username}/*") }]))
            .on("arn:aws:s3:::b/users/ann/x"),
        // Variables.
        Case::new("a variable that is missing matches nothing", ImplicitDeny, allow(put(), k("${aws:username}"))),
        Case::new("a resource beside it still counts", Allow, allow(put(), json!(["arn:aws:s3:::b/${aws:username}", "arn:aws:s3:::b/k"]))),
        Case::new("a default stands in", Allow, allow(put(), k("${aws:PrincipalTag/team, 'all'}/x"))).on("arn:aws:s3:::b/all/x"),
        Case::new("only where the key is missing", ImplicitDeny, allow(put(), k("${aws:PrincipalTag/team, 'all'}/x")))
            .on("arn:aws:s3:::b/all/x")
            .with("aws:PrincipalTag/team", &["red"]),
        Case::new("a star in a value is text", ImplicitDeny, allow(put(), k("${aws:username}/x")))
            .on("arn:aws:s3:::b/ann/x")
            .with("aws:username", &["*"]),
        Case::new("so is a question mark", ImplicitDeny, allow(put(), k("${aws:username}"))).with("aws:username", &["?"]),
        Case::new("so is a variable in a value", ImplicitDeny, allow(put(), k("${aws:username}")))
            .with("aws:username", &["${aws:userid}"])
            .with("aws:userid", &["k"]),
        Case::new("${*} is a star", Allow, allow(put(), k("a${*}b"))).on("arn:aws:s3:::b/a*b"),
        Case::new("and nothing else", ImplicitDeny, allow(put(), k("a${*}b"))).on("arn:aws:s3:::b/axb"),
        Case::new("${?} is a question mark", ImplicitDeny, allow(put(), k("a${?}b"))).on("arn:aws:s3:::b/axb"),
        Case::new("${$} is a dollar", Allow, allow(put(), k("${$}{x}"))).on("arn:aws:s3:::b/${x}"),
        Case::new("a key of several values cannot be a variable", ImplicitDeny, allow(put(), k("${aws:TagKeys}")))
            .with("aws:TagKeys", &["k", "l"]),
        Case::new("a value with slashes takes them along", Allow, allow(put(), k("${p}/x"))).on("arn:aws:s3:::b/a/b/x").with("p", &["a/b"]),
        // Version.
        Case::new("2008-10-17 has no variables: the text is literal", ImplicitDeny, allow(put(), k("${aws:username}")))
            .version(Some("2008-10-17"))
            .with("aws:username", &["k"]),
        Case::new("and matches itself", Allow, allow(put(), k("${aws:username}")))
            .version(Some("2008-10-17"))
            .on("arn:aws:s3:::b/${aws:username}"),
        Case::new("a document without a version is of 2008", ImplicitDeny, allow(put(), k("${aws:username}")))
            .version(None)
            .with("aws:username", &["k"]),
        Case::new("wildcards work in 2008, also within the braces", Allow, allow(put(), k("${*}")))
            .version(Some("2008-10-17"))
            .on("arn:aws:s3:::b/${anything}"),
        Case::new("a variable in a 2008 condition is literal too", ImplicitDeny, json!({ "Effect": "Allow", "Action": "*", "Resource": "*", "Condition": { "StringEquals": { "a": "${b}" } } }))
            .version(Some("2008-10-17"))
            .with("a", &["x"])
            .with("b", &["x"]),
        // Principal.
        resource_policy("everyone", Allow, "Allow", "Principal", json!("*")),
        resource_policy("everyone is also who does not sign", Allow, "Allow", "Principal", json!({ "AWS": "*" }))
            .kind(Kind::Resource, RequestPrincipal::Anonymous),
        resource_policy("a role means its sessions", Allow, "Allow", "Principal", json!({ "AWS": FREE_ROLE })),
        resource_policy("a session by its own ARN", Allow, "Allow", "Principal", json!({ "AWS": FREE_SESSION })),
        resource_policy("another role", ImplicitDeny, "Allow", "Principal", json!({ "AWS": "arn:aws:iam::123456789012:role/Paid" })),
        resource_policy("one of a list", Allow, "Allow", "Principal", json!({ "AWS": ["999999999999", FREE_ROLE] })),
        resource_policy("allowing an account only delegates to its own policies", ImplicitDeny, "Allow", "Principal", json!({ "AWS": "123456789012" })),
        resource_policy("its root needs no other policy", Allow, "Allow", "Principal", json!({ "AWS": "arn:aws:iam::123456789012:root" })).kind(Kind::Resource, ROOT),
        resource_policy("denying an account denies all of its members", ExplicitDeny, "Deny", "Principal", json!({ "AWS": "arn:aws:iam::123456789012:root" })),
        resource_policy("not those of another account", ImplicitDeny, "Deny", "Principal", json!({ "AWS": "999999999999" })),
        resource_policy("a service", Allow, "Allow", "Principal", json!({ "Service": "cloudtrail.amazonaws.com" }))
            .kind(Kind::Resource, RequestPrincipal::Service("cloudtrail.amazonaws.com")),
        resource_policy("a service is not a provider of the same name", ImplicitDeny, "Allow", "Principal", json!({ "Federated": "x.amazonaws.com" }))
            .kind(Kind::Resource, RequestPrincipal::Service("x.amazonaws.com")),
        resource_policy("a canonical user signs nothing here", ImplicitDeny, "Allow", "Principal", json!({ "CanonicalUser": "79a59df9" })),
        resource_policy("NotPrincipal denies everyone else", ExplicitDeny, "Deny", "NotPrincipal", json!({ "AWS": ["arn:aws:iam::123456789012:role/Paid", "123456789012"] })),
        resource_policy("it spares a session that is listed with its role and account", ImplicitDeny, "Deny", "NotPrincipal", json!({ "AWS": [FREE_SESSION, FREE_ROLE, "arn:aws:iam::123456789012:root"] })),
        resource_policy("a role alone does not spare its sessions", ExplicitDeny, "Deny", "NotPrincipal", json!({ "AWS": [FREE_ROLE] })),
        resource_policy("NotPrincipal denies who does not sign", ExplicitDeny, "Deny", "NotPrincipal", json!({ "AWS": [FREE_ROLE] }))
            .kind(Kind::Resource, RequestPrincipal::Anonymous),
    ]
}
