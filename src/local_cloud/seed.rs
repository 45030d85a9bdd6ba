//! What a template says, resolved: no intrinsic function is left. `template` makes it, the services start from it.

use std::collections::BTreeMap;

/// Everything that a template describes.
#[derive(Debug, Clone, Default)]
pub struct Seed {
    /// The account's id, 12 digits.
    pub account_id: String,
    /// The region.
    pub region: String,
    /// User pools.
    pub user_pools: Vec<UserPoolSeed>,
    /// Identity pools.
    pub identity_pools: Vec<IdentityPoolSeed>,
    /// Roles.
    pub roles: Vec<RoleSeed>,
    /// Buckets.
    pub buckets: Vec<BucketSeed>,
    /// The template's `Outputs`.
    pub outputs: BTreeMap<String, String>,
    /// Resource types that the local cloud does not know: "LogicalId (AWS::X::Y)".
    pub unknown_resources: Vec<String>,
}

/// `AWS::Cognito::UserPool` with its clients and groups.
#[derive(Debug, Clone, Default)]
pub struct UserPoolSeed {
    /// `us-east-1_…`; derived from the logical id, stable from start to start.
    pub id: String,
    /// Its name.
    pub name: String,
    /// `UsernameAttributes` contains `email`: people sign in with the address.
    pub email_as_username: bool,
    /// `AliasAttributes` contains `email`: a proven address is another name of its user.
    pub email_as_alias: bool,
    /// `AutoVerifiedAttributes` contains `email`: a code is sent at sign-up.
    pub auto_verify_email: bool,
    /// `AdminCreateUserConfig.AllowAdminCreateUserOnly` is false.
    pub allow_sign_up: bool,
    /// `PreventUserExistenceErrors` is per client; the password policy is the pool's.
    pub password_policy: PasswordPolicySeed,
    /// Its app clients.
    pub clients: Vec<UserPoolClientSeed>,
    /// Its groups.
    pub groups: Vec<GroupSeed>,
    /// Other providers whose users may come in.
    pub identity_providers: Vec<IdentityProviderSeed>,
    /// Second factors.
    pub mfa: MfaSeed,
    /// `DeviceConfiguration`: devices are remembered.
    pub devices: Option<DevicesSeed>,
    /// `Policies.SignInPolicy.AllowedFirstAuthFactors`: `PASSWORD`, `EMAIL_OTP`, `SMS_OTP`; empty for passwords alone.
    pub first_factors: Vec<String>,
    /// The attributes that `Schema` requires.
    pub required_attributes: Vec<String>,
    /// What runs before a user of another provider is made.
    pub pre_sign_up: PreSignUp,
}

/// `MfaConfiguration` and `EnabledMfas`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MfaSeed {
    /// Whom it is for.
    pub mode: MfaMode,
    /// `SOFTWARE_TOKEN_MFA`: authenticator apps.
    pub software_token: bool,
    /// `SMS_MFA`.
    pub sms: bool,
    /// `EMAIL_OTP`.
    pub email: bool,
}

/// Who is asked for a second factor.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum MfaMode {
    /// Nobody.
    #[default]
    Off,
    /// Who has set one up.
    Optional,
    /// Everybody.
    On,
}

/// `DeviceConfiguration`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DevicesSeed {
    /// `ChallengeRequiredOnNewDevice`: a remembered device stands in for the second factor.
    pub replace_second_factor: bool,
    /// `DeviceOnlyRememberedOnUserPrompt`: the app says which device is remembered.
    pub ask_user: bool,
}

/// The pre-sign-up trigger of a user pool (`PreSignUp_ExternalProvider`): not what the template says, because a template
/// for AWS names a function and no code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PreSignUp {
    /// Nothing: every provider's user is a user of their own.
    #[default]
    None,
    /// [`crate::pre_sign_up`], and the sign-in goes on.
    Link,
    /// The same, but the sign-in in which a link was made fails with "Already found an entry for username …", as has
    /// been seen of AWS: the next one goes through.
    LinkAndFailOnce,
}

/// `AWS::Cognito::UserPoolIdentityProvider`.
#[derive(Debug, Clone, Default)]
pub struct IdentityProviderSeed {
    /// `ProviderName`, for example `Google` or `SignInWithApple`.
    pub name: String,
    /// `ProviderType`: `Google`, `SignInWithApple` or `OIDC`.
    pub kind: String,
    /// `ProviderDetails`: `client_id`, `client_secret`, `authorize_scopes`, `oidc_issuer`, …
    pub details: BTreeMap<String, String>,
    /// `AttributeMapping`: the pool's attribute to the provider's claim.
    pub attribute_mapping: BTreeMap<String, String>,
}

/// `Policies.PasswordPolicy`, with Cognito's defaults where it is silent.
#[derive(Debug, Clone)]
pub struct PasswordPolicySeed {
    /// Fewest characters.
    pub minimum_length: usize,
    /// Needs a lower-case letter.
    pub require_lowercase: bool,
    /// Needs an upper-case letter.
    pub require_uppercase: bool,
    /// Needs a digit.
    pub require_numbers: bool,
    /// Needs a special character.
    pub require_symbols: bool,
}

impl Default for PasswordPolicySeed {
    fn default() -> Self {
        Self {
            minimum_length: 8,
            require_lowercase: true,
            require_uppercase: true,
            require_numbers: true,
            require_symbols: true,
        }
    }
}

/// `AWS::Cognito::UserPoolClient`.
#[derive(Debug, Clone, Default)]
pub struct UserPoolClientSeed {
    /// 26 lower-case letters and digits; derived from the logical id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// `ALLOW_USER_PASSWORD_AUTH`, `ALLOW_USER_SRP_AUTH`, `ALLOW_REFRESH_TOKEN_AUTH`, …
    pub explicit_auth_flows: Vec<String>,
    /// Lifetime of ID tokens, in seconds.
    pub id_token_validity_s: u64,
    /// Lifetime of access tokens, in seconds.
    pub access_token_validity_s: u64,
    /// Lifetime of refresh tokens, in seconds.
    pub refresh_token_validity_s: u64,
    /// `AuthSessionValidity`: how long a challenge waits for its answer, in seconds; 0 for Cognito's 180.
    pub auth_session_validity_s: u64,
    /// `PreventUserExistenceErrors: ENABLED`.
    pub prevent_user_existence_errors: bool,
    /// `EnableTokenRevocation`.
    pub enable_token_revocation: bool,
    /// `RefreshTokenRotation` is on: the grace for the old token, in seconds.
    pub refresh_token_rotation_grace_s: Option<u64>,
    /// `CallbackURLs`.
    pub callback_urls: Vec<String>,
    /// `LogoutURLs`.
    pub logout_urls: Vec<String>,
    /// `AllowedOAuthScopes`.
    pub allowed_oauth_scopes: Vec<String>,
    /// `SupportedIdentityProviders`; `COGNITO` is the pool itself.
    pub supported_identity_providers: Vec<String>,
}

/// `AWS::Cognito::UserPoolGroup`.
#[derive(Debug, Clone, Default)]
pub struct GroupSeed {
    /// Its name.
    pub name: String,
    /// Lower goes first.
    pub precedence: Option<u32>,
    /// The role of its members.
    pub role_arn: Option<String>,
}

/// `AWS::Cognito::IdentityPool` with its role attachment.
#[derive(Debug, Clone, Default)]
pub struct IdentityPoolSeed {
    /// `us-east-1:uuid`; derived from the logical id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Guests get credentials.
    pub allow_unauthenticated: bool,
    /// The basic flow is on.
    pub allow_classic_flow: bool,
    /// (provider name `cognito-idp.REGION.amazonaws.com/POOL`, client id) pairs that are trusted.
    pub cognito_providers: Vec<(String, String)>,
    /// The default role of signed-in users.
    pub authenticated_role_arn: Option<String>,
    /// The role of guests.
    pub unauthenticated_role_arn: Option<String>,
    /// Role mappings by `provider:client`.
    pub role_mappings: BTreeMap<String, RoleMappingSeed>,
}

/// How a provider's users get their role.
#[derive(Debug, Clone)]
pub struct RoleMappingSeed {
    /// By token, or by rules.
    pub kind: RoleMappingKind,
    /// Where nothing decides: true gives the default role, false denies (`AmbiguousRoleResolution`).
    pub ambiguous_gives_authenticated_role: bool,
}

/// The two kinds of role mapping.
#[derive(Debug, Clone)]
pub enum RoleMappingKind {
    /// `cognito:preferred_role` and `cognito:roles`.
    Token,
    /// The first rule whose claim matches.
    Rules(Vec<RoleRuleSeed>),
}

/// One rule of a role mapping.
#[derive(Debug, Clone)]
pub struct RoleRuleSeed {
    /// The claim's name.
    pub claim: String,
    /// `Equals`, `Contains`, `StartsWith`, `NotEqual`.
    pub match_type: String,
    /// The value.
    pub value: String,
    /// The role.
    pub role_arn: String,
}

/// `AWS::IAM::Role` (with the `AWS::IAM::Policy` and `ManagedPolicy` resources attached to it).
#[derive(Debug, Clone, Default)]
pub struct RoleSeed {
    /// Its ARN.
    pub arn: String,
    /// Its name.
    pub name: String,
    /// `AssumeRolePolicyDocument`, as JSON.
    pub trust_policy: serde_json::Value,
    /// Its permission policies, as JSON.
    pub policies: Vec<serde_json::Value>,
    /// `MaxSessionDuration`.
    pub max_session_duration_s: u64,
}

/// `AWS::S3::Bucket`.
#[derive(Debug, Clone, Default)]
pub struct BucketSeed {
    /// Its name.
    pub name: String,
    /// Versioning is on.
    pub versioning: bool,
    /// `AbortIncompleteMultipartUpload.DaysAfterInitiation`, where a lifecycle rule says so.
    pub abort_multipart_after_days: Option<u32>,
    /// `AWS::S3::BucketPolicy`, as JSON.
    pub policy: Option<serde_json::Value>,
}
