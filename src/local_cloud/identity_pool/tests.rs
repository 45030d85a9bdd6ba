//! The identity pool as its callers see it.

#![allow(clippy::unwrap_used)]

use super::*;
use crate::local_cloud::iam::Decision;
use crate::local_cloud::seed::{RoleMappingKind, RoleMappingSeed, RoleRuleSeed};
use crate::local_cloud::test_stage::{
    CLIENT, FREE, GUEST, IDENTITY_POOL, LEGACY_CLIENT, LOGIN, PAID, PASSWORD, ROTATING_CLIENT, Seeds, Stage, refused,
};

const INVALID_CONFIGURATION: &str = "InvalidIdentityPoolConfigurationException";

async fn get_id(stage: &Stage, token: &str) -> Result<Value, AwsError> {
    stage.identity("GetId", json!({ "IdentityPoolId": IDENTITY_POOL, "Logins": { LOGIN: token } })).await
}

async fn credentials(stage: &Stage, identity_id: &Value, token: &str, role: Option<&str>) -> Result<Value, AwsError> {
    let mut body = json!({ "IdentityId": identity_id, "Logins": { LOGIN: token } });
    if let Some(role) = role {
        body["CustomRoleArn"] = json!(role);
    }
    stage.identity("GetCredentialsForIdentity", body).await
}

/// The signer that S3 would see.
fn signer(stage: &Stage, answer: &Value) -> Auth {
    let text = |name: &str| answer["Credentials"][name].as_str().unwrap();
    stage.sts.session(text("AccessKeyId"), Some(text("SessionToken"))).unwrap()
}

fn role_of(stage: &Stage, answer: &Value) -> String {
    match signer(stage, answer) {
        Auth::Role(principal) => principal.role_arn.unwrap(),
        other => panic!("{other:?}"),
    }
}

fn may_put(stage: &Stage, auth: &Auth, key: &str) -> bool {
    let resource = format!("arn:aws:s3:::app-photos/{key}");
    stage.sts.decide(auth, "s3:PutObject", &resource, &BTreeMap::new()) == Decision::Allow
}

#[tokio::test]
async fn a_tier_change_changes_the_role_and_never_the_identity() {
    let stage = Stage::new();
    stage.free_user("ann@example.com").await;
    let token = stage.id_token("ann@example.com").await;
    let id = get_id(&stage, &token).await.unwrap()["IdentityId"].take();
    let uuid = id.as_str().unwrap();
    assert!(uuid.starts_with("us-east-1:") && uuid.len() == "us-east-1:".len() + 36, "{uuid}");

    let free = credentials(&stage, &id, &token, None).await.unwrap();
    assert_eq!(free["IdentityId"], id);
    assert_eq!(free["Credentials"]["Expiration"], stage.site.now_s() + 3_600);
    let auth = signer(&stage, &free);
    assert!(may_put(&stage, &auth, &format!("users/{uuid}/free/a.jpg")));
    assert!(!may_put(&stage, &auth, &format!("users/{uuid}/premium/a.jpg")));
    assert!(!may_put(&stage, &auth, "users/us-east-1:another/free/a.jpg"));
    let Auth::Role(principal) = &auth else { panic!("{auth:?}") };
    assert_eq!(principal.arn, "arn:aws:sts::000000000000:assumed-role/FreeTierRole/CognitoIdentityCredentials");

    stage.add_to("ann@example.com", "paid-tier").await;
    stage
        .admin("AdminRemoveUserFromGroup", json!({ "Username": "ann@example.com", "GroupName": "free-tier" }))
        .await
        .unwrap();
    let old = credentials(&stage, &id, &token, None).await.unwrap();
    assert_eq!(role_of(&stage, &old), FREE, "the old token still says free");
    let token = stage.id_token("ann@example.com").await;
    assert_eq!(get_id(&stage, &token).await.unwrap()["IdentityId"], id);
    let paid = credentials(&stage, &id, &token, None).await.unwrap();
    assert!(may_put(&stage, &signer(&stage, &paid), &format!("users/{uuid}/premium/a.jpg")));
    assert_eq!(stage.site.counters.of("cognito-identity:GetCredentialsForIdentity"), 3);
}

#[tokio::test]
async fn only_the_pools_own_fresh_id_tokens_count() {
    let stage = Stage::new();
    stage.free_user("ann@example.com").await;
    stage.free_user("ben@example.com").await;
    let tokens = stage.sign_in("ann@example.com").await;
    let token = tokens["IdToken"].as_str().unwrap();
    let id = get_id(&stage, token).await.unwrap()["IdentityId"].take();
    let legacy = stage.sign_in_at(LEGACY_CLIENT, "ann@example.com", PASSWORD).await.unwrap();
    let other_key = Stage::new();
    other_key.free_user("ann@example.com").await;
    let foreign = other_key.id_token("ann@example.com").await;
    let (signed, signature) = token.rsplit_once('.').unwrap();
    let forged = format!("{signed}.{}", signature.chars().rev().collect::<String>());
    let cases = [
        (tokens["AccessToken"].as_str().unwrap(), "Not a valid OpenId Connect identity token."),
        (legacy["IdToken"].as_str().unwrap(), "Incorrect token audience."),
        (&foreign, "Couldn't verify signed token."),
        (&forged, "Token signature invalid."),
        ("junk", "Not a valid OpenId Connect identity token."),
        ("", "Not a valid OpenId Connect identity token."),
    ];
    for (token, words) in cases {
        for result in [get_id(&stage, token).await, credentials(&stage, &id, token, None).await] {
            let expected = ("NotAuthorizedException", format!("Invalid login token. {words}"));
            assert_eq!(refused(result), expected);
        }
    }
    let provider = json!({ "IdentityPoolId": IDENTITY_POOL, "Logins": { "graph.facebook.com": token } });
    let words = "Token is not from a supported provider of this identity pool.";
    assert_eq!(refused(stage.identity("GetId", provider).await), ("NotAuthorizedException", words.into()));

    let forbidden = format!("Access to Identity '{}' is forbidden.", id.as_str().unwrap());
    let bens = stage.id_token("ben@example.com").await;
    assert_eq!(refused(credentials(&stage, &id, &bens, None).await), ("NotAuthorizedException", forbidden));
    let no_logins = stage.identity("GetCredentialsForIdentity", json!({ "IdentityId": id })).await;
    assert_eq!(refused(no_logins).1, "Unauthenticated access is not supported for this identity pool.");
    let nobody = json!("us-east-1:nobody");
    let (code, message) = refused(credentials(&stage, &nobody, token, None).await);
    assert_eq!((code, message.as_str()), ("ResourceNotFoundException", "Identity 'us-east-1:nobody' not found."));
    let pool = stage.identity("GetId", json!({ "IdentityPoolId": "us-east-1:x" })).await;
    assert_eq!(refused(pool), ("ResourceNotFoundException", "IdentityPool 'us-east-1:x' not found.".into()));
    assert_eq!(refused(stage.identity("GetId", json!({})).await).0, "ValidationException");
    assert_eq!(refused(stage.identity("Dance", json!({})).await).0, "UnknownOperationException");

    stage.pass(3_600);
    let now_s = stage.site.now_s();
    let expired = refused(credentials(&stage, &id, token, None).await);
    assert_eq!(expired, ("NotAuthorizedException", format!("Invalid login token. Token expired: {now_s} >= {now_s}")));
}

#[tokio::test]
async fn the_basic_flow_is_refused_where_it_is_off_and_carries_no_groups_where_it_is_on() {
    let open_id = async |stage: &Stage| {
        stage.free_user("ann@example.com").await;
        let token = stage.id_token("ann@example.com").await;
        let id = get_id(stage, &token).await.unwrap()["IdentityId"].take();
        stage.identity("GetOpenIdToken", json!({ "IdentityId": id, "Logins": { LOGIN: token } })).await
    };
    let (code, message) = refused(open_id(&Stage::new()).await);
    assert_eq!(code, "InvalidParameterException");
    assert_eq!(message, "Basic (classic) flow is not enabled, please use enhanced flow.");

    let mut seeds = Seeds::default();
    seeds.identity_pool.allow_classic_flow = true;
    let stage = Stage::with(&seeds, None);
    let answer = open_id(&stage).await.unwrap();
    let token = answer["Token"].as_str().unwrap();
    let identity = stage.identity_pools.verify_open_id_token(token).unwrap();
    assert_eq!(answer["IdentityId"], identity.identity_id);
    let amr = &identity.context["cognito-identity.amazonaws.com:amr"];
    assert_eq!((amr[0].as_str(), amr[1].as_str()), ("authenticated", LOGIN));
    assert!(amr[2].starts_with(&format!("{LOGIN}:CognitoSignIn:")));
    // The trap that tiered pools keep the flow off for: any role that trusts the pool may be asked for.
    let assume = |role: &str| {
        let form = [
            ("Action", "AssumeRoleWithWebIdentity"),
            ("RoleArn", role),
            ("RoleSessionName", "kiosk"),
            ("WebIdentityToken", token),
        ];
        let form = form.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        stage.sts.query(&form, &Auth::Anonymous, &stage.identity_pools)
    };
    assert_eq!((assume(FREE).status, assume(PAID).status), (200, 200));
    assert_eq!(assume(GUEST).status, 403, "a signed-in user is no guest");
    stage.pass(600);
    assert!(assume(FREE).body.contains("<Code>ExpiredTokenException</Code>"));
}

#[tokio::test]
async fn guests_get_the_guest_role_and_keep_their_identity_when_they_sign_in() {
    let mut seeds = Seeds::default();
    seeds.identity_pool.allow_unauthenticated = true;
    let stage = Stage::with(&seeds, None);
    let new_guest = || async {
        stage.identity("GetId", json!({ "IdentityPoolId": IDENTITY_POOL })).await.unwrap()["IdentityId"].take()
    };
    let guest = new_guest().await;
    assert_ne!(guest, new_guest().await);
    let answer = stage.identity("GetCredentialsForIdentity", json!({ "IdentityId": guest })).await.unwrap();
    assert_eq!(role_of(&stage, &answer), GUEST);

    stage.free_user("ann@example.com").await;
    let token = stage.id_token("ann@example.com").await;
    let joined = credentials(&stage, &guest, &token, None).await.unwrap();
    assert_eq!((role_of(&stage, &joined), &joined["IdentityId"]), (FREE.to_owned(), &guest));
    assert_eq!(get_id(&stage, &token).await.unwrap()["IdentityId"], guest);
    let alone = stage.identity("GetCredentialsForIdentity", json!({ "IdentityId": guest })).await;
    assert_eq!(refused(alone).0, "NotAuthorizedException");

    // A guest who turns out to be Ann, who has an identity: hers is given, and the guest is one no more.
    let second = new_guest().await;
    for _ in 0..2 {
        let merged = credentials(&stage, &second, &token, None).await.unwrap();
        assert_eq!((role_of(&stage, &merged), &merged["IdentityId"]), (FREE.to_owned(), &guest));
        assert!(!may_put(&stage, &signer(&stage, &merged), &format!("users/{}/free/a.jpg", second.as_str().unwrap())));
    }
    let forbidden = format!("Access to Identity '{}' is forbidden.", second.as_str().unwrap());
    let alone = stage.identity("GetCredentialsForIdentity", json!({ "IdentityId": second })).await;
    assert_eq!(refused(alone), ("NotAuthorizedException", forbidden.clone()));
    stage.free_user("ben@example.com").await;
    let bens = stage.id_token("ben@example.com").await;
    assert_eq!(refused(credentials(&stage, &second, &bens, None).await), ("NotAuthorizedException", forbidden));
    assert_ne!(get_id(&stage, &bens).await.unwrap()["IdentityId"], second);
}

#[tokio::test]
async fn who_a_guest_became_survives_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let mut seeds = Seeds::default();
    seeds.identity_pool.allow_unauthenticated = true;
    let first = Stage::with(&seeds, Some(dir.path()));
    let new_guest = || async {
        first.identity("GetId", json!({ "IdentityPoolId": IDENTITY_POOL })).await.unwrap()["IdentityId"].take()
    };
    let (became, merged, still) = (new_guest().await, new_guest().await, new_guest().await);
    first.free_user("ann@example.com").await;
    let token = first.id_token("ann@example.com").await;
    credentials(&first, &became, &token, None).await.unwrap();
    credentials(&first, &merged, &token, None).await.unwrap();
    drop(first);
    let again = Stage::with(&seeds, Some(dir.path()));
    assert_eq!(get_id(&again, &token).await.unwrap()["IdentityId"], became);
    assert_eq!(credentials(&again, &merged, &token, None).await.unwrap()["IdentityId"], became);
    for (guest, is_one) in [(became, false), (merged, false), (still, true)] {
        let answer = again.identity("GetCredentialsForIdentity", json!({ "IdentityId": guest })).await;
        assert_eq!(answer.is_ok(), is_one);
    }
}

#[tokio::test]
async fn a_custom_role_must_be_one_that_the_token_names() {
    let stage = Stage::new();
    stage.free_user("ann@example.com").await;
    let token = stage.id_token("ann@example.com").await;
    let id = get_id(&stage, &token).await.unwrap()["IdentityId"].take();
    assert_eq!(refused(credentials(&stage, &id, &token, Some(PAID)).await).0, "NotAuthorizedException");
    assert_eq!(role_of(&stage, &credentials(&stage, &id, &token, Some(FREE)).await.unwrap()), FREE);
    stage.add_to("ann@example.com", "paid-tier").await;
    let both = stage.id_token("ann@example.com").await;
    assert_eq!(role_of(&stage, &credentials(&stage, &id, &both, None).await.unwrap()), PAID);
    assert_eq!(role_of(&stage, &credentials(&stage, &id, &both, Some(FREE)).await.unwrap()), FREE);
}

#[tokio::test]
async fn who_is_in_no_group_is_denied_or_gets_the_default_as_the_pool_says() {
    let mut seeds = Seeds::default();
    for gives_default in [false, true] {
        let mapping = seeds.identity_pool.role_mappings.get_mut(&format!("{LOGIN}:{CLIENT}")).unwrap();
        mapping.ambiguous_gives_authenticated_role = gives_default;
        let stage = Stage::with(&seeds, None);
        stage.free_user("ann@example.com").await;
        let group = json!({ "Username": "ann@example.com", "GroupName": "free-tier" });
        stage.admin("AdminRemoveUserFromGroup", group).await.unwrap();
        let token = stage.id_token("ann@example.com").await;
        let id = get_id(&stage, &token).await.unwrap()["IdentityId"].take();
        let answer = credentials(&stage, &id, &token, None).await;
        if gives_default {
            assert_eq!(role_of(&stage, &answer.unwrap()), FREE);
        } else {
            let message = format!("The ambiguous role mapping rules for: {LOGIN}:{CLIENT} denied this request.");
            assert_eq!(refused(answer), ("NotAuthorizedException", message));
        }
        // A client without a mapping: the default role, whatever the token says.
        let tokens = stage.sign_in_at(ROTATING_CLIENT, "ann@example.com", PASSWORD).await.unwrap();
        let answer = credentials(&stage, &id, tokens["IdToken"].as_str().unwrap(), None).await.unwrap();
        assert_eq!(role_of(&stage, &answer), FREE);
    }
}

#[tokio::test]
async fn rules_choose_by_claims_and_the_first_wins() {
    let rule = |claim: &str, match_type: &str, value: &str, role: &str| RoleRuleSeed {
        claim: claim.into(),
        match_type: match_type.into(),
        value: value.into(),
        role_arn: role.into(),
    };
    let cases = [
        (vec![rule("email", "Equals", "ann@example.com", PAID), rule("email", "Contains", "@", FREE)], Some(PAID)),
        (vec![rule("email", "StartsWith", "ben", PAID), rule("email", "Contains", "example", FREE)], Some(FREE)),
        (vec![rule("email", "NotEqual", "ben@example.com", PAID)], Some(PAID)),
        (vec![rule("tier", "NotEqual", "paid", PAID)], None),
        (vec![rule("email", "Matches", "ann@example.com", PAID)], None),
    ];
    for (rules, expected) in cases {
        let mut seeds = Seeds::default();
        let kind = RoleMappingKind::Rules(rules);
        let mapping = RoleMappingSeed { kind, ambiguous_gives_authenticated_role: false };
        seeds.identity_pool.role_mappings.insert(format!("{LOGIN}:{CLIENT}"), mapping);
        let stage = Stage::with(&seeds, None);
        stage.free_user("ann@example.com").await;
        let token = stage.id_token("ann@example.com").await;
        let id = get_id(&stage, &token).await.unwrap()["IdentityId"].take();
        let answer = credentials(&stage, &id, &token, None).await;
        match expected {
            Some(role) => assert_eq!(role_of(&stage, &answer.unwrap()), role),
            None => assert_eq!(refused(answer).0, "NotAuthorizedException"),
        }
    }
}

#[tokio::test]
async fn a_role_that_does_not_trust_the_pool_is_a_wrong_configuration() {
    let mut roles_changed = Seeds::default();
    let free = roles_changed.roles.iter_mut().find(|role| role.arn == FREE).unwrap();
    free.trust_policy["Statement"][0]["Condition"]["StringEquals"] =
        json!({ "cognito-identity.amazonaws.com:aud": "us-east-1:another" });
    let mut role_missing = Seeds::default();
    role_missing.roles.retain(|role| role.arn != FREE);
    for seeds in [roles_changed, role_missing] {
        let stage = Stage::with(&seeds, None);
        stage.free_user("ann@example.com").await;
        let token = stage.id_token("ann@example.com").await;
        let id = get_id(&stage, &token).await.unwrap()["IdentityId"].take();
        let (code, message) = refused(credentials(&stage, &id, &token, None).await);
        assert_eq!(code, INVALID_CONFIGURATION);
        assert_eq!(message, "Invalid identity pool configuration. Check assigned IAM roles for this pool.");
    }
    let mut no_guest_role = Seeds::default();
    no_guest_role.identity_pool.allow_unauthenticated = true;
    no_guest_role.identity_pool.unauthenticated_role_arn = None;
    let stage = Stage::with(&no_guest_role, None);
    let guest = stage.identity("GetId", json!({ "IdentityPoolId": IDENTITY_POOL })).await.unwrap();
    assert_eq!(refused(stage.identity("GetCredentialsForIdentity", guest).await).0, INVALID_CONFIGURATION);
}

#[tokio::test]
async fn a_restart_keeps_identities_and_credentials() {
    let dir = tempfile::tempdir().unwrap();
    let first = Stage::with(&Seeds::default(), Some(dir.path()));
    first.free_user("ann@example.com").await;
    let token = first.id_token("ann@example.com").await;
    let id = get_id(&first, &token).await.unwrap()["IdentityId"].take();
    let answer = credentials(&first, &id, &token, None).await.unwrap();
    drop(first);
    let again = Stage::with(&Seeds::default(), Some(dir.path()));
    assert_eq!(get_id(&again, &token).await.unwrap()["IdentityId"], id);
    assert_eq!(role_of(&again, &answer), FREE);
    let secret = again.sts.secret(answer["Credentials"]["AccessKeyId"].as_str().unwrap()).unwrap();
    assert_eq!(secrecy::ExposeSecret::expose_secret(&secret), answer["Credentials"]["SecretKey"].as_str().unwrap());
}

#[tokio::test]
async fn what_the_pool_is_made_of_is_the_administrators_to_see() {
    let stage = Stage::new();
    stage.free_user("ann@example.com").await;
    let id = get_id(&stage, &stage.id_token("ann@example.com").await).await.unwrap()["IdentityId"].take();
    let body = json!({ "IdentityPoolId": IDENTITY_POOL, "IdentityId": id });
    let call = async |action: &str, auth: &Auth| {
        stage.identity_pools.call(action, body.clone(), auth, &stage.user_pools, &stage.sts).await
    };
    for action in ["DescribeIdentityPool", "GetIdentityPoolRoles", "DescribeIdentity", "ListIdentityPools"] {
        assert_eq!(refused(call(action, &Auth::Anonymous).await).0, "MissingAuthenticationTokenException");
    }
    let pool = call("DescribeIdentityPool", &Auth::Administrator).await.unwrap();
    assert_eq!((&pool["AllowClassicFlow"], &pool["AllowUnauthenticatedIdentities"]), (&json!(false), &json!(false)));
    let roles = call("GetIdentityPoolRoles", &Auth::Administrator).await.unwrap();
    assert_eq!(roles["RoleMappings"][format!("{LOGIN}:{CLIENT}")]["AmbiguousRoleResolution"], "Deny");
    assert_eq!(roles["Roles"]["authenticated"], FREE);
    assert_eq!(call("DescribeIdentity", &Auth::Administrator).await.unwrap()["Logins"], json!([LOGIN]));
    let pools = call("ListIdentityPools", &Auth::Administrator).await.unwrap();
    assert_eq!(pools["IdentityPools"][0]["IdentityPoolId"], IDENTITY_POOL);
}
