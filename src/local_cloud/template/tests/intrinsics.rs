//! Every intrinsic function, by what it makes of an output's value.

use super::*;

const FRAME: &str = r#"
AWSTemplateFormatVersion: "2010-09-09"
Parameters:
  Stage: { Type: String, Default: test }
  Count: { Type: Number, Default: 3 }
  Names: { Type: CommaDelimitedList, Default: "ann, bob ,carl" }
Mappings:
  Limits:
    test: { days: 3, regions: [a, b] }
    live: { days: 30 }
    123456789012: { days: 12 }
Conditions:
  IsTest: !Equals [!Ref Stage, test]
  IsLive: !Not [!Condition IsTest]
  Both: !And [!Condition IsTest, !Condition IsLive]
  Either: !Or [!Condition Both, !Equals [!Ref Count, 3]]
  InMap: !Equals [!FindInMap [Limits, !Ref Stage, days], "3"]
Resources:
  Pool:
    Type: AWS::Cognito::UserPool
  Client:
    Type: AWS::Cognito::UserPoolClient
    Properties: { UserPoolId: !Ref Pool }
  Photos:
    Type: AWS::S3::Bucket
    Properties: { BucketName: !Sub "photos-${Stage}" }
  Generated:
    Type: AWS::S3::Bucket
  LiveOnly:
    Type: AWS::S3::Bucket
    Condition: IsLive
  Queue:
    Type: AWS::SQS::Queue
    Properties:
      Name: !ImportValue not-looked-at
      Tags: [!Ref Stage]
Outputs:
  Out:
    Value: VALUE
"#;

fn output(value: &str) -> Result<String, TemplateError> {
    let template = FRAME.replace("VALUE", value);
    load(&template, &Options::default()).map(|seed| seed.outputs["Out"].clone())
}

#[test]
fn functions_give_what_cloudformation_gives() {
    let cases = [
        ("!Ref Stage", "test"),
        ("{Ref: Stage}", "test"),
        ("!Ref Count", "3"),
        ("!Ref Photos", "photos-test"),
        ("!Ref AWS::Region", "us-east-1"),
        ("!Ref AWS::AccountId", "123456789012"),
        ("!Ref AWS::Partition", "aws"),
        ("!Ref AWS::URLSuffix", "amazonaws.com"),
        ("!Ref AWS::StackName", "tidegate"),
        ("!GetAtt Photos.Arn", "arn:aws:s3:::photos-test"),
        ("{Fn::GetAtt: [Photos, RegionalDomainName]}", "photos-test.s3.us-east-1.amazonaws.com"),
        ("!GetAtt [Photos, !Join ['', [A, rn]]]", "arn:aws:s3:::photos-test"),
        ("!Sub 'a-${Stage}-${AWS::Region}-${Photos.Arn}'", "a-test-us-east-1-arn:aws:s3:::photos-test"),
        ("!Sub ['${Mine}/${Stage}', {Mine: !Ref Count}]", "3/test"),
        ("!Sub ['${Stage}', {Stage: own}]", "own"),
        ("!Sub 'x/${!aws:username}/$y'", "x/${aws:username}/$y"),
        ("!Sub '${ Stage }'", "test"),
        ("!Join ['-', [a, !Ref Stage, 5]]", "a-test-5"),
        ("!Join [',', !Ref Names]", "ann,bob,carl"),
        ("!Join ['-', [a, !Ref 'AWS::NoValue', b]]", "a-b"),
        ("!Select [1, !Ref Names]", "bob"),
        ("!Select ['0', [x, y]]", "x"),
        ("!Select [2, !Split ['/', a/b/c]]", "c"),
        ("!Join ['+', !Split ['--', 'a--b--']]", "a+b+"),
        ("!If [IsTest, yes-test, no]", "yes-test"),
        ("!If [IsLive, yes, no-test]", "no-test"),
        ("!If [Both, yes, neither]", "neither"),
        ("!If [Either, one, neither]", "one"),
        ("!If [InMap, mapped, unmapped]", "mapped"),
        ("!If [IsLive, !Ref LiveOnly, none]", "none"),
        ("!FindInMap [Limits, test, days]", "3"),
        ("!FindInMap [Limits, !Ref 'AWS::AccountId', days]", "12"),
        ("!Select [1, !FindInMap [Limits, test, regions]]", "b"),
        ("!Base64 hello", "aGVsbG8="),
        ("{Fn::Base64: !Sub '${Stage}'}", "dGVzdA=="),
        ("!Ref Queue", "tidegate-Queue"),
        ("!GetAtt Queue.Arn", "arn:aws:sqs:us-east-1:123456789012:tidegate-Queue"),
        ("!GetAtt Queue.QueueName", "tidegate-Queue-QueueName"),
    ];
    for (value, expected) in cases {
        assert_eq!(output(value).as_deref(), Ok(expected), "{value}");
    }
}

#[test]
fn generated_ids_look_like_those_of_aws() {
    let pool = output("!Ref Pool").unwrap();
    assert_eq!(output("!GetAtt Pool.ProviderName").unwrap(), format!("cognito-idp.us-east-1.amazonaws.com/{pool}"));
    let url = format!("https://cognito-idp.us-east-1.amazonaws.com/{pool}");
    assert_eq!(output("!GetAtt Pool.ProviderURL").unwrap(), url);
    assert_eq!(
        output("!GetAtt Pool.Arn").unwrap(),
        format!("arn:aws:cognito-idp:us-east-1:123456789012:userpool/{pool}")
    );
    assert_eq!(output("!Ref Client").unwrap(), output("!GetAtt Client.ClientId").unwrap());
    let bucket = output("!Ref Generated").unwrap();
    assert!(bucket.starts_with("tidegate-generated-") && bucket.len() <= 63, "{bucket}");
    assert_eq!(bucket, bucket.to_lowercase());
    let stack = output("!Ref AWS::StackId").unwrap();
    assert!(stack.starts_with("arn:aws:cloudformation:us-east-1:123456789012:stack/tidegate/"), "{stack}");
}

#[test]
fn other_partitions_have_their_own_names() {
    let options = Options { region: "cn-north-1".to_owned(), ..Options::default() };
    let text = FRAME.replace("VALUE", "!Sub '${AWS::Partition} ${AWS::URLSuffix} ${Photos.Arn}'");
    let seed = load(&text, &options).unwrap();
    assert_eq!(seed.outputs["Out"], "aws-cn amazonaws.com.cn arn:aws-cn:s3:::photos-test");
}

#[test]
fn what_is_not_rehearsed_is_named_and_what_does_not_exist_is_left_out() {
    let seed = load(&FRAME.replace("VALUE", "x"), &Options::default()).unwrap();
    assert_eq!(seed.unknown_resources, ["Queue (AWS::SQS::Queue)"]);
    assert_eq!(seed.buckets.len(), 2, "LiveOnly does not exist");
    let live = load(&FRAME.replace("VALUE", "!Ref LiveOnly"), &options(&[("Stage", "live"), ("Count", "4")])).unwrap();
    assert_eq!(live.buckets.len(), 3);
    assert!(live.outputs["Out"].starts_with("tidegate-liveonly-"));
}

/// Policies find their roles from either side, once each.
#[test]
fn policies_are_attached_to_roles_in_every_way() {
    let statement = |sid: &str| {
        json!({ "Version": "2012-10-17",
            "Statement": [{ "Sid": sid, "Effect": "Allow", "Action": "s3:GetObject", "Resource": "*" }] })
    };
    let trust = json!({ "Version": "2012-10-17", "Statement": [{
        "Effect": "Allow", "Principal": { "Service": "lambda.amazonaws.com" }, "Action": "sts:AssumeRole" }] });
    let template = json!({ "Resources": {
        "R": { "Type": "AWS::IAM::Role", "Properties": {
            "RoleName": "worker", "Path": "/app/", "MaxSessionDuration": 7200, "AssumeRolePolicyDocument": trust,
            "Policies": [{ "PolicyName": "own", "PolicyDocument": statement("Own") }],
            "ManagedPolicyArns": [{ "Ref": "M1" }, { "Ref": "M2" }, "arn:aws:iam::aws:policy/ReadOnlyAccess"] } },
        "Inline": { "Type": "AWS::IAM::Policy", "Properties": {
            "PolicyName": "inline", "PolicyDocument": statement("Inline"), "Roles": [{ "Ref": "R" }] } },
        "ForRole": { "Type": "AWS::IAM::RolePolicy", "Properties": {
            "PolicyName": "for", "PolicyDocument": statement("ForRole"), "RoleName": "worker" } },
        "M1": { "Type": "AWS::IAM::ManagedPolicy", "Properties": { "PolicyDocument": statement("M1") } },
        "M2": { "Type": "AWS::IAM::ManagedPolicy", "Properties": { "PolicyDocument": statement("M2") } },
        "M3": { "Type": "AWS::IAM::ManagedPolicy", "Properties": {
            "PolicyDocument": statement("M3"), "Roles": [{ "Ref": "R" }] } },
    } });
    let seed = load(&template.to_string(), &Options::default()).unwrap();
    let role = &seed.roles[0];
    assert_eq!(role.arn, "arn:aws:iam::123456789012:role/app/worker");
    assert_eq!(role.max_session_duration_s, 7200);
    let sids: Vec<_> = role.policies.iter().map(|p| p["Statement"][0]["Sid"].as_str().unwrap()).collect();
    assert_eq!(sids, ["Own", "M1", "M2", "Inline", "ForRole", "M3"]);
    assert_eq!(seed.unknown_resources, ["R (managed policy arn:aws:iam::aws:policy/ReadOnlyAccess)"]);
}

/// The properties of Cognito that the built-in template does not use.
#[test]
fn cognito_properties_are_read_with_their_defaults() {
    let template = json!({ "Resources": {
        "P": { "Type": "AWS::Cognito::UserPool", "Properties": {
            "AdminCreateUserConfig": { "AllowAdminCreateUserOnly": "true" },
            "Policies": { "PasswordPolicy": { "MinimumLength": "6", "RequireNumbers": true } },
            "LambdaConfig": { "PostConfirmation": "arn:aws:lambda:us-east-1:123456789012:function:f" } } },
        "Default": { "Type": "AWS::Cognito::UserPool" },
        "Rotating": { "Type": "AWS::Cognito::UserPoolClient", "Properties": {
            "UserPoolId": { "Ref": "P" }, "ExplicitAuthFlows": ["ALLOW_USER_SRP_AUTH"],
            "RefreshTokenRotation": { "Feature": "ENABLED", "RetryGracePeriodSeconds": 45 },
            "IdTokenValidity": 5, "AccessTokenValidity": 300, "RefreshTokenValidity": 12,
            "TokenValidityUnits": { "IdToken": "minutes", "AccessToken": "seconds", "RefreshToken": "hours" },
            "CallbackURLs": ["http://127.0.0.1/done"] } },
        "Plain": { "Type": "AWS::Cognito::UserPoolClient", "Properties": {
            "UserPoolId": { "Ref": "P" }, "RefreshTokenValidity": 0, "IdTokenValidity": 2 } },
        "I": { "Type": "AWS::Cognito::IdentityPool", "Properties": {
            "AllowUnauthenticatedIdentities": true, "AllowClassicFlow": true,
            "SupportedLoginProviders": { "graph.facebook.com": "1" } } },
        "A": { "Type": "AWS::Cognito::IdentityPoolRoleAttachment", "Properties": {
            "IdentityPoolId": { "Ref": "I" },
            "RoleMappings": { "cognito-idp.us-east-1.amazonaws.com/x:y": {
                "Type": "Rules", "AmbiguousRoleResolution": "Deny",
                "RulesConfiguration": { "Rules": [{ "Claim": "custom:plan", "MatchType": "Equals", "Value": "pro",
                    "RoleARN": "arn:aws:iam::123456789012:role/pro" }] } } } } },
    } });
    let seed = load(&template.to_string(), &Options::default()).unwrap();
    let pool = seed.user_pools.iter().find(|pool| !pool.clients.is_empty()).unwrap();
    assert!(!pool.allow_sign_up && !pool.email_as_username);
    assert_eq!((pool.password_policy.minimum_length, pool.password_policy.require_numbers), (6, true));
    assert!(!pool.password_policy.require_symbols, "what a policy does not require is not required");
    let default = seed.user_pools.iter().find(|pool| pool.clients.is_empty()).unwrap();
    assert!(default.password_policy.require_symbols && default.password_policy.minimum_length == 8);
    let [plain, rotating] = pool.clients.as_slice() else { panic!("two clients") };
    assert_eq!(rotating.refresh_token_rotation_grace_s, Some(45));
    let validity = |c: &crate::local_cloud::seed::UserPoolClientSeed| {
        (c.id_token_validity_s, c.access_token_validity_s, c.refresh_token_validity_s)
    };
    assert_eq!(validity(rotating), (300, 300, 43_200));
    assert_eq!(validity(plain), (7200, 3600, 30 * 86_400), "hours, and days, where no unit is named");
    assert_eq!(rotating.callback_urls, ["http://127.0.0.1/done"]);
    assert!(!plain.prevent_user_existence_errors && plain.enable_token_revocation);
    assert!(plain.explicit_auth_flows.iter().any(|flow| flow == "ALLOW_CUSTOM_AUTH"));
    let identities = &seed.identity_pools[0];
    assert!(identities.allow_unauthenticated && identities.allow_classic_flow);
    let (provider, mapping) = identities.role_mappings.iter().next().unwrap();
    assert_eq!(provider, "cognito-idp.us-east-1.amazonaws.com/x:y");
    assert!(!mapping.ambiguous_gives_authenticated_role);
    let RoleMappingKind::Rules(rules) = &mapping.kind else { panic!("rules") };
    assert_eq!((rules[0].claim.as_str(), rules[0].match_type.as_str()), ("custom:plan", "Equals"));
    let mut unknown = seed.unknown_resources.clone();
    unknown.sort();
    assert_eq!(
        unknown,
        ["I (AWS::Cognito::IdentityPool SupportedLoginProviders)", "P (AWS::Cognito::UserPool LambdaConfig)"]
    );
}
