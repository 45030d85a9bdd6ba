//! Between the views of the rooms and the messages of the API. Unknown enum numbers and malformed values are refused;
//! absent ones become the documented default.

use std::time::SystemTime;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use prost_types::Timestamp;
use secrecy::ExposeSecret as _;
use tonic::Status;

use super::gateway::{FolderCondition, HotFolder};
use super::names;
use super::reason::Reason;
use super::status::{Failure, field, require};
use super::v1;
use crate::account::CodeDelivery;
use crate::session::{
    ChallengeView, ServedCredentials, ServedTokens, SessionKind, SessionState, SessionView, SignOutUploads,
};
use crate::upload::{ExpectedChecksum, KeyPolicy, OnDenied, Priority, UploadSpec, UploadState, UploadView, WaitReason};

/// A point in time.
pub fn timestamp(time: SystemTime) -> Timestamp {
    Timestamp::from(time)
}

/// A session.
pub fn session(view: SessionView) -> v1::Session {
    v1::Session {
        name: names::of_session(&view.id),
        identity: view.identity,
        subject: view.subject,
        username: view.username,
        state: session_state(view.state).into(),
        identity_id: view.identity_id.unwrap_or_default(),
        groups: view.groups,
        create_time: Some(timestamp(view.create_time)),
        credentials_expire_time: view.credentials_expire_time.map(timestamp),
        last_error: view.last_error.unwrap_or_default(),
        merged_from: view.merged_from.unwrap_or_default(),
        kind: session_kind(view.kind).into(),
    }
}

/// A challenge.
pub fn challenge(view: ChallengeView) -> v1::Challenge {
    v1::Challenge {
        name: view.name,
        challenge_id: view.id,
        parameters: view.parameters.into_iter().collect(),
        required_responses: view.answers,
        expire_time: Some(timestamp(view.expire_time)),
    }
}

fn session_kind(kind: SessionKind) -> v1::SessionKind {
    match kind {
        SessionKind::User => v1::SessionKind::User,
        SessionKind::Guest => v1::SessionKind::Guest,
        SessionKind::Service => v1::SessionKind::Service,
    }
}

/// AWS credentials. From here on they are in the clear: this message is made only to be sent.
pub fn credentials(served: &ServedCredentials) -> v1::AwsCredentials {
    let credentials = &served.credentials;
    let session_token = credentials.session_token.as_ref().map(|token| token.expose_secret().to_owned());
    v1::AwsCredentials {
        access_key_id: credentials.access_key_id.clone(),
        secret_access_key: credentials.secret_access_key.expose_secret().to_owned(),
        session_token: session_token.unwrap_or_default(),
        expire_time: Some(timestamp(credentials.expire_time)),
        stale: served.stale,
        last_error: served.last_error.clone().unwrap_or_default(),
        identity_id: served.identity_id.clone(),
    }
}

/// JWTs; the access token only where it was asked for.
pub fn tokens(served: &ServedTokens, include_access_token: bool) -> v1::GetTokensResponse {
    let access = served.access_token.as_ref().filter(|_| include_access_token);
    v1::GetTokensResponse {
        id_token: served.id_token.expose_secret().to_owned(),
        id_token_expire_time: Some(timestamp(served.id_token_expire_time)),
        access_token: access.map(|(token, _)| token.expose_secret().to_owned()).unwrap_or_default(),
        access_token_expire_time: access.map(|(_, expire_time)| timestamp(*expire_time)),
    }
}

/// Where a code went.
pub fn code_delivery(delivery: CodeDelivery) -> v1::CodeDelivery {
    v1::CodeDelivery { destination: delivery.destination, medium: delivery.medium }
}

/// An upload.
pub fn upload(view: UploadView) -> v1::Upload {
    let (state, wait_reason) = upload_state(view.state);
    let failure =
        view.failure.map(|failure| v1::UploadFailure { reason: failure.reason.to_owned(), message: failure.message });
    let checksum = view.crc64nvme.map(|crc| STANDARD.encode(crc.to_be_bytes()));
    v1::Upload {
        name: names::of_upload(view.id),
        session: names::of_session(&view.session),
        destination: view.destination,
        state: state.into(),
        wait_reason: wait_reason.into(),
        received_bytes: count(view.received_bytes),
        stored_bytes: count(view.stored_bytes),
        total_bytes: count(view.total_bytes.unwrap_or(0)),
        object: Some(v1::StoredObject {
            bucket: view.bucket,
            key: view.key,
            etag: view.etag.unwrap_or_default(),
            version_id: view.version_id.unwrap_or_default(),
            checksum_crc64nvme: checksum.unwrap_or_default(),
        }),
        failure,
        create_time: Some(timestamp(view.create_time)),
        update_time: Some(timestamp(view.update_time)),
        attempt_count: i32::try_from(view.attempt_count).unwrap_or(i32::MAX),
        end_time: view.end_time.map(timestamp),
        expire_time: view.expire_time.map(timestamp),
        path: view.path.unwrap_or_default(),
    }
}

/// A hot folder.
pub fn hot_folder(folder: HotFolder) -> v1::HotFolder {
    let state = match folder.condition {
        FolderCondition::Starting => v1::HotFolderState::Starting,
        FolderCondition::Watching => v1::HotFolderState::Watching,
        FolderCondition::Polling => v1::HotFolderState::Polling,
        FolderCondition::Missing => v1::HotFolderState::Missing,
        FolderCondition::Unreadable => v1::HotFolderState::Unreadable,
    };
    v1::HotFolder {
        path: folder.path,
        session: folder.session,
        destination: folder.destination,
        state: state.into(),
        last_error: folder.last_error,
        taken_count: count(folder.taken_count),
        waiting_count: count(folder.waiting_count),
        open_count: count(folder.open_count),
        failed_count: count(folder.failed_count),
        refused_count: count(folder.refused_count),
        stuck_count: count(folder.stuck_count),
        scan_time: folder.scan_time.map(timestamp),
    }
}

/// Counts and sizes; the API has signed numbers, as protobuf's guides ask.
pub fn count(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// A size or an offset that a caller sent.
///
/// # Errors
/// INVALID_FIELD where it is negative.
pub fn size(path: &str, number: i64) -> Result<u64, Status> {
    u64::try_from(number).map_err(|_| field(Reason::InvalidField, path, "must not be negative"))
}

/// What to upload, and whether the call answers only when it is stored. `path` is where the spec is in the request.
///
/// # Errors
/// MISSING_FIELD, INVALID_NAME, UNKNOWN_ENUM_VALUE.
pub fn upload_spec(path: &str, spec: Option<v1::UploadSpec>) -> Result<(UploadSpec, bool), Status> {
    let Some(spec) = spec else {
        return Err(require(&[(path, false)]).expect_err("it is missing"));
    };
    let at = |name: &str| format!("{path}.{name}");
    require(&[(&at("key"), !spec.key.is_empty())])?;
    let key_policy = match known(&at("key_policy"), spec.key_policy)? {
        v1::KeyPolicy::Unspecified | v1::KeyPolicy::Unique => KeyPolicy::Unique,
        v1::KeyPolicy::Exact => KeyPolicy::Exact,
    };
    let priority = match known(&at("priority"), spec.priority)? {
        v1::Priority::Unspecified | v1::Priority::Normal => Priority::Normal,
        v1::Priority::Interactive => Priority::Interactive,
        v1::Priority::Background => Priority::Background,
    };
    let waits = match known(&at("wait_for"), spec.wait_for)? {
        v1::WaitFor::Unspecified | v1::WaitFor::Durable => false,
        v1::WaitFor::Stored => true,
    };
    let on_denied = match known(&at("on_denied"), spec.on_denied)? {
        v1::OnDenied::Unspecified | v1::OnDenied::Fail => OnDenied::Fail,
        v1::OnDenied::Wait => OnDenied::Wait,
    };
    let spec = UploadSpec {
        session: names::session(&at("session"), &spec.session)?,
        destination: given(spec.destination),
        key: spec.key,
        key_policy,
        content_type: given(spec.content_type),
        metadata: spec.metadata.into_iter().collect(),
        overwrite: spec.overwrite,
        priority,
        on_denied,
    };
    Ok((spec, waits))
}

/// The proof in `finish`.
///
/// # Errors
/// INVALID_FIELD where it is not base64 of the right length.
pub fn expected_checksum(checksum: Option<v1::upload_finish::Checksum>) -> Result<Option<ExpectedChecksum>, Status> {
    use v1::upload_finish::Checksum;
    match checksum {
        None => Ok(None),
        Some(Checksum::Crc64nvme(text)) => {
            let bytes = decoded::<8>("finish.crc64nvme", &text, "must be base64 of 8 bytes, big-endian")?;
            Ok(Some(ExpectedChecksum::Crc64Nvme(u64::from_be_bytes(bytes))))
        }
        Some(Checksum::Sha256(text)) => {
            let bytes = decoded::<32>("finish.sha256", &text, "must be base64 of 32 bytes")?;
            Ok(Some(ExpectedChecksum::Sha256(bytes)))
        }
    }
}

/// The states to list.
///
/// # Errors
/// UNKNOWN_ENUM_VALUE, also for UNSPECIFIED, which no upload has.
pub fn listed_states(states: &[i32]) -> Result<Vec<UploadState>, Status> {
    let listed = states.iter().enumerate().map(|(index, number)| {
        let path = format!("states[{index}]");
        Ok(match known(&path, *number)? {
            v1::UploadState::Unspecified => return Err(unknown(&path, *number)),
            v1::UploadState::Receiving => UploadState::Receiving,
            v1::UploadState::Queued => UploadState::Queued,
            v1::UploadState::Running => UploadState::Running,
            // Matches every reason.
            v1::UploadState::Waiting => UploadState::Waiting(WaitReason::Retry),
            v1::UploadState::Succeeded => UploadState::Succeeded,
            v1::UploadState::Failed => UploadState::Failed,
            v1::UploadState::Cancelled => UploadState::Cancelled,
        })
    });
    listed.collect()
}

/// What a sign-out does with uploads.
///
/// # Errors
/// UNKNOWN_ENUM_VALUE.
pub fn sign_out_uploads(number: i32) -> Result<SignOutUploads, Status> {
    Ok(match known("uploads", number)? {
        v1::SignOutUploads::Unspecified | v1::SignOutUploads::Park => SignOutUploads::Park,
        v1::SignOutUploads::Drain => SignOutUploads::Drain,
        v1::SignOutUploads::Cancel => SignOutUploads::Cancel,
    })
}

/// An optional text: empty means left out.
pub fn given(text: String) -> Option<String> {
    (!text.is_empty()).then_some(text)
}

fn known<E: TryFrom<i32>>(path: &str, number: i32) -> Result<E, Status> {
    E::try_from(number).map_err(|_| unknown(path, number))
}

fn unknown(path: &str, number: i32) -> Status {
    let failure = Failure::new(Reason::UnknownEnumValue, format!("{path}: {number} has no meaning here"));
    failure.with("value", number).violation(path, format!("{number} has no meaning here")).into_status()
}

fn decoded<const N: usize>(path: &str, text: &str, why: &str) -> Result<[u8; N], Status> {
    let bytes = STANDARD.decode(text).ok().and_then(|bytes| <[u8; N]>::try_from(bytes).ok());
    bytes.ok_or_else(|| field(Reason::InvalidField, path, why))
}

fn session_state(state: SessionState) -> v1::SessionState {
    match state {
        SessionState::Active => v1::SessionState::Active,
        SessionState::Stale => v1::SessionState::Stale,
        SessionState::NeedsSignIn => v1::SessionState::NeedsSignIn,
        SessionState::SigningOut => v1::SessionState::SigningOut,
    }
}

fn upload_state(state: UploadState) -> (v1::UploadState, v1::WaitReason) {
    let state = match state {
        UploadState::Receiving => v1::UploadState::Receiving,
        UploadState::Queued => v1::UploadState::Queued,
        UploadState::Running => v1::UploadState::Running,
        UploadState::Waiting(reason) => return (v1::UploadState::Waiting, wait_reason(reason)),
        UploadState::Succeeded => v1::UploadState::Succeeded,
        UploadState::Failed => v1::UploadState::Failed,
        UploadState::Cancelled => v1::UploadState::Cancelled,
    };
    (state, v1::WaitReason::Unspecified)
}

fn wait_reason(reason: WaitReason) -> v1::WaitReason {
    match reason {
        WaitReason::Offline => v1::WaitReason::Offline,
        WaitReason::Retry => v1::WaitReason::Retry,
        WaitReason::Credentials => v1::WaitReason::Credentials,
        WaitReason::SignIn => v1::WaitReason::SignIn,
        WaitReason::Paused => v1::WaitReason::Paused,
        WaitReason::Clock => v1::WaitReason::Clock,
        WaitReason::Denied => v1::WaitReason::Denied,
        WaitReason::Metered => v1::WaitReason::Metered,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use tonic_types::StatusExt as _;

    use super::*;

    fn first_violation(status: &Status) -> (String, String) {
        let details = status.get_error_details();
        let violation = details.bad_request().unwrap().field_violations[0].field.clone();
        (details.error_info().unwrap().reason.clone(), violation)
    }

    #[test]
    fn a_spec_gets_its_documented_defaults() {
        let spec = v1::UploadSpec { key: "free/cat.jpg".to_owned(), ..Default::default() };
        let (spec, waits) = upload_spec("spec", Some(spec)).unwrap();
        assert_eq!(spec, UploadSpec { key: "free/cat.jpg".to_owned(), ..UploadSpec::default() });
        assert!(!waits);
    }

    #[test]
    fn what_a_spec_cannot_say_is_refused_by_field() {
        let missing = upload_spec("begin.spec", None).unwrap_err();
        assert_eq!(first_violation(&missing), ("MISSING_FIELD".to_owned(), "begin.spec".to_owned()));
        let key = || "free/cat.jpg".to_owned();
        let cases = [
            (v1::UploadSpec::default(), "MISSING_FIELD", "spec.key"),
            (
                v1::UploadSpec { key: key(), key_policy: 9, ..Default::default() },
                "UNKNOWN_ENUM_VALUE",
                "spec.key_policy",
            ),
            (v1::UploadSpec { key: key(), priority: -1, ..Default::default() }, "UNKNOWN_ENUM_VALUE", "spec.priority"),
            (v1::UploadSpec { key: key(), wait_for: 3, ..Default::default() }, "UNKNOWN_ENUM_VALUE", "spec.wait_for"),
            (v1::UploadSpec { key: key(), on_denied: 3, ..Default::default() }, "UNKNOWN_ENUM_VALUE", "spec.on_denied"),
            (
                v1::UploadSpec { key: key(), session: "x".to_owned(), ..Default::default() },
                "INVALID_NAME",
                "spec.session",
            ),
        ];
        for (spec, reason, path) in cases {
            let status = upload_spec("spec", Some(spec)).unwrap_err();
            assert_eq!(first_violation(&status), (reason.to_owned(), path.to_owned()));
        }
    }

    #[test]
    fn checksums_are_read_in_the_form_that_s3_uses() {
        use v1::upload_finish::Checksum;
        let crc = expected_checksum(Some(Checksum::Crc64nvme("AAAAAAAAAQI=".to_owned()))).unwrap();
        assert_eq!(crc, Some(ExpectedChecksum::Crc64Nvme(0x0102)));
        let sha = STANDARD.encode([7; 32]);
        assert_eq!(expected_checksum(Some(Checksum::Sha256(sha))).unwrap(), Some(ExpectedChecksum::Sha256([7; 32])));
        for wrong in ["", "AAAA", "not base64", "AAAAAAAAAQI", "AAAAAAAAAQIAAA=="] {
            let status = expected_checksum(Some(Checksum::Crc64nvme(wrong.to_owned()))).unwrap_err();
            assert_eq!(first_violation(&status), ("INVALID_FIELD".to_owned(), "finish.crc64nvme".to_owned()));
        }
    }

    #[test]
    fn every_state_can_be_listed_and_nothing_else() {
        assert_eq!(listed_states(&[1, 2, 3, 4, 5, 6, 7]).unwrap().len(), 7);
        assert_eq!(first_violation(&listed_states(&[2, 0]).unwrap_err()).1, "states[1]");
        assert_eq!(first_violation(&listed_states(&[8]).unwrap_err()).0, "UNKNOWN_ENUM_VALUE");
    }
}
