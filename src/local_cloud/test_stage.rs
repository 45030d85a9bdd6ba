//! The scenario's pools and roles on a clock that the test moves: what the tests of the identity services start from.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

use crate::clock::{Clock, from_unix_ms};
use crate::local_cloud::counters::Counters;
use crate::local_cloud::error::AwsError;
use crate::local_cloud::identity_pool::{IdentityPools, PROVIDER};
use crate::local_cloud::seed::{
    GroupSeed, IdentityPoolSeed, MfaSeed, PasswordPolicySeed, PreSignUp, RoleMappingKind, RoleMappingSeed, RoleSeed,
    UserPoolClientSeed, UserPoolSeed,
};
use crate::local_cloud::site::Site;
use crate::local_cloud::state_dir::StateDir;
use crate::local_cloud::sts::{AdministratorKeys, Auth, Sts};
use crate::local_cloud::user_pool::{CodePurpose, UserPools};

pub const POOL: &str = "us-east-1_TideTest1";
pub const CLIENT: &str = "1clientclientclientclient1";
pub const LEGACY_CLIENT: &str = "2legacylegacylegacylegacy2";
pub const ROTATING_CLIENT: &str = "3rotatingrotatingrotating3";
pub const LOGIN: &str = "cognito-idp.us-east-1.amazonaws.com/us-east-1_TideTest1";
pub const IDENTITY_POOL: &str = "us-east-1:00000000-0000-4000-8000-000000000001";
pub const FREE: &str = "arn:aws:iam::000000000000:role/FreeTierRole";
pub const PAID: &str = "arn:aws:iam::000000000000:role/PaidTierRole";
pub const GUEST: &str = "arn:aws:iam::000000000000:role/GuestRole";
pub const BILLING: &str = "arn:aws:iam::000000000000:role/BillingRole";
pub const CALLBACK: &str = "http://127.0.0.1:8484/callback";
pub const SIGNED_OUT: &str = "http://127.0.0.1:8484/signed-out";
pub const PASSWORD: &str = "Tide-gate-2026";
pub const REFRESH_S: u64 = 30 * 86_400;

/// Everything started, and the clock.
pub struct Stage {
    pub site: Site,
    pub sts: Sts,
    pub user_pools: UserPools,
    pub identity_pools: IdentityPools,
}

/// What it starts from; a test changes what it is about.
pub struct Seeds {
    pub user_pool: UserPoolSeed,
    pub identity_pool: IdentityPoolSeed,
    pub roles: Vec<RoleSeed>,
}

impl Default for Seeds {
    fn default() -> Self {
        Self { user_pool: user_pool(), identity_pool: identity_pool(), roles: roles() }
    }
}

impl Stage {
    pub fn new() -> Self {
        Self::with(&Seeds::default(), None)
    }

    pub fn with(seeds: &Seeds, data_dir: Option<&Path>) -> Self {
        let site = Site {
            account_id: "000000000000".into(),
            region: "us-east-1".into(),
            base_url: "http://127.0.0.1:4566".into(),
            state: data_dir.map_or_else(StateDir::in_memory, |path| StateDir::at(path).unwrap()),
            clock: Clock::manual(from_unix_ms(1_790_000_000_500)),
            counters: Counters::default(),
        };
        let keys = AdministratorKeys { access_key_id: "AKIATIDEGATE".into(), secret_access_key: "rehearsal".into() };
        let sts = Sts::start(&site, &seeds.roles, keys).unwrap();
        let user_pools = UserPools::start(&site, std::slice::from_ref(&seeds.user_pool), &sts).unwrap();
        let identity_pools = IdentityPools::start(&site, std::slice::from_ref(&seeds.identity_pool)).unwrap();
        Self { site, sts, user_pools, identity_pools }
    }

    pub fn pass(&self, seconds: u64) {
        self.site.clock.advance(Duration::from_secs(seconds));
    }

    /// A call that nobody signed.
    pub async fn call(&self, action: &str, body: Value) -> Result<Value, AwsError> {
        self.user_pools.call(action, body, &Auth::Anonymous).await
    }

    /// An administrator's call; `UserPoolId` is added.
    pub async fn admin(&self, action: &str, mut body: Value) -> Result<Value, AwsError> {
        body["UserPoolId"] = json!(POOL);
        self.user_pools.call(action, body, &Auth::Administrator).await
    }

    pub async fn identity(&self, action: &str, body: Value) -> Result<Value, AwsError> {
        self.identity_pools.call(action, body, &Auth::Anonymous, &self.user_pools, &self.sts).await
    }

    pub async fn sign_up(&self, email: &str) -> Result<Value, AwsError> {
        let body = json!({ "ClientId": CLIENT, "Username": email, "Password": PASSWORD,
            "UserAttributes": [{ "Name": "email", "Value": email }] });
        self.call("SignUp", body).await
    }

    /// The latest code for an address.
    pub fn code(&self, email: &str, purpose: CodePurpose) -> String {
        let outbox = self.user_pools.outbox();
        let message = outbox.iter().rev().find(|message| message.to == email && message.purpose == purpose);
        message.expect("a code was sent").code.clone()
    }

    pub async fn confirm(&self, email: &str, code: &str) -> Result<Value, AwsError> {
        self.call("ConfirmSignUp", json!({ "ClientId": CLIENT, "Username": email, "ConfirmationCode": code })).await
    }

    /// A confirmed user of the free tier; their `sub`.
    pub async fn free_user(&self, email: &str) -> String {
        let sub = self.sign_up(email).await.unwrap()["UserSub"].as_str().unwrap().to_owned();
        self.confirm(email, &self.code(email, CodePurpose::ConfirmSignUp)).await.unwrap();
        self.add_to(email, "free-tier").await;
        sub
    }

    pub async fn add_to(&self, email: &str, group: &str) {
        self.admin("AdminAddUserToGroup", json!({ "Username": email, "GroupName": group })).await.unwrap();
    }

    pub async fn sign_in_at(&self, client: &str, email: &str, password: &str) -> Result<Value, AwsError> {
        let parameters = json!({ "USERNAME": email, "PASSWORD": password });
        let body = json!({ "ClientId": client, "AuthFlow": "USER_PASSWORD_AUTH", "AuthParameters": parameters });
        Ok(self.call("InitiateAuth", body).await?["AuthenticationResult"].take())
    }

    pub async fn sign_in(&self, email: &str) -> Value {
        self.sign_in_at(CLIENT, email, PASSWORD).await.unwrap()
    }

    pub async fn id_token(&self, email: &str) -> String {
        self.sign_in(email).await["IdToken"].as_str().unwrap().to_owned()
    }

    /// The claims of a token that the published keys verify, on the real clock or not.
    pub fn claims(&self, token: &Value) -> Value {
        let token = token.as_str().unwrap();
        let set: jsonwebtoken::jwk::JwkSet = serde_json::from_value(self.user_pools.jwks(POOL).unwrap()).unwrap();
        let kid = jsonwebtoken::decode_header(token).unwrap().kid.unwrap();
        let key = jsonwebtoken::DecodingKey::from_jwk(set.find(&kid).unwrap()).unwrap();
        let mut validation = jsonwebtoken::Validation::new(jsonwebtoken::Algorithm::RS256);
        validation.validate_exp = false;
        validation.validate_aud = false;
        validation.set_issuer(&["http://127.0.0.1:4566/us-east-1_TideTest1"]);
        jsonwebtoken::decode(token, &key, &validation).unwrap().claims
    }
}

/// The code of a refusal.
pub fn refused(result: Result<Value, AwsError>) -> (&'static str, String) {
    let error = result.expect_err("a refusal");
    (error.code, error.message)
}

fn user_pool() -> UserPoolSeed {
    let client = |id: &str| UserPoolClientSeed {
        id: id.into(),
        name: "kiosk".into(),
        explicit_auth_flows: ["USER_PASSWORD", "USER_SRP", "REFRESH_TOKEN"]
            .map(|flow| format!("ALLOW_{flow}_AUTH"))
            .to_vec(),
        id_token_validity_s: 3_600,
        access_token_validity_s: 1_800,
        refresh_token_validity_s: REFRESH_S,
        auth_session_validity_s: 0,
        prevent_user_existence_errors: true,
        enable_token_revocation: true,
        refresh_token_rotation_grace_s: None,
        callback_urls: vec![CALLBACK.into()],
        logout_urls: vec![SIGNED_OUT.into()],
        allowed_oauth_scopes: ["openid", "email", "profile", "aws.cognito.signin.user.admin"]
            .map(str::to_owned)
            .to_vec(),
        supported_identity_providers: vec!["COGNITO".into()],
    };
    let legacy = UserPoolClientSeed { prevent_user_existence_errors: false, ..client(LEGACY_CLIENT) };
    let rotating = UserPoolClientSeed { refresh_token_rotation_grace_s: Some(30), ..client(ROTATING_CLIENT) };
    let group = |name: &str, precedence, role: &str| GroupSeed {
        name: name.into(),
        precedence: Some(precedence),
        role_arn: Some(role.into()),
    };
    UserPoolSeed {
        id: POOL.into(),
        name: "photos".into(),
        email_as_username: true,
        email_as_alias: false,
        auto_verify_email: true,
        allow_sign_up: true,
        password_policy: PasswordPolicySeed::default(),
        clients: vec![client(CLIENT), legacy, rotating],
        identity_providers: Vec::new(),
        mfa: MfaSeed::default(),
        devices: None,
        first_factors: Vec::new(),
        required_attributes: Vec::new(),
        pre_sign_up: PreSignUp::None,
        groups: vec![group("free-tier", 10, FREE), group("paid-tier", 1, PAID)],
    }
}

fn identity_pool() -> IdentityPoolSeed {
    let mapping = RoleMappingSeed { kind: RoleMappingKind::Token, ambiguous_gives_authenticated_role: false };
    IdentityPoolSeed {
        id: IDENTITY_POOL.into(),
        name: "photos".into(),
        allow_unauthenticated: false,
        allow_classic_flow: false,
        cognito_providers: [CLIENT, ROTATING_CLIENT].map(|client| (LOGIN.to_owned(), client.to_owned())).to_vec(),
        authenticated_role_arn: Some(FREE.into()),
        unauthenticated_role_arn: Some(GUEST.into()),
        role_mappings: BTreeMap::from([(format!("{LOGIN}:{CLIENT}"), mapping)]),
    }
}

fn roles() -> Vec<RoleSeed> {
    let role = |arn: &str, trust_policy: Value, statement: Value| RoleSeed {
        arn: arn.into(),
        name: arn.rsplit('/').next().unwrap().into(),
        trust_policy,
        policies: vec![json!({ "Version": "2012-10-17", "Statement": [statement] })],
        max_session_duration_s: 3_600,
    };
    let photos = |folders: &[&str]| {
        let user = "arn:aws:s3:::app-photos/users/${cognito-identity.amazonaws.com:sub}";
        let resources: Vec<_> = folders.iter().map(|folder| format!("{user}/{folder}/*")).collect();
        json!({ "Effect": "Allow", "Action": "s3:PutObject", "Resource": resources })
    };
    let groups = json!({ "Effect": "Allow", "Resource": "arn:aws:cognito-idp:us-east-1:000000000000:userpool/*",
        "Action": ["cognito-idp:AdminAddUserToGroup", "cognito-idp:AdminRemoveUserFromGroup"] });
    let by_account = json!({ "Version": "2012-10-17", "Statement": [{ "Effect": "Allow", "Action": "sts:AssumeRole",
        "Principal": { "AWS": "arn:aws:iam::000000000000:root" } }] });
    vec![
        role(FREE, trust("authenticated"), photos(&["free"])),
        role(PAID, trust("authenticated"), photos(&["free", "premium"])),
        role(GUEST, trust("unauthenticated"), photos(&["guest"])),
        role(BILLING, by_account, groups),
    ]
}

fn trust(amr: &str) -> Value {
    json!({ "Version": "2012-10-17", "Statement": [{
        "Effect": "Allow",
        "Principal": { "Federated": PROVIDER },
        "Action": "sts:AssumeRoleWithWebIdentity",
        "Condition": {
            "StringEquals": { "cognito-identity.amazonaws.com:aud": IDENTITY_POOL },
            "ForAnyValue:StringLike": { "cognito-identity.amazonaws.com:amr": amr },
        },
    }] })
}
