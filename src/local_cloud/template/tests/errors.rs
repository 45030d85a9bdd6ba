//! Every mistake is told with its place.

use super::*;

fn error_of(template: &str) -> String {
    match load(template, &Options::default()) {
        Ok(seed) => panic!("no error, but {seed:?}"),
        Err(error) => error.to_string(),
    }
}

const BUCKET: &str = "Resources:\n  B:\n    Type: AWS::S3::Bucket\n    Properties:\n      BucketName: ";

#[test]
fn mistakes_in_values_say_where_and_what() {
    let cases = [
        ("!Ref Nothing", "Resources.B.Properties.BucketName.Ref: `Nothing` cannot be resolved: there is no parameter"),
        ("!GetAtt Nothing.Arn", "Resources.B.Properties.BucketName.Fn::GetAtt: `Nothing` cannot be resolved"),
        ("!Sub 'x-${Gone}'", "Resources.B.Properties.BucketName.Fn::Sub: `Gone` cannot be resolved"),
        ("!Sub 'x-${aws:username}'", "a policy variable that IAM is to fill in is written ${!…} in Fn::Sub"),
        ("!Sub 'x-${'", "`${` without `}`"),
        ("!Sub '${AWS::NoValue}'", "`AWS::NoValue` cannot be resolved: it is not one text"),
        ("!Sub [a]", "Fn::Sub: expected a text and an object of its own variables, found a list of 1"),
        ("!Join a", "Fn::Join: expected a delimiter and a list, found `a`"),
        ("!Join ['-', x]", "Fn::Join[1]: expected a list, found `x`"),
        ("!Join ['-', [[x]]]", "Fn::Join[1]: expected texts, found a list of 1"),
        ("!Select [5, [a, b]]", "Fn::Select[0]: `5` is not usable: it has to be an index into a list of 2"),
        ("!Select [-1, [a, b]]", "Fn::Select[0]: `-1` is not usable"),
        ("!Split ['', a]", "Fn::Split[0]: expected a delimiter that is not empty"),
        ("!If [Nope, a, b]", "`Nope` cannot be resolved: there is no condition of that name"),
        ("!If [a, b]", "Fn::If: expected a condition's name and two values, found a list of 2"),
        ("!FindInMap [M, a, b]", "`M.a.b` cannot be resolved: Mappings has no such entry"),
        ("!ImportValue x", "the local cloud does not have Fn::ImportValue"),
        ("!Equals [a, a]", "Fn::Equals outside of Conditions"),
        ("{Ref: B, x: y}", "a function has to be the only key of its object"),
        ("!GetAtt B", "expected `LogicalId.Attribute` or a list of the two, found `B`"),
        ("[a]", "Resources.B.Properties.BucketName: expected a text, found a list of 1"),
        ("", "Resources.B.Properties.BucketName: expected a value, found nothing"),
        ("Has_Capitals", "Resources.B.Properties.BucketName: `Has_Capitals` is not usable: a bucket's name"),
        ("!Ref B", "a circle of references: B → B"),
    ];
    for (value, expected) in cases {
        let error = error_of(&format!("{BUCKET}{value}\n"));
        assert!(error.contains(expected), "{value}: {error}");
    }
}

#[test]
fn mistakes_in_the_frame_say_where_and_what() {
    let cases = [
        ("{", "neither YAML nor JSON"),
        ("Resources: [a", "neither YAML nor JSON"),
        ("a: 1\na: 2", "duplicate"),
        ("x", "the template: expected an object, found `x`"),
        ("Description: x", "the template: Resources is missing"),
        ("Resources: []", "Resources: expected an object, found a list of 0"),
        ("Resource: {}", "the template: `Resource` does not exist there"),
        ("Transform: AWS::Serverless-2016-10-31\nResources: {A: {Type: X}}", "does not have Transform"),
        ("Resources: {A: 1}", "Resources.A: expected an object, found `1`"),
        ("Resources: {A: {}}", "Resources.A: Type is missing"),
        ("Resources: {A: {Type: AWS::S3::Bucket, Propertys: {}}}", "Resources.A: `Propertys` does not exist there"),
        ("Resources: {a-b: {Type: AWS::S3::Bucket}}", "Resources.a-b: `a-b` is not usable"),
        ("Resources: {A: {Type: AWS::S3::Bucket, DependsOn: Z}}", "Resources.A.DependsOn: `Z` cannot be resolved"),
        ("Resources: {A: {Type: AWS::S3::Bucket, Condition: Z}}", "Resources.A.Condition: `Z` cannot be resolved"),
        (
            "Resources: {Q: {Type: AWS::SQS::Queue, Properties: {N: !Ref Z}}}",
            "Resources.Q.Properties.N.Ref: `Z` cannot",
        ),
        (
            "Resources: {A: {Type: AWS::S3::Bucket, DependsOn: Q}, Q: {Type: AWS::SQS::Queue, DependsOn: [A]}}",
            "a circle of references: A → Q → A",
        ),
        (
            "Conditions: {A: !Condition B, B: !Not [!Condition A]}\nResources: {A: {Type: X}}",
            "a circle of references: condition A → condition B → condition A",
        ),
        (
            "Conditions: {A: !Equals [!Ref B, x]}\nResources: {B: {Type: AWS::S3::Bucket}}",
            "Conditions.A.Fn::Equals[0].Ref: `B` cannot be resolved: conditions may refer to parameters only",
        ),
        ("Conditions: {A: x}\nResources: {B: {Type: X}}", "Conditions.A: expected Fn::Equals, Fn::And"),
        ("Conditions: {A: !Or [!Equals [a, b]]}\nResources: {B: {Type: X}}", "a list of two to ten conditions"),
        (
            "Conditions: {No: !Equals [a, b]}\nResources: {A: {Type: AWS::S3::Bucket, Condition: No}, \
             P: {Type: AWS::S3::BucketPolicy, Properties: {Bucket: !Ref A}}}",
            "Resources.P.Properties.Bucket.Ref: `A` cannot be resolved: the resource does not exist, because the \
             condition No is false",
        ),
        ("Parameters: {A: {Type: String}}\nResources: {B: {Type: X}}", "Parameters.A: it has no default, and no value"),
        ("Parameters: {A: {Default: x}}\nResources: {B: {Type: X}}", "Parameters.A: Type is missing"),
        ("Parameters: {A: {Type: Text, Default: x}}\nResources: {B: {Type: X}}", "the type `Text` does not exist"),
        ("Parameters: {A: {Type: Number, Default: x}}\nResources: {B: {Type: X}}", "`x` is not a number"),
        (
            "Parameters: {A: {Type: 'AWS::SSM::Parameter::Value<String>', Default: x}}\nResources: {B: {Type: X}}",
            "Parameters.A: the local cloud has no Parameter Store",
        ),
        ("Resources: {B: {Type: X}}\nOutputs: {O: {}}", "Outputs.O: Value is missing"),
        (
            "Resources: {B: {Type: X}}\nOutputs: {O: {Value: [a]}}",
            "Outputs.O.Value: expected a text, found a list of 1",
        ),
    ];
    for (template, expected) in cases {
        let error = error_of(template);
        assert!(error.contains(expected), "{template}: {error}");
    }
}

#[test]
fn parameters_are_checked_against_their_definition() {
    let cases = [
        ("Nope", "1", "Parameters.Nope: the template has no such parameter; it has: AbortIncomplete"),
        ("AllowGuests", "yes", "Parameters.AllowGuests: `yes` is none of true, false"),
        ("BucketName", "ab", "Parameters.BucketName: `ab` is below the MinLength of 3"),
        ("PasswordMinimumLength", "100", "`100` is above the MaxValue of 99"),
        ("PasswordMinimumLength", "ten", "`ten` is not a number"),
        ("PasswordMinimumLength", "8.5", "MinimumLength: expected a whole number, found `8.5`"),
        ("AbortIncompleteUploadsAfterDays", "1", "`1` is below the MinValue of 7"),
    ];
    for (name, value, expected) in cases {
        let error = load(built_in(), &options(&[(name, value)])).unwrap_err().to_string();
        assert!(error.contains(expected), "{name}={value}: {error}");
    }
}

/// One change to the deployed template each, and what is said about it.
#[test]
fn mistakes_in_the_known_resources_say_where_and_what() {
    let cases = [
        ("IdTokenValidity: 60", "IdTokenValidity: 4", "IdTokenValidity: `4` is not usable: 240 s is not from 300 s"),
        ("RefreshToken: days", "RefreshToken: weeks", "it has to be one of seconds, minutes, hours, days"),
        ("- ALLOW_USER_SRP_AUTH", "- ALLOW_SRP", "ExplicitAuthFlows[0]: `ALLOW_SRP` is not usable"),
        ("Feature: DISABLED", "Feature: ENABLED", "must not have ALLOW_REFRESH_TOKEN_AUTH"),
        ("PreventUserExistenceErrors: ENABLED", "PreventUserExistenceErrors: YES", "one of ENABLED, LEGACY"),
        (
            "RoleArn: !GetAtt PaidTierRole.Arn",
            "RoleArn: !Ref PaidTierRole",
            "Resources.PaidTierGroup.Properties.RoleArn",
        ),
        ("GroupName: paid-tier", "GroupName: free-tier", "another group of the pool has the same name"),
        ("Precedence: 10", "Precedence: first", "Precedence: expected a whole number, found `first`"),
        ("authenticated: !GetAtt", "member: !GetAtt", "a role is either `authenticated` or `unauthenticated`"),
        (
            "Type: Token",
            "Type: Tokens",
            "RoleMappings.UserPool.Type: `Tokens` is not usable: it has to be one of Token",
        ),
        ("Type: Token\n", "Type: Rules\n", "RoleMappings.UserPool: RulesConfiguration is missing"),
        ("Effect: Deny", "Effect: Forbid", "Resources.BucketPolicy.Properties.PolicyDocument: Statement[0].Effect"),
        ("Principal: \"*\"", "Principle: \"*\"", "unknown element `Principle`"),
        ("Sid: OwnPremiumPhotos", "Sid: OwnFreePhotos", "Policies[0].PolicyDocument: Statement[1].Sid"),
        (
            "ForAnyValue:StringLike",
            "ForAnyValue:StringsLike",
            "the condition operator `ForAnyValue:StringsLike` does not",
        ),
        ("Resource: !Sub ${Bucket.Arn}", "Resource: !Sub ${Bucket}", "a resource is `*` or an ARN"),
        ("Status: Enabled", "Status: On", "Rules[0].Status"),
        ("Bucket: !Ref Bucket", "Bucket: elsewhere", "no bucket of the template has this name"),
        ("UserPoolId: !Ref UserPool", "UserPoolId: us-east-1_other", "no user pool of the template has this id"),
        ("IdentityPoolId: !Ref IdentityPool\n", "IdentityPoolId: x\n", "no identity pool of the template has this id"),
        ("ProviderName: !GetAtt UserPool.ProviderName", "ProviderName: !GetAtt UserPool.Arn", "it has to look like"),
        ("!GetAtt UserPool.ProviderName", "!GetAtt UserPool.Name", "AWS::Cognito::UserPool has the attributes Arn, "),
        ("AllowClassicFlow: false", "AllowClassicFlow: no-way", "expected true or false, found `no-way`"),
    ];
    for (from, to, expected) in cases {
        assert!(built_in().contains(from), "the template has `{from}`");
        let error = error_of(&built_in().replacen(from, to, 1));
        assert!(error.contains(expected), "{to}: {error}");
    }
}

#[test]
fn what_would_narrow_a_role_is_never_left_out() {
    let text = built_in().replacen(
        "      AssumeRolePolicyDocument:",
        "      PermissionsBoundary: arn:aws:iam::123456789012:policy/b\n      AssumeRolePolicyDocument:",
        1,
    );
    assert!(error_of(&text).contains("does not have permissions boundaries"));
}

#[test]
fn options_are_checked() {
    for (options, place) in [
        (Options { region: "us east".into(), ..Options::default() }, "AWS::Region"),
        (Options { account_id: "1".into(), ..Options::default() }, "AWS::AccountId"),
        (Options { stack_name: String::new(), ..Options::default() }, "AWS::StackName"),
    ] {
        assert!(load(built_in(), &options).unwrap_err().to_string().starts_with(place));
    }
}
