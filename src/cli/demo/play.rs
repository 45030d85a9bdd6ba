//! The scenario, step by step, as an app on the device would write it against the API. Every step checks what it claims
//! and answers one line about it.

mod people;
mod photos;
mod sessions;

use std::collections::{BTreeMap, HashMap};
use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use bytes::Bytes;
use serde_json::{Value, json};
use tonic::{Response, Status};
use tonic_types::StatusExt as _;
use ulid::Ulid;

use super::super::client::{Client, answer, unary};
use super::super::exit::CliError;
use super::super::text::{has_ended, upload_state};
use super::super::upload::crc64nvme_base64;
use super::aws::{Billing, Bucket, Endpoint, Refusal};
use super::stage::Stage;
use crate::api::v1::sign_in_request::Method;
use crate::api::v1::sign_in_response::Result as SignInResult;
use crate::api::v1::upload_finish::Checksum;
use crate::api::v1::upload_request::Message;
use crate::api::v1::{self, UploadState};

/// One step: its title, and what is done.
pub(super) struct Step {
    pub(super) title: &'static str,
    pub(super) run: for<'p> fn(&'p mut Play<'_>) -> Doing<'p>,
}

type Doing<'p> = Pin<Box<dyn Future<Output = Told> + 'p>>;

/// What there is to say about a step that passed.
type Told = Result<String, CliError>;

macro_rules! steps {
    ($($title:literal => $run:path,)+) => { &[$(Step { title: $title, run: |play| Box::pin($run(play)) }),+] };
}

/// The scenario.
pub(super) const STEPS: &[Step] = steps! {
    "local cloud" => people::start_cloud,
    "daemon" => people::start_daemon,
    "sign up" => people::sign_up,
    "confirm" => people::confirm,
    "sign in" => people::sign_in,
    "three photos to free/" => photos::three_photos,
    "premium/ is denied" => photos::premium_is_denied,
    "another user's prefix" => photos::other_prefix_is_denied,
    "forged key, by the daemon" => photos::forged_key_is_refused,
    "forged key, sent raw" => photos::forged_key_is_literal,
    "paid" => people::pay,
    "premium/ is open" => photos::premium_is_open,
    "the denied photo" => photos::denied_photo_goes_out,
    "64 MiB clip" => photos::clip,
    "forgotten password" => sessions::reset_password,
    "Google, the same address" => sessions::google,
    "second factor" => sessions::second_factor,
    "a guest's photo" => sessions::guest,
    "the guest signs in" => sessions::guest_signs_in,
    "restart" => sessions::restart,
    "kill -9 at 256 MiB" => photos::crash,
    "SDK: credential_process" => sessions::credential_process,
    "SDK: container endpoint" => sessions::container_endpoint,
    "JWT for the REST API" => sessions::rest_api,
    "what the bucket holds" => photos::list,
};

const ADA: &str = "ada@example.com";
const BEN: &str = "ben@example.com";
const CLEO: &str = "cleo@example.com";
const FREE_TIER: &str = "free-tier";
const PAID_TIER: &str = "paid-tier";
const CLIP_BYTES: usize = 64 << 20;
const LONG_CLIP_BYTES: usize = 256 << 20;

/// One chunk of a stream, as the API recommends.
const CHUNK_BYTES: usize = 256 * 1024;

/// How long to wait for a code in the outbox.
const CODE_TIMEOUT: Duration = Duration::from_secs(5);

/// What the app and the other people know so far.
pub(super) struct Play<'s> {
    stage: &'s mut Stage,
    /// Everybody's password, until they choose another.
    password: String,
    /// Ada's new one.
    ada_password: Option<String>,
    client: Option<Client>,
    /// Ada's session.
    session: v1::Session,
    /// The guest's session.
    guest: v1::Session,
    /// The upload that was denied.
    denied: v1::Upload,
    /// What must be in the bucket: key and size in bytes.
    expected: BTreeMap<String, i64>,
}

/// How to talk to what `--keep` leaves running.
pub(super) struct Instructions {
    pub(super) text: String,
    pub(super) json: Value,
}

impl<'s> Play<'s> {
    pub(super) fn new(stage: &'s mut Stage) -> Self {
        Self {
            stage,
            password: new_password(),
            ada_password: None,
            client: None,
            session: v1::Session::default(),
            guest: v1::Session::default(),
            denied: v1::Upload::default(),
            expected: BTreeMap::new(),
        }
    }

    fn client(&self) -> Result<&Client, CliError> {
        self.client.as_ref().ok_or_else(|| CliError::failed("the daemon does not run"))
    }

    fn endpoint(&self) -> Result<Endpoint, CliError> {
        Ok(Endpoint { url: self.stage.cloud()?.url().to_owned(), region: self.stage.template_output("Region")? })
    }

    /// The bucket with the keys of the cloud's administrator.
    fn bucket(&self) -> Result<Bucket, CliError> {
        let (key_id, secret) = self.stage.administrator()?;
        let name = self.stage.template_output("BucketName")?;
        Ok(Bucket::as_administrator(&self.endpoint()?, &name, &key_id, &secret))
    }

    /// The bucket with the credentials that the daemon vends for Ada.
    async fn bucket_as_ada(&self) -> Result<Bucket, CliError> {
        let request = v1::GetAwsCredentialsRequest { session: self.session.name.clone() };
        let vended = self.client()?.credentials().get_aws_credentials(unary(request)).await;
        let vended = answer("get credentials", vended)?.credentials.unwrap_or_default();
        Ok(Bucket::as_user(&self.endpoint()?, &self.stage.template_output("BucketName")?, &vended))
    }

    fn billing(&self) -> Result<Billing, CliError> {
        let (key_id, secret) = self.stage.administrator()?;
        Ok(Billing::new(&self.endpoint()?, &self.stage.template_output("UserPoolId")?, &key_id, &secret))
    }

    /// Where Ada's photos lie.
    fn prefix(&self) -> String {
        format!("users/{}/", self.session.identity_id)
    }

    /// The newest code for `address`, as the mail would bring it.
    async fn code_for(&self, address: &str) -> Result<String, CliError> {
        let found = tokio::time::timeout(CODE_TIMEOUT, async {
            loop {
                if let Some(code) = self.stage.newest_code(address) {
                    return Ok(code);
                }
                self.stage.cloud()?;
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        });
        found.await.unwrap_or_else(|_| Err(CliError::failed(format!("no code for {address} came to the outbox"))))
    }

    /// Creates and confirms an account, and signs in.
    async fn account(&self, address: &str) -> Result<v1::Session, CliError> {
        self.create_account(address).await?;
        self.confirm_account(address).await?;
        self.enter(address).await
    }

    async fn create_account(&self, address: &str) -> Result<v1::SignUpResponse, CliError> {
        let request = v1::SignUpRequest {
            username: address.to_owned(),
            password: self.password.clone(),
            attributes: HashMap::from([("email".to_owned(), address.to_owned())]),
            ..v1::SignUpRequest::default()
        };
        answer("sign up", self.client()?.accounts().sign_up(unary(request)).await)
    }

    async fn confirm_account(&self, address: &str) -> Result<(), CliError> {
        let request = v1::ConfirmSignUpRequest {
            username: address.to_owned(),
            confirmation_code: self.code_for(address).await?,
            ..v1::ConfirmSignUpRequest::default()
        };
        answer("confirm", self.client()?.accounts().confirm_sign_up(unary(request)).await).map(|_| ())
    }

    async fn enter(&self, address: &str) -> Result<v1::Session, CliError> {
        let session = signed_in(answer("sign in", self.sign_in(address, self.password_of(address)).await)?)?;
        self.with_identity_id(session).await
    }

    fn password_of(&self, address: &str) -> &str {
        self.ada_password.as_deref().filter(|_| address == ADA).unwrap_or(&self.password)
    }

    async fn sign_in(&self, address: &str, password: &str) -> Result<Response<v1::SignInResponse>, Status> {
        let method = v1::PasswordSignIn { username: address.to_owned(), password: password.to_owned() };
        let request = v1::SignInRequest { method: Some(Method::Password(method)), ..v1::SignInRequest::default() };
        let client = self.client().map_err(|error| Status::internal(error.message()))?;
        client.sessions().sign_in(unary(request)).await
    }

    /// Signs in as far as the question that follows the password.
    async fn challenged(&self, address: &str) -> Result<v1::Challenge, CliError> {
        let done = answer("sign in", self.sign_in(address, self.password_of(address)).await)?;
        match done.result {
            Some(SignInResult::Challenge(challenge)) => Ok(challenge),
            _ => Err(CliError::failed("the password alone signed in")),
        }
    }

    /// The identity id is known with the first credentials.
    async fn with_identity_id(&self, session: v1::Session) -> Result<v1::Session, CliError> {
        let request = v1::GetAwsCredentialsRequest { session: session.name.clone() };
        let vended = answer("get credentials", self.client()?.credentials().get_aws_credentials(unary(request)).await)?;
        let identity_id = vended.credentials.unwrap_or_default().identity_id;
        Ok(v1::Session { identity_id, ..session })
    }

    async fn sign_out(&self, session: &v1::Session) -> Result<(), CliError> {
        let request = v1::SignOutRequest { name: session.name.clone(), ..v1::SignOutRequest::default() };
        answer("sign out", self.client()?.sessions().sign_out(unary(request)).await).map(drop)
    }

    /// Streams a photo to the daemon under exactly this key.
    async fn hand_over(&self, key: &str, content_type: &str, bytes: &Bytes) -> Result<v1::Upload, Status> {
        let spec = v1::UploadSpec {
            session: self.session.name.clone(),
            key: key.to_owned(),
            key_policy: v1::KeyPolicy::Exact.into(),
            content_type: content_type.to_owned(),
            ..v1::UploadSpec::default()
        };
        let begin = v1::UploadBegin { upload_id: Ulid::generate().to_string(), spec: Some(spec) };
        let finish = v1::UploadFinish {
            total_bytes: i64::try_from(bytes.len()).unwrap_or(i64::MAX),
            checksum: Some(Checksum::Crc64nvme(checksum(bytes))),
        };
        let (bytes, mut offset) = (bytes.clone(), 0);
        let chunks = std::iter::from_fn(move || {
            let end = bytes.len().min(offset + CHUNK_BYTES);
            let chunk = bytes.slice(offset..end);
            offset = end;
            (!chunk.is_empty()).then_some(Message::Chunk(chunk))
        });
        let messages = std::iter::once(Message::Begin(begin)).chain(chunks).chain([Message::Finish(finish)]);
        let stream = tokio_stream::iter(messages.map(|message| v1::UploadRequest { message: Some(message) }));
        let client = self.client().map_err(|error| Status::internal(error.message()))?;
        let done = client.uploads().upload(stream).await?.into_inner();
        Ok(done.upload.unwrap_or_default())
    }

    /// Follows an upload to its end.
    async fn watch(&self, name: &str) -> Result<v1::Upload, CliError> {
        self.watch_until(name, |_| false).await
    }

    /// Follows an upload to its end, or until it is so.
    async fn watch_until(&self, name: &str, is_so: impl Fn(&v1::Upload) -> bool) -> Result<v1::Upload, CliError> {
        let request = v1::WatchUploadRequest { name: name.to_owned() };
        let mut changes = answer("watch", self.client()?.uploads().watch_upload(request).await)?;
        let mut last = v1::Upload::default();
        while !has_ended(last.state) && !is_so(&last) {
            let change = changes.message().await.map_err(|status| CliError::from_status("watch", &status))?;
            let Some(change) = change else { return Err(CliError::failed("the daemon stopped telling")) };
            last = change.upload.unwrap_or_default();
        }
        Ok(last)
    }

    /// Hands a photo over and follows it into the bucket, where it must be byte for byte.
    async fn store(&mut self, key: &str, content_type: &str, bytes: &Bytes) -> Result<v1::Upload, CliError> {
        let upload = self.hand_over(key, content_type, bytes).await;
        let upload = upload.map_err(|status| CliError::from_status("upload", &status))?;
        let upload = self.watch(&upload.name).await?;
        self.must_be_stored(&upload, bytes).await?;
        Ok(upload)
    }

    async fn must_be_stored(&mut self, upload: &v1::Upload, bytes: &Bytes) -> Result<(), CliError> {
        must_be(upload, UploadState::Succeeded)?;
        let object = upload.object.clone().unwrap_or_default();
        let Some(seen) = self.bucket()?.look(&object.key).await.map_err(|refusal| failed(&refusal))? else {
            return Err(CliError::failed(format!("nothing is at {}", object.key)));
        };
        let (expected, length) = (checksum(bytes), i64::try_from(bytes.len()).unwrap_or(i64::MAX));
        let stored = seen.checksum_crc64nvme.unwrap_or_default();
        if seen.size_bytes != length || stored != expected || object.checksum_crc64nvme != expected {
            return Err(CliError::failed(format!(
                "{}: {length} bytes with CRC64NVME {expected} were sent, the bucket has {} with {stored}",
                object.key, seen.size_bytes
            )));
        }
        self.expected.insert(object.key, length);
        Ok(())
    }

    async fn nothing_is_at(&self, key: &str) -> Result<(), CliError> {
        match self.bucket()?.look(key).await.map_err(|refusal| failed(&refusal))? {
            None => Ok(()),
            Some(_) => Err(CliError::failed(format!("there is an object at {key}"))),
        }
    }

    /// True where cloud and daemon are up.
    pub(super) fn is_on_stage(&self) -> bool {
        self.stage.is_running()
    }

    /// How to talk to what is running.
    pub(super) fn instructions(&self) -> Instructions {
        let socket = self.stage.socket().display().to_string();
        let (key_id, secret) = self.stage.administrator().unwrap_or_default();
        let url = self.stage.cloud().map(|cloud| cloud.url().to_owned()).unwrap_or_default();
        let output = |name: &str| self.stage.template_output(name).unwrap_or_default();
        let (region, bucket, pool) = (output("Region"), output("BucketName"), output("UserPoolId"));
        let folder = self.stage.folder().display();
        let text = format!(
            "\nEverything runs until Ctrl-C. In another shell, for example:\n\
             \n  export TIDEGATE_SOCKET={socket}\
             \n  tidegate status\
             \n  tidegate upload --wait --key-prefix premium/ PHOTO.jpg\
             \n  tidegate uploads\
             \n  tidegate sign-in {ADA}          # password: {password}\n\
             \n  grpcurl -plaintext -unix -authority localhost {socket} list\
             \n  grpcurl -plaintext -unix -authority localhost {socket} tidegate.v1.UploadService/ListUploads\n\
             \n  export AWS_ENDPOINT_URL={url} AWS_REGION={region}\
             \n  export AWS_ACCESS_KEY_ID={key_id} AWS_SECRET_ACCESS_KEY={secret}\
             \n  aws s3 ls --recursive s3://{bucket}/\
             \n  aws cognito-idp admin-list-groups-for-user --user-pool-id {pool} --username {ADA}\
             \n  curl {url}/_tidegate/outbox\n\
             \nConfiguration, state and the daemon's log are in {folder}.",
            password = self.password_of(ADA),
        );
        let json = json!({
            "socket": socket, "endpoint_url": url, "region": region, "bucket": bucket, "user_pool_id": pool,
            "access_key_id": key_id, "secret_access_key": secret, "username": ADA, "password": self.password_of(ADA),
            "folder": folder.to_string(),
        });
        Instructions { text, json }
    }
}

fn new_password() -> String {
    format!("Demo-{}-x", Ulid::generate())
}

fn signed_in(done: v1::SignInResponse) -> Result<v1::Session, CliError> {
    match done.result {
        Some(SignInResult::Session(session)) => Ok(session),
        Some(SignInResult::Challenge(challenge)) => {
            Err(CliError::failed(format!("the sign-in did not give a session but asks for {}", challenge.name)))
        }
        None => Err(CliError::failed("the sign-in did not give a session")),
    }
}

fn checksum(bytes: &[u8]) -> String {
    crc64nvme_base64(crc_fast::checksum(crc_fast::CrcAlgorithm::Crc64Nvme, bytes))
}

fn failed(refusal: &Refusal) -> CliError {
    CliError::failed(refusal.to_string())
}

fn must_be(upload: &v1::Upload, state: UploadState) -> Result<(), CliError> {
    if upload.state() == state {
        return Ok(());
    }
    let failure = upload.failure.clone().unwrap_or_default();
    let text = format!("{} is {}: {} {}", upload.name, upload_state(upload.state), failure.reason, failure.message);
    Err(CliError::failed(text))
}

fn must_be_denied(put: Result<(), Refusal>) -> Result<(), CliError> {
    match put {
        Err(refusal) if refusal.status == 403 && refusal.code == "AccessDenied" => Ok(()),
        Err(refusal) => Err(CliError::failed(format!("S3 did not answer AccessDenied but {refusal}"))),
        Ok(()) => Err(CliError::failed("S3 took it")),
    }
}

fn must_have_groups(session: &v1::Session, groups: &[&str]) -> Result<(), CliError> {
    if session.groups == groups {
        return Ok(());
    }
    Err(CliError::failed(format!("the token's groups are {:?}, not {groups:?}", session.groups)))
}

fn must_be_refused<T>(answer: Result<Response<T>, Status>, reason: &str) -> Result<(), CliError> {
    let Err(status) = answer else {
        return Err(CliError::failed(format!("it was taken, and not refused with {reason}")));
    };
    let given = status.get_details_error_info().map(|info| info.reason).unwrap_or_default();
    if given == reason { Ok(()) } else { Err(CliError::from_status(&format!("be refused with {reason}"), &status)) }
}
