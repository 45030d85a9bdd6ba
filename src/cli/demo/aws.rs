//! The demo's other people, each with AWS's own SDK: a forger with the user's vended credentials, the billing backend, and
//! somebody who looks into the bucket. The only file of the CLI that knows SDK types; its signatures do not.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use aws_sdk_cognitoidentityprovider as cognito;
use aws_sdk_s3 as s3;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_s3::operation::head_object::HeadObjectError;
use bytes::Bytes;

use crate::api::v1;
use crate::local_cloud::user_pool::totp_code;

/// How long a code of an authenticator app lasts.
const STEP: Duration = Duration::from_secs(30);

/// Where the rehearsal cloud is.
#[derive(Debug, Clone)]
pub(super) struct Endpoint {
    pub(super) url: String,
    pub(super) region: String,
}

/// What S3 or Cognito said to a call that failed.
#[derive(Debug)]
pub(super) struct Refusal {
    /// The HTTP status; 0 where there was no answer.
    pub(super) status: u16,
    /// AWS's code.
    pub(super) code: String,
    /// AWS's message.
    pub(super) message: String,
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}: {}", self.status, self.code, self.message)
    }
}

impl<E> From<SdkError<E>> for Refusal
where
    E: ProvideErrorMetadata + std::error::Error + 'static,
{
    fn from(error: SdkError<E>) -> Self {
        let status = error.raw_response().map_or(0, |response| response.status().as_u16());
        let code = error.code().unwrap_or("no code").to_owned();
        let message = match error.message() {
            Some(message) => message.to_owned(),
            None => aws_sdk_s3::error::DisplayErrorContext(&error).to_string(),
        };
        Self { status, code, message }
    }
}

/// An object, as the bucket tells.
#[derive(Debug, Clone, Default)]
pub(super) struct Seen {
    pub(super) size_bytes: i64,
    pub(super) checksum_crc64nvme: Option<String>,
}

/// An S3 client with somebody's keys.
#[derive(Debug, Clone)]
pub(super) struct Bucket {
    client: s3::Client,
    name: String,
}

impl Bucket {
    /// With the credentials that the daemon vends: what any SDK on the device could do with them.
    pub(super) fn as_user(endpoint: &Endpoint, name: &str, vended: &v1::AwsCredentials) -> Self {
        let credentials = s3::config::Credentials::new(
            &vended.access_key_id,
            &vended.secret_access_key,
            Some(vended.session_token.clone()),
            None,
            "tidegate",
        );
        Self::new(endpoint, name, credentials)
    }

    /// With the keys of the account's administrator.
    pub(super) fn as_administrator(endpoint: &Endpoint, name: &str, key_id: &str, secret: &str) -> Self {
        Self::new(endpoint, name, s3::config::Credentials::new(key_id, secret, None, None, "demo"))
    }

    fn new(endpoint: &Endpoint, name: &str, credentials: s3::config::Credentials) -> Self {
        let config = s3::Config::builder()
            .behavior_version(s3::config::BehaviorVersion::latest())
            .region(s3::config::Region::new(endpoint.region.clone()))
            .endpoint_url(&endpoint.url)
            .force_path_style(true)
            .credentials_provider(credentials)
            .build();
        Self { client: s3::Client::from_conf(config), name: name.to_owned() }
    }

    /// Writes an object.
    pub(super) async fn put(&self, key: &str, body: Bytes) -> Result<(), Refusal> {
        let request = self.client.put_object().bucket(&self.name).key(key).body(body.into());
        request.send().await?;
        Ok(())
    }

    /// What is at `key`; `None` where nothing is.
    pub(super) async fn look(&self, key: &str) -> Result<Option<Seen>, Refusal> {
        let request = self.client.head_object().bucket(&self.name).key(key);
        match request.checksum_mode(s3::types::ChecksumMode::Enabled).send().await {
            Ok(head) => Ok(Some(Seen {
                size_bytes: head.content_length().unwrap_or_default(),
                checksum_crc64nvme: head.checksum_crc64_nvme().map(str::to_owned),
            })),
            Err(error) if error.as_service_error().is_some_and(HeadObjectError::is_not_found) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Reads an object.
    pub(super) async fn get(&self, key: &str) -> Result<Bytes, Refusal> {
        let object = self.client.get_object().bucket(&self.name).key(key).send().await?;
        match object.body.collect().await {
            Ok(body) => Ok(body.into_bytes()),
            Err(error) => Err(Refusal { status: 200, code: "broken body".to_owned(), message: error.to_string() }),
        }
    }

    /// Every key with its size in bytes.
    pub(super) async fn list(&self) -> Result<BTreeMap<String, i64>, Refusal> {
        let mut all = BTreeMap::new();
        let mut pages = self.client.list_objects_v2().bucket(&self.name).into_paginator().send();
        while let Some(page) = pages.next().await {
            for object in page?.contents() {
                all.insert(object.key().unwrap_or_default().to_owned(), object.size().unwrap_or_default());
            }
        }
        Ok(all)
    }
}

/// The billing backend: it alone decides who is in which group.
#[derive(Debug, Clone)]
pub(super) struct Billing {
    client: cognito::Client,
    user_pool_id: String,
}

impl Billing {
    pub(super) fn new(endpoint: &Endpoint, user_pool_id: &str, key_id: &str, secret: &str) -> Self {
        let config = cognito::Config::builder()
            .behavior_version(cognito::config::BehaviorVersion::latest())
            .region(cognito::config::Region::new(endpoint.region.clone()))
            .endpoint_url(&endpoint.url)
            .credentials_provider(cognito::config::Credentials::new(key_id, secret, None, None, "demo"))
            .build();
        Self { client: cognito::Client::from_conf(config), user_pool_id: user_pool_id.to_owned() }
    }

    /// AdminAddUserToGroup.
    pub(super) async fn add_to_group(&self, username: &str, group: &str) -> Result<(), Refusal> {
        let request = self.client.admin_add_user_to_group().user_pool_id(&self.user_pool_id);
        request.username(username).group_name(group).send().await?;
        Ok(())
    }

    /// AdminRemoveUserFromGroup.
    pub(super) async fn remove_from_group(&self, username: &str, group: &str) -> Result<(), Refusal> {
        let request = self.client.admin_remove_user_from_group().user_pool_id(&self.user_pool_id);
        request.username(username).group_name(group).send().await?;
        Ok(())
    }
}

/// An authenticator app, and the settings page where its user turned it on.
#[derive(Debug)]
pub(super) struct Authenticator {
    /// Base32, as the QR code has it.
    secret: String,
}

impl Authenticator {
    /// Sets it up with the user's own access token: associate, verify with a code, prefer.
    pub(super) async fn set_up(endpoint: &Endpoint, access_token: &str) -> Result<Self, Refusal> {
        let config = cognito::Config::builder()
            .behavior_version(cognito::config::BehaviorVersion::latest())
            .region(cognito::config::Region::new(endpoint.region.clone()))
            .endpoint_url(&endpoint.url)
            .allow_no_auth()
            .build();
        let client = cognito::Client::from_conf(config);
        let associated = client.associate_software_token().access_token(access_token).send().await?;
        let app = Self { secret: associated.secret_code.unwrap_or_default() };
        // A code counts once: this one is of the half minute before, so that the next sign-in has one of its own.
        let code = app.code_of(SystemTime::now() - STEP);
        client.verify_software_token().access_token(access_token).user_code(code).send().await?;
        let on = cognito::types::SoftwareTokenMfaSettingsType::builder().enabled(true).preferred_mfa(true).build();
        client.set_user_mfa_preference().access_token(access_token).software_token_mfa_settings(on).send().await?;
        Ok(app)
    }

    /// What its screen shows now.
    pub(super) fn code(&self) -> String {
        self.code_of(SystemTime::now())
    }

    fn code_of(&self, time: SystemTime) -> String {
        let since_1970 = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        totp_code(&self.secret, since_1970.as_secs()).unwrap_or_default()
    }
}
