#![allow(clippy::unwrap_used)]

use serde_json::{Value, json};

use super::*;
use crate::local_cloud::iam::{Context, Decision, Policy, Request, RequestPrincipal, evaluate};
use crate::local_cloud::seed::{DevicesSeed, MfaMode, MfaSeed, RoleMappingKind};

mod errors;
mod intrinsics;
mod mutations;

pub(super) fn options(parameters: &[(&str, &str)]) -> Options {
    let parameters = parameters.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    Options { parameters, ..Options::default() }
}

fn built_in_seed(parameters: &[(&str, &str)]) -> Seed {
    load(built_in(), &options(parameters)).unwrap()
}

/// The whole seed of the template that a team deploys, line by line.
#[test]
fn the_deployed_template_gives_exactly_this_seed() {
    let seed = built_in_seed(&[]);
    assert_eq!((seed.account_id.as_str(), seed.region.as_str()), ("123456789012", "us-east-1"));
    assert_eq!(seed.unknown_resources, Vec::<String>::new());

    let [pool] = seed.user_pools.as_slice() else { panic!("one user pool") };
    assert_eq!(pool.name, "photos-users");
    assert!(pool.id.starts_with("us-east-1_") && pool.id.len() == 19, "{}", pool.id);
    assert!(pool.email_as_username && pool.auto_verify_email && pool.allow_sign_up);
    let policy = &pool.password_policy;
    assert_eq!(
        (policy.minimum_length, policy.require_lowercase, policy.require_uppercase, policy.require_numbers),
        (10, true, true, true)
    );
    assert!(!policy.require_symbols);
    let apps = MfaSeed { mode: MfaMode::Optional, software_token: true, sms: false, email: false };
    assert_eq!((pool.mfa, pool.devices), (apps, None));
    assert!(pool.first_factors.is_empty() && pool.required_attributes.is_empty());

    let [client] = pool.clients.as_slice() else { panic!("one client") };
    assert!(client.id.len() == 26 && client.id.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit()));
    assert_eq!(client.name, "photos-device");
    let flows = ["ALLOW_USER_SRP_AUTH", "ALLOW_USER_PASSWORD_AUTH", "ALLOW_REFRESH_TOKEN_AUTH"];
    assert_eq!(client.explicit_auth_flows, flows);
    let validities = (client.id_token_validity_s, client.access_token_validity_s, client.refresh_token_validity_s);
    assert_eq!(validities, (3600, 3600, 30 * 86_400));
    assert!(client.prevent_user_existence_errors && client.enable_token_revocation);
    assert_eq!(client.refresh_token_rotation_grace_s, None);
    assert!(client.callback_urls.is_empty());

    let [free, paid] = seed.roles.as_slice() else { panic!("two roles, no guest role") };
    let mut groups: Vec<_> =
        pool.groups.iter().map(|g| (g.precedence, g.name.as_str(), g.role_arn.as_deref())).collect();
    groups.sort_unstable();
    let expected = [(Some(10), "paid-tier", Some(paid.arn.as_str())), (Some(20), "free-tier", Some(free.arn.as_str()))];
    assert_eq!(groups, expected);

    let [identities] = seed.identity_pools.as_slice() else { panic!("one identity pool") };
    assert_eq!(identities.name, "photos-identities");
    let uuid = identities.id.strip_prefix("us-east-1:").unwrap();
    assert_eq!(uuid.split('-').map(str::len).collect::<Vec<_>>(), [8, 4, 4, 4, 12]);
    assert!(!identities.allow_unauthenticated && !identities.allow_classic_flow);
    let provider = format!("cognito-idp.us-east-1.amazonaws.com/{}", pool.id);
    assert_eq!(identities.cognito_providers, [(provider.clone(), client.id.clone())]);
    assert_eq!(identities.authenticated_role_arn.as_deref(), Some(free.arn.as_str()));
    assert_eq!(identities.unauthenticated_role_arn, None);
    let mappings: Vec<_> = identities.role_mappings.iter().collect();
    let [(key, mapping)] = mappings.as_slice() else { panic!("one mapping") };
    assert_eq!(**key, format!("{provider}:{}", client.id));
    assert!(matches!(mapping.kind, RoleMappingKind::Token) && mapping.ambiguous_gives_authenticated_role);

    let trust = json!({ "Version": "2012-10-17", "Statement": [{
        "Effect": "Allow",
        "Principal": { "Federated": "cognito-identity.amazonaws.com" },
        "Action": "sts:AssumeRoleWithWebIdentity",
        "Condition": {
            "StringEquals": { "cognito-identity.amazonaws.com:aud": identities.id },
            "ForAnyValue:StringLike": { "cognito-identity.amazonaws.com:amr": "authenticated" },
        },
    }] });
    let allow = |sid: &str, tier: &str| {
        json!({ "Sid": sid, "Effect": "Allow", "Action": "s3:PutObject",
            "Resource": format!("arn:aws:s3:::app-photos/users/${{cognito-identity.amazonaws.com:sub}}/{tier}/*") })
    };
    let free_only = allow("OwnFreePhotos", "free");
    for (role, name, statements) in [
        (free, "FreeTierRole", vec![free_only.clone()]),
        (paid, "PaidTierRole", vec![free_only, allow("OwnPremiumPhotos", "premium")]),
    ] {
        assert!(role.name.starts_with(&format!("tidegate-{name}-")), "{}", role.name);
        assert_eq!(role.arn, format!("arn:aws:iam::123456789012:role/{}", role.name));
        assert_eq!(role.max_session_duration_s, 3600);
        assert_eq!(role.trust_policy, trust);
        assert_eq!(role.policies, [json!({ "Version": "2012-10-17", "Statement": statements })]);
    }

    let [bucket] = seed.buckets.as_slice() else { panic!("one bucket") };
    assert_eq!((bucket.name.as_str(), bucket.versioning), ("app-photos", false));
    assert_eq!(bucket.abort_multipart_after_days, Some(7));
    let tls_only = json!({ "Version": "2012-10-17", "Statement": [{
        "Sid": "TlsOnly", "Effect": "Deny", "Principal": "*", "Action": "s3:*",
        "Resource": ["arn:aws:s3:::app-photos", "arn:aws:s3:::app-photos/*"],
        "Condition": { "Bool": { "aws:SecureTransport": "false" } },
    }] });
    assert_eq!(bucket.policy, Some(tls_only));

    let outputs = [
        ("BucketName", "app-photos"),
        ("BucketOwner", "123456789012"),
        ("FreeTierRoleArn", &free.arn),
        ("IdentityPoolId", &identities.id),
        ("PaidTierRoleArn", &paid.arn),
        ("Region", "us-east-1"),
        ("UserPoolClientId", &client.id),
        ("UserPoolId", &pool.id),
    ];
    assert_eq!(seed.outputs.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect::<Vec<_>>(), outputs);
}

#[test]
fn ids_are_the_same_at_every_start_and_differ_between_stacks() {
    let of = |stack_name: &str, region: &str| {
        let options = Options { stack_name: stack_name.to_owned(), region: region.to_owned(), ..Options::default() };
        load(built_in(), &options).unwrap().outputs
    };
    assert_eq!(of("kiosk", "us-east-1"), of("kiosk", "us-east-1"));
    let (one, other, elsewhere) = (of("kiosk", "us-east-1"), of("camera", "us-east-1"), of("kiosk", "eu-west-1"));
    for output in ["UserPoolId", "UserPoolClientId", "IdentityPoolId", "FreeTierRoleArn"] {
        assert_ne!(one[output], other[output], "{output}");
        assert_ne!(one[output], elsewhere[output], "{output}");
    }
    assert!(elsewhere["UserPoolId"].starts_with("eu-west-1_"));
}

#[test]
fn parameters_change_what_they_say() {
    let seed = built_in_seed(&[
        ("BucketName", "my-photos"),
        ("AllowGuests", "true"),
        ("UsersWithoutGroup", "deny"),
        ("RefreshTokenValidityDays", "365"),
        ("PasswordMinimumLength", "14"),
        ("AppName", "kiosk"),
    ]);
    assert_eq!(seed.buckets[0].name, "my-photos");
    assert_eq!(seed.user_pools[0].name, "kiosk-users");
    assert_eq!(seed.user_pools[0].password_policy.minimum_length, 14);
    assert_eq!(seed.user_pools[0].clients[0].refresh_token_validity_s, 365 * 86_400);
    let pool = &seed.identity_pools[0];
    assert!(pool.allow_unauthenticated);
    let guest = seed.roles.iter().find(|role| role.name.contains("GuestRole")).unwrap();
    assert_eq!(pool.unauthenticated_role_arn.as_deref(), Some(guest.arn.as_str()));
    assert!(pool.role_mappings.values().all(|mapping| !mapping.ambiguous_gives_authenticated_role));
    let text = serde_json::to_string(&guest.policies).unwrap();
    assert!(text.contains("arn:aws:s3:::my-photos/users/${cognito-identity.amazonaws.com:sub}/free/*"), "{text}");
}

#[test]
fn the_ways_to_sign_in_come_by_their_parameters() {
    let pool = |parameters: &[(&str, &str)]| built_in_seed(parameters).user_pools.remove(0);
    assert_eq!(pool(&[("SecondFactor", "ON")]).mfa.mode, MfaMode::On);
    assert_eq!(pool(&[("SecondFactor", "OFF")]).mfa, MfaSeed::default());
    for (value, ask_user) in [("ask", true), ("always", false)] {
        let devices = Some(DevicesSeed { replace_second_factor: true, ask_user });
        assert_eq!(pool(&[("RememberDevices", value)]).devices, devices);
    }
    let mailed = pool(&[("SignInByMailedCode", "true")]);
    assert_eq!(mailed.first_factors, ["PASSWORD", "EMAIL_OTP"]);
    assert!(mailed.clients[0].explicit_auth_flows.contains(&"ALLOW_USER_AUTH".to_owned()));
}

#[test]
fn a_pool_says_who_is_asked_for_what() {
    let load = |properties: &str| {
        let text = format!("Resources:\n  P: {{ Type: AWS::Cognito::UserPool, Properties: {properties} }}\n");
        load(&text, &Options::default()).map(|mut seed| (seed.user_pools.remove(0), seed.unknown_resources))
    };
    let (pool, _) = load(
        "{ MfaConfiguration: \"ON\", EnabledMfas: [SMS_MFA, EMAIL_OTP], DeviceConfiguration: \
         { DeviceOnlyRememberedOnUserPrompt: true }, Schema: [{ Name: name, Required: true }, { Name: gender }] }",
    )
    .unwrap();
    assert_eq!(pool.mfa, MfaSeed { mode: MfaMode::On, software_token: false, sms: true, email: true });
    assert_eq!(pool.devices, Some(DevicesSeed { replace_second_factor: false, ask_user: true }));
    assert_eq!(pool.required_attributes, ["name"]);
    let (pool, _) = load("{ MfaConfiguration: OPTIONAL, SmsConfiguration: { SnsCallerArn: x } }").unwrap();
    assert!(pool.mfa.sms && pool.mfa.mode == MfaMode::Optional);
    let (pool, unknown) =
        load("{ Policies: { SignInPolicy: { AllowedFirstAuthFactors: [PASSWORD, WEB_AUTHN] } } }").unwrap();
    assert_eq!((pool.first_factors, unknown.len()), (vec!["PASSWORD".to_owned()], 1));
    for (properties, place) in [
        ("{ MfaConfiguration: OPTIONAL }", "Resources.P.Properties.MfaConfiguration"),
        ("{ MfaConfiguration: MAYBE }", "Resources.P.Properties.MfaConfiguration"),
        ("{ MfaConfiguration: OPTIONAL, EnabledMfas: [PALM] }", "Resources.P.Properties.EnabledMfas[0]"),
        ("{ Policies: { SignInPolicy: { AllowedFirstAuthFactors: [SMS_OTP] } } }", "Resources.P.Properties.Policies"),
    ] {
        let error = load(properties).unwrap_err().to_string();
        assert!(error.starts_with(place), "{error}");
    }
}

const ME: &str = "us-east-1:11111111-2222-4333-8444-555555555555";

fn session_context() -> Context {
    Context::from([
        ("cognito-identity.amazonaws.com:sub".to_owned(), vec![ME.to_owned()]),
        ("aws:SecureTransport".to_owned(), vec!["true".to_owned()]),
    ])
}

/// What the policies of the real template say, asked through the evaluator.
#[test]
fn the_two_roles_allow_what_the_scenario_says() {
    let seed = built_in_seed(&[]);
    let policies = |name: &str| -> Vec<Policy> {
        let role = seed.roles.iter().find(|role| role.name.contains(name)).unwrap();
        role.policies.iter().map(|policy| Policy::parse(policy).unwrap()).collect()
    };
    let bucket = Policy::parse_resource(seed.buckets[0].policy.as_ref().unwrap()).unwrap();
    let (free, paid) = (policies("FreeTierRole"), policies("PaidTierRole"));
    let other = "us-east-1:99999999-2222-4333-8444-555555555555";
    let context = session_context();
    let cases: [(&str, String, bool, bool); 11] = [
        ("s3:PutObject", format!("users/{ME}/free/a.jpg"), true, true),
        ("s3:PutObject", format!("users/{ME}/free/2026/11/a.jpg"), true, true),
        ("s3:PutObject", format!("users/{ME}/premium/a.jpg"), false, true),
        ("s3:PutObject", format!("users/{other}/free/a.jpg"), false, false),
        ("s3:PutObject", format!("users/{other}/premium/a.jpg"), false, false),
        ("s3:PutObject", format!("users/{ME}/free/../premium/x"), true, true),
        ("s3:PutObject", format!("users/{ME}/freeloader/x"), false, false),
        ("s3:PutObject", format!("users/{ME}/x"), false, false),
        ("s3:GetObject", format!("users/{ME}/free/a.jpg"), false, false),
        ("s3:AbortMultipartUpload", format!("users/{ME}/free/a.jpg"), false, false),
        ("s3:DeleteObject", format!("users/{ME}/free/a.jpg"), false, false),
    ];
    for (action, key, for_free, for_paid) in cases {
        let resource = format!("arn:aws:s3:::app-photos/{key}");
        for (role, expected) in [(&free, for_free), (&paid, for_paid)] {
            let principal = RequestPrincipal::Aws { arn: "arn:aws:sts::123456789012:assumed-role/r/s", role_arn: None };
            let request = Request { principal, action, resource: &resource, context: &context };
            let decision = evaluate(role.iter().chain([&bucket]), &request);
            assert_eq!(decision.is_allowed(), expected, "{action} {key}");
        }
    }
    let mut plain = context.clone();
    plain.insert("aws:SecureTransport".to_owned(), vec!["false".to_owned()]);
    let resource = format!("arn:aws:s3:::app-photos/users/{ME}/free/a.jpg");
    let principal = RequestPrincipal::Aws { arn: "arn:aws:sts::123456789012:assumed-role/r/s", role_arn: None };
    let request = Request { principal, action: "s3:PutObject", resource: &resource, context: &plain };
    assert_eq!(evaluate(free.iter().chain([&bucket]), &request), Decision::ExplicitDeny);
}

/// The hosted page is off unless it is named, and each provider unless it has its id.
#[test]
fn the_hosted_page_comes_by_its_parameters() {
    let off = built_in_seed(&[("GoogleClientId", "g")]);
    let client = &off.user_pools[0].clients[0];
    assert!(client.callback_urls.is_empty() && client.allowed_oauth_scopes.is_empty());
    assert!(off.user_pools[0].identity_providers.is_empty() && off.unknown_resources.is_empty());
    assert_eq!(client.supported_identity_providers, ["COGNITO"]);
    let callbacks = ("CallbackUrls", "https://app.example/in,http://localhost:1/in");
    let on = built_in_seed(&[("HostedDomainPrefix", "photos"), callbacks, ("AppleServicesId", "a")]);
    let client = &on.user_pools[0].clients[0];
    assert_eq!(client.callback_urls, ["https://app.example/in", "http://localhost:1/in"]);
    assert_eq!(client.supported_identity_providers, ["COGNITO", "SignInWithApple"]);
    let provider = &on.user_pools[0].identity_providers[0];
    assert_eq!((provider.kind.as_str(), provider.details["client_id"].as_str()), ("SignInWithApple", "a"));
    assert!(on.unknown_resources.is_empty(), "{:?}", on.unknown_resources);
}

/// The same template in JSON, with all functions in their long form, gives the same seed.
#[test]
fn json_and_yaml_are_the_same() {
    let yaml: serde_norway::Value = serde_norway::from_str(built_in()).unwrap();
    let json = serde_json::to_string_pretty(&long_forms(yaml)).unwrap();
    assert!(!json.contains("!Sub") && json.contains("Fn::Sub"));
    let from_json = load(&json, &Options::default()).unwrap();
    assert_eq!(format!("{from_json:?}"), format!("{:?}", built_in_seed(&[])));
}

/// An independent conversion, so that the loader's own is not compared with itself.
fn long_forms(yaml: serde_norway::Value) -> Value {
    match yaml {
        serde_norway::Value::Tagged(tagged) => {
            let tag = tagged.tag.to_string();
            let value = long_forms(tagged.value);
            match (tag.as_str(), value) {
                ("!Ref", value) => json!({ "Ref": value }),
                ("!Condition", value) => json!({ "Condition": value }),
                ("!GetAtt", Value::String(text)) => {
                    let (logical, attribute) = text.split_once('.').unwrap();
                    json!({ "Fn::GetAtt": [logical, attribute] })
                }
                (tag, value) => json!({ format!("Fn::{}", &tag[1..]): value }),
            }
        }
        serde_norway::Value::Sequence(items) => items.into_iter().map(long_forms).collect(),
        serde_norway::Value::Mapping(entries) => entries
            .into_iter()
            .map(|(key, value)| (key.as_str().unwrap().to_owned(), long_forms(value)))
            .collect::<serde_json::Map<_, _>>()
            .into(),
        plain => serde_json::to_value(plain).unwrap(),
    }
}
