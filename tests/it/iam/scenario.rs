//! The two roles of the photo app, their trust policies and the bucket's policy.

use serde_json::{Value, json};
use tidegate::local_cloud::iam::RequestPrincipal;

use super::{Allow, Case, ExplicitDeny, ImplicitDeny, Kind};

const SUB: &str = "cognito-identity.amazonaws.com:sub";
const AUD: &str = "cognito-identity.amazonaws.com:aud";
const AMR: &str = "cognito-identity.amazonaws.com:amr";
const ME: &str = "us-east-1:11111111-aaaa-4bbb-8ccc-000000000001";
const OTHER: &str = "us-east-1:22222222-aaaa-4bbb-8ccc-000000000002";
const POOL: &str = "us-east-1:99999999-aaaa-4bbb-8ccc-999999999999";

fn tier(name: &str) -> Value {
    let resource = format!("arn:aws:s3:::app-photos/users/${{cognito-identity.amazonaws.com:sub}}/{name}/*");
    json!({ "Effect": "Allow", "Action": "s3:PutObject", "Resource": resource })
}

fn free(why: &'static str, expect: super::Decision, key: &str) -> Case {
    Case::new(why, expect, tier("free")).on(format!("arn:aws:s3:::app-photos/{key}")).with(SUB, &[ME])
}

fn paid(why: &'static str, expect: super::Decision, key: &str) -> Case {
    let both = json!([tier("free"), tier("premium")]);
    Case::new(why, expect, both).on(format!("arn:aws:s3:::app-photos/{key}")).with(SUB, &[ME])
}

fn trust(why: &'static str, expect: super::Decision) -> Case {
    let statement = json!({
        "Effect": "Allow",
        "Principal": { "Federated": "cognito-identity.amazonaws.com" },
        "Action": "sts:AssumeRoleWithWebIdentity",
        "Condition": {
            "StringEquals": { AUD: POOL },
            "ForAnyValue:StringLike": { AMR: "authenticated" },
        },
    });
    Case::new(why, expect, statement)
        .kind(Kind::Trust, RequestPrincipal::Federated("cognito-identity.amazonaws.com"))
        .action("sts:AssumeRoleWithWebIdentity")
        .on("arn:aws:iam::123456789012:role/Free")
}

fn bucket(why: &'static str, expect: super::Decision, principal: RequestPrincipal<'static>) -> Case {
    let statement = json!({
        "Effect": "Deny", "Principal": "*", "Action": "s3:*",
        "Resource": ["arn:aws:s3:::app-photos", "arn:aws:s3:::app-photos/*"],
        "Condition": { "Bool": { "aws:SecureTransport": "false" } },
    });
    Case::new(why, expect, statement).kind(Kind::Resource, principal).on("arn:aws:s3:::app-photos/users/x/free/a")
}

pub(super) fn cases() -> Vec<Case> {
    const SESSION: RequestPrincipal<'_> = RequestPrincipal::Aws {
        arn: "arn:aws:sts::123456789012:assumed-role/Free/CognitoIdentityCredentials",
        role_arn: Some("arn:aws:iam::123456789012:role/Free"),
    };
    vec![
        free("a free user writes beneath free/", Allow, &format!("users/{ME}/free/a.jpg")),
        free("however deep", Allow, &format!("users/{ME}/free/2026/11/30/a.jpg")),
        free(
            "and with a colon in the name, for the last segment's star spans it",
            Allow,
            &format!("users/{ME}/free/12:30.jpg"),
        ),
        free("and with spaces and umlauts", Allow, &format!("users/{ME}/free/für später.jpg")),
        free("the empty name after free/ is a key too", Allow, &format!("users/{ME}/free/")),
        free("premium/ is not the free tier's", ImplicitDeny, &format!("users/{ME}/premium/a.jpg")),
        free("another user's prefix", ImplicitDeny, &format!("users/{OTHER}/free/a.jpg")),
        free("a name that only begins like free", ImplicitDeny, &format!("users/{ME}/freedom/a.jpg")),
        free("free itself, without the slash", ImplicitDeny, &format!("users/{ME}/free")),
        free("keys have case", ImplicitDeny, &format!("users/{ME}/Free/a.jpg")),
        free("the identity id as part of a longer name", ImplicitDeny, &format!("users/{ME}x/free/a.jpg")),
        free("a slash before users is another key", ImplicitDeny, &format!("/users/{ME}/free/a.jpg")),
        free(
            "`..` is text: the key lies beneath free/, and nothing appears at premium/x",
            Allow,
            &format!("users/{ME}/free/../premium/x"),
        ),
        free("`..` leads nowhere from another prefix either", ImplicitDeny, &format!("users/{ME}/premium/../free/x")),
        free("nor out of another user's prefix", ImplicitDeny, &format!("users/{OTHER}/../{ME}/free/x")),
        free("percent signs are not decoded", ImplicitDeny, &format!("users/{ME}%2Ffree/x")),
        free("reading is not granted", ImplicitDeny, &format!("users/{ME}/free/a.jpg")).action("s3:GetObject"),
        free("aborting is not granted", ImplicitDeny, &format!("users/{ME}/free/a.jpg"))
            .action("s3:AbortMultipartUpload"),
        free("changing an object's access list is not PutObject", ImplicitDeny, &format!("users/{ME}/free/a.jpg"))
            .action("s3:PutObjectAcl"),
        free("the action's case does not matter", Allow, &format!("users/{ME}/free/a.jpg")).action("S3:putobject"),
        free("another bucket", ImplicitDeny, "x").on(format!("arn:aws:s3:::app-photos2/users/{ME}/free/a.jpg")),
        paid("a paid user writes beneath premium/", Allow, &format!("users/{ME}/premium/a.jpg")),
        paid("and beneath free/", Allow, &format!("users/{ME}/free/a.jpg")),
        paid("not beneath anything else", ImplicitDeny, &format!("users/{ME}/gold/a.jpg")),
        paid("nor in another paid user's prefix", ImplicitDeny, &format!("users/{OTHER}/premium/a.jpg")),
        Case::new("without an identity id the variable matches nothing", ImplicitDeny, tier("free"))
            .on(format!("arn:aws:s3:::app-photos/users/{ME}/free/a.jpg")),
        Case::new("not even an empty segment", ImplicitDeny, tier("free"))
            .on("arn:aws:s3:::app-photos/users//free/a.jpg"),
        Case::new("nor the variable's own text", ImplicitDeny, tier("free"))
            .on("arn:aws:s3:::app-photos/users/${cognito-identity.amazonaws.com:sub}/free/a.jpg"),
        Case::new("an identity id of `*` is no wildcard", ImplicitDeny, tier("free"))
            .on(format!("arn:aws:s3:::app-photos/users/{OTHER}/free/a.jpg"))
            .with(SUB, &["*"]),
        Case::new("it matches only the star itself", Allow, tier("free"))
            .on("arn:aws:s3:::app-photos/users/*/free/a.jpg")
            .with(SUB, &["*"]),
        Case::new("the key's name is compared without case", Allow, tier("free"))
            .on(format!("arn:aws:s3:::app-photos/users/{ME}/free/a.jpg"))
            .with("Cognito-Identity.AmazonAWS.com:SUB", &[ME]),
        trust("a signed-in user of the pool", Allow)
            .with(AUD, &[POOL])
            .with(AMR, &["authenticated", "cognito-idp.us-east-1.amazonaws.com/us-east-1_x"]),
        trust("a guest", ImplicitDeny).with(AUD, &[POOL]).with(AMR, &["unauthenticated"]),
        trust("another identity pool", ImplicitDeny).with(AUD, &[ME]).with(AMR, &["authenticated"]),
        trust("a token without amr: ForAnyValue needs a value", ImplicitDeny).with(AUD, &[POOL]),
        trust("a token without aud", ImplicitDeny).with(AMR, &["authenticated"]),
        trust("another provider's token", ImplicitDeny)
            .kind(Kind::Trust, RequestPrincipal::Federated("accounts.google.com"))
            .with(AUD, &[POOL])
            .with(AMR, &["authenticated"]),
        trust("an AWS principal does not come in by a federated trust", ImplicitDeny)
            .kind(Kind::Trust, SESSION)
            .with(AUD, &[POOL])
            .with(AMR, &["authenticated"]),
        trust("another way of assuming it", ImplicitDeny)
            .action("sts:AssumeRole")
            .with(AUD, &[POOL])
            .with(AMR, &["authenticated"]),
        bucket("the bucket's policy by itself allows nothing", ImplicitDeny, SESSION)
            .with("aws:SecureTransport", &["true"]),
        bucket("plain HTTP is denied to everyone", ExplicitDeny, SESSION).with("aws:SecureTransport", &["false"]),
        bucket("also to who does not sign", ExplicitDeny, RequestPrincipal::Anonymous)
            .with("aws:SecureTransport", &["false"]),
        bucket("a request that does not say counts as neither", ImplicitDeny, SESSION),
    ]
}
