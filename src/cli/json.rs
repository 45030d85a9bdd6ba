//! The API's messages as JSON: the fields' names of the proto files, enumerators without their prefix, times in RFC 3339,
//! numbers as numbers. Fields without a value are `null`, so a reader finds every key.

use serde_json::{Value, json};

use super::text::{hot_folder_state, session_kind, session_state, time, upload_state, wait_reason};
use crate::api::v1;

/// A session.
pub fn session(session: &v1::Session) -> Value {
    json!({
        "name": session.name,
        "identity": session.identity,
        "subject": session.subject,
        "username": session.username,
        "kind": session_kind(session.kind),
        "state": session_state(session.state),
        "identity_id": or_null(&session.identity_id),
        "groups": session.groups,
        "create_time": time(session.create_time.as_ref()),
        "credentials_expire_time": time(session.credentials_expire_time.as_ref()),
        "last_error": or_null(&session.last_error),
        "merged_from": or_null(&session.merged_from),
    })
}

/// AWS credentials; only for where they were asked for.
pub fn credentials(credentials: &v1::AwsCredentials) -> Value {
    json!({
        "access_key_id": credentials.access_key_id,
        "secret_access_key": credentials.secret_access_key,
        "session_token": or_null(&credentials.session_token),
        "expire_time": time(credentials.expire_time.as_ref()),
        "stale": credentials.stale,
        "last_error": or_null(&credentials.last_error),
        "identity_id": or_null(&credentials.identity_id),
    })
}

/// What a sign-in asks.
pub fn challenge(challenge: &v1::Challenge) -> Value {
    let parameters: std::collections::BTreeMap<_, _> = challenge.parameters.iter().collect();
    json!({
        "name": challenge.name,
        "challenge_id": challenge.challenge_id,
        "parameters": parameters,
        "required_responses": challenge.required_responses,
        "expire_time": time(challenge.expire_time.as_ref()),
    })
}

/// An upload.
pub fn upload(upload: &v1::Upload) -> Value {
    let object = upload.object.as_ref().map(|object| {
        json!({
            "bucket": object.bucket,
            "key": object.key,
            "etag": or_null(&object.etag),
            "version_id": or_null(&object.version_id),
            "checksum_crc64nvme": or_null(&object.checksum_crc64nvme),
        })
    });
    let failure =
        upload.failure.as_ref().map(|failure| json!({ "reason": failure.reason, "message": failure.message }));
    json!({
        "name": upload.name,
        "session": upload.session,
        "destination": upload.destination,
        "state": upload_state(upload.state),
        "wait_reason": or_null(&wait_reason(upload.wait_reason)),
        "received_bytes": upload.received_bytes,
        "stored_bytes": upload.stored_bytes,
        "total_bytes": upload.total_bytes,
        "object": object,
        "failure": failure,
        "create_time": time(upload.create_time.as_ref()),
        "update_time": time(upload.update_time.as_ref()),
        "end_time": time(upload.end_time.as_ref()),
        "expire_time": time(upload.expire_time.as_ref()),
        "path": or_null(&upload.path),
        "attempt_count": upload.attempt_count,
    })
}

/// Where a code went.
pub fn code_delivery(delivery: Option<&v1::CodeDelivery>) -> Value {
    delivery.map_or(Value::Null, |delivery| json!({ "destination": delivery.destination, "medium": delivery.medium }))
}

/// The daemon's counts and limits.
pub fn status(status: &v1::GetStatusResponse) -> Value {
    let counts: std::collections::BTreeMap<_, _> = status.upload_counts.iter().collect();
    let waiting: std::collections::BTreeMap<_, _> = status.waiting_counts.iter().collect();
    json!({
        "version": status.version,
        "start_time": time(status.start_time.as_ref()),
        "paused": status.paused,
        "accepting": status.accepting,
        "session_count": status.session_count,
        "upload_counts": counts,
        "waiting_counts": waiting,
        "spool_bytes": status.spool_bytes,
        "spool_limit_bytes": status.spool_limit_bytes,
        "disk_free_bytes": status.disk_free_bytes,
        "destinations": status.destinations,
        "identities": status.identities,
        "all_uids": status.all_uids,
        "hot_folders": status.hot_folders.iter().map(hot_folder).collect::<Vec<_>>(),
    })
}

fn hot_folder(folder: &v1::HotFolder) -> Value {
    json!({
        "path": folder.path,
        "session": folder.session,
        "destination": folder.destination,
        "state": hot_folder_state(folder.state),
        "last_error": or_null(&folder.last_error),
        "taken_count": folder.taken_count,
        "waiting_count": folder.waiting_count,
        "open_count": folder.open_count,
        "failed_count": folder.failed_count,
        "refused_count": folder.refused_count,
        "stuck_count": folder.stuck_count,
        "scan_time": time(folder.scan_time.as_ref()),
    })
}

fn or_null(text: &str) -> Value {
    if text.is_empty() { Value::Null } else { json!(text) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_upload_has_every_key_whatever_its_state() {
        let value = upload(&v1::Upload { state: 4, wait_reason: 4, ..v1::Upload::default() });
        assert_eq!(value["state"], "WAITING");
        assert_eq!(value["wait_reason"], "SIGN_IN");
        assert_eq!(value["object"], Value::Null);
        assert!(value.get("failure").is_some());
    }

    #[test]
    fn a_session_says_who_is_signed_in() {
        let guest = v1::Session { kind: v1::SessionKind::Guest.into(), ..v1::Session::default() };
        assert_eq!(session(&guest)["kind"], "GUEST");
    }

    #[test]
    fn an_unknown_state_is_shown_as_its_number() {
        assert_eq!(upload(&v1::Upload { state: 99, ..v1::Upload::default() })["state"], "STATE_99");
    }
}
