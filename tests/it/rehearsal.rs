//! A started local cloud with the built-in template, and SDK clients for it.

use std::collections::BTreeMap;
use std::time::Duration;

use aws_sdk_cognitoidentity as identity;
use aws_sdk_cognitoidentityprovider as provider;
use aws_sdk_cognitoidentityprovider::types::{AttributeType, AuthFlowType};
use aws_sdk_s3::config::{
    BehaviorVersion, Credentials, Region, RequestChecksumCalculation, StalledStreamProtectionConfig,
};
use aws_smithy_types::retry::RetryConfig;
use tidegate::clock::Clock;
use tidegate::credential::SourceConfig;
use tidegate::credential::cognito::EnhancedFlow;
use tidegate::local_cloud::{LocalCloud, Options};
use tidegate::session::TokensConfig;
use tidegate::session::cognito_tokens::CognitoTokens;

pub const PASSWORD: &str = "Kiosk-Photo-7!";

/// The cloud and the names that clients need.
pub struct Rehearsal {
    pub cloud: LocalCloud,
    pub pool_id: String,
    pub client_id: String,
    pub identity_pool_id: String,
    pub bucket: String,
    pub account: String,
}

/// A signed-in user.
pub struct Session {
    pub id_token: String,
    pub identity_id: String,
    pub credentials: Credentials,
}

impl Rehearsal {
    pub async fn start() -> Self {
        Self::with(Options { listen: ([127, 0, 0, 1], 0).into(), ..Options::default() }).await
    }

    pub async fn with(options: Options) -> Self {
        let cloud = LocalCloud::start(options).await.unwrap();
        let seed = cloud.seed();
        let pool = &seed.user_pools[0];
        Self {
            pool_id: pool.id.clone(),
            client_id: pool.clients[0].id.clone(),
            identity_pool_id: seed.identity_pools[0].id.clone(),
            bucket: seed.buckets[0].name.clone(),
            account: seed.account_id.clone(),
            cloud,
        }
    }

    pub fn administrator(&self) -> Credentials {
        let (key, secret) = self.cloud.administrator().expose();
        keys(key, secret, None)
    }

    pub fn s3_config(&self, credentials: Credentials) -> aws_sdk_s3::config::Builder {
        aws_sdk_s3::Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .region(Region::new("us-east-1"))
            .endpoint_url(self.cloud.url())
            .force_path_style(true)
            .credentials_provider(credentials)
            .retry_config(RetryConfig::disabled())
            .stalled_stream_protection(StalledStreamProtectionConfig::disabled())
            .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
    }

    pub fn s3(&self, credentials: Credentials) -> aws_sdk_s3::Client {
        aws_sdk_s3::Client::from_conf(self.s3_config(credentials).build())
    }

    pub fn admin_s3(&self) -> aws_sdk_s3::Client {
        self.s3(self.administrator())
    }

    pub fn users(&self, credentials: Option<Credentials>) -> provider::Client {
        let mut config = provider::Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .region(Region::new("us-east-1"))
            .endpoint_url(self.cloud.url())
            .retry_config(RetryConfig::disabled());
        if let Some(credentials) = credentials {
            config = config.credentials_provider(credentials);
        }
        provider::Client::from_conf(config.build())
    }

    pub fn identities(&self) -> identity::Client {
        let config = identity::Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .region(Region::new("us-east-1"))
            .endpoint_url(self.cloud.url())
            .retry_config(RetryConfig::disabled());
        identity::Client::from_conf(config.build())
    }

    pub fn sts(&self, credentials: Credentials) -> aws_sdk_sts::Client {
        let config = aws_sdk_sts::Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .region(Region::new("us-east-1"))
            .endpoint_url(self.cloud.url())
            .credentials_provider(credentials)
            .retry_config(RetryConfig::disabled());
        aws_sdk_sts::Client::from_conf(config.build())
    }

    /// The daemon's token source for the app's client of the user pool.
    pub fn tokens(&self, timeout: Duration, clock: &Clock) -> CognitoTokens {
        let config = TokensConfig {
            region: "us-east-1".into(),
            user_pool_id: self.pool_id.clone(),
            client_id: self.client_id.clone(),
            endpoint_url: Some(self.cloud.url().to_owned()),
            ..TokensConfig::default()
        };
        CognitoTokens::new(&config, timeout, timeout, clock.clone()).unwrap()
    }

    /// The daemon's credential source for the identity pool.
    pub fn enhanced_flow(&self, timeout: Duration, clock: &Clock) -> EnhancedFlow {
        let config = SourceConfig {
            region: "us-east-1".into(),
            identity_pool_id: Some(self.identity_pool_id.clone()),
            endpoint_url: Some(self.cloud.url().to_owned()),
            ..SourceConfig::default()
        };
        EnhancedFlow::new(&config, timeout, timeout, clock.clone()).unwrap()
    }

    pub fn provider_name(&self) -> String {
        format!("cognito-idp.us-east-1.amazonaws.com/{}", self.pool_id)
    }

    /// The code that was last mailed to an address.
    pub fn code_for(&self, email: &str) -> String {
        let outbox = self.cloud.outbox();
        outbox.iter().rev().find(|message| message.to == email).map(|message| message.code.clone()).unwrap()
    }

    pub async fn sign_up(&self, email: &str) {
        let users = self.users(None);
        let address = AttributeType::builder().name("email").value(email).build().unwrap();
        users
            .sign_up()
            .client_id(&self.client_id)
            .username(email)
            .password(PASSWORD)
            .user_attributes(address)
            .send()
            .await
            .unwrap();
        let code = self.code_for(email);
        let confirm = users.confirm_sign_up().client_id(&self.client_id).username(email).confirmation_code(code);
        confirm.send().await.unwrap();
    }

    pub async fn id_token(&self, email: &str) -> String {
        let answer = self
            .users(None)
            .initiate_auth()
            .client_id(&self.client_id)
            .auth_flow(AuthFlowType::UserPasswordAuth)
            .auth_parameters("USERNAME", email)
            .auth_parameters("PASSWORD", PASSWORD)
            .send()
            .await
            .unwrap();
        answer.authentication_result.unwrap().id_token.unwrap()
    }

    pub async fn session(&self, id_token: &str) -> Session {
        let identities = self.identities();
        let login = identities
            .get_id()
            .identity_pool_id(&self.identity_pool_id)
            .logins(self.provider_name(), id_token)
            .send()
            .await
            .unwrap();
        let identity_id = login.identity_id.unwrap();
        let answer = identities
            .get_credentials_for_identity()
            .identity_id(&identity_id)
            .logins(self.provider_name(), id_token)
            .send()
            .await
            .unwrap();
        let issued = answer.credentials.unwrap();
        let credentials =
            keys(issued.access_key_id.unwrap(), issued.secret_key.unwrap(), Some(issued.session_token.unwrap()));
        Session { id_token: id_token.to_owned(), identity_id, credentials }
    }

    /// Signs a new user up and in.
    pub async fn new_session(&self, email: &str) -> Session {
        self.sign_up(email).await;
        let id_token = self.id_token(email).await;
        self.session(&id_token).await
    }

    /// The name of the group whose role's name contains `part`.
    pub fn group(&self, part: &str) -> String {
        let groups = &self.cloud.seed().user_pools[0].groups;
        groups.iter().find(|group| group.name.contains(part)).unwrap().name.clone()
    }

    pub async fn keys(&self) -> Vec<String> {
        let listed = self.admin_s3().list_objects_v2().bucket(&self.bucket).send().await.unwrap();
        listed.contents().iter().filter_map(|object| object.key().map(str::to_owned)).collect()
    }
}

/// Options for a cloud on a free port with this data directory.
pub fn options(data_dir: &std::path::Path) -> Options {
    Options {
        listen: ([127, 0, 0, 1], 0).into(),
        data_dir: Some(data_dir.to_owned()),
        parameters: BTreeMap::new(),
        ..Options::default()
    }
}

/// The error code of a failed SDK call.
pub fn code<E: aws_sdk_s3::error::ProvideErrorMetadata>(error: &E) -> String {
    error.code().unwrap_or("none").to_owned()
}

/// Bytes that look different everywhere.
pub fn bytes(length: usize) -> Vec<u8> {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

/// Credentials that the SDKs take.
pub fn keys(id: impl Into<String>, secret: impl Into<String>, token: Option<String>) -> Credentials {
    Credentials::new(id, secret, token, None, "test")
}
