//! The steps about photos: what may be written where, and what arrived.

use std::time::Duration;

use tonic::Response;

use super::super::super::client::{answer, unary};
use super::super::super::exit::CliError;
use super::super::super::text::{has_ended, size};
use super::super::camera;
use super::{BEN, CLIP_BYTES, LONG_CLIP_BYTES, Play, Told, failed, must_be, must_be_denied, must_be_refused};
use crate::api::v1::{self, UploadState};
use crate::local_cloud::faults::{Effect, Rule};

/// As the daemon's configuration has them by default.
const PART_BYTES: usize = 8 << 20;
const MAX_PARTS_IN_FLIGHT: usize = 4;
/// What each part takes longer, on the link that is cut.
const PART_DELAY: Duration = Duration::from_millis(50);

pub(super) async fn three_photos(play: &mut Play<'_>) -> Told {
    let mut bytes = 0;
    for (seed, name) in (1..).zip(["beach", "harbour", "lighthouse"]) {
        let photo = camera::photo(seed).map_err(CliError::failed)?;
        let upload = play.store(&format!("free/{name}.jpg"), "image/jpeg", &photo).await?;
        bytes += upload.stored_bytes;
    }
    Ok(format!("in S3 beneath users/{{identity id}}/free/; {}, checksums compared", size(bytes)))
}

pub(super) async fn premium_is_denied(play: &mut Play<'_>) -> Told {
    let photo = camera::photo(4).map_err(CliError::failed)?;
    let upload = play.hand_over("premium/sunset.jpg", "image/jpeg", &photo).await;
    let upload = upload.map_err(|status| CliError::from_status("upload", &status))?;
    play.denied = play.watch(&upload.name).await?;
    must_be(&play.denied, UploadState::Failed)?;
    let failure = play.denied.failure.clone().unwrap_or_default();
    if failure.reason != "ACCESS_DENIED" {
        return Err(CliError::failed(format!(
            "failed with {}, not ACCESS_DENIED: {}",
            failure.reason, failure.message
        )));
    }
    play.nothing_is_at(&format!("{}premium/sunset.jpg", play.prefix())).await?;
    Ok("by S3, not by the daemon: FAILED (ACCESS_DENIED), the bytes are kept".to_owned())
}

pub(super) async fn other_prefix_is_denied(play: &mut Play<'_>) -> Told {
    let ben = play.account(BEN).await?;
    let key = format!("users/{}/free/not-mine.jpg", ben.identity_id);
    let photo = camera::photo(5).map_err(CliError::failed)?;
    must_be_denied(play.bucket_as_ada().await?.put(&key, photo).await)?;
    play.nothing_is_at(&key).await?;
    play.sign_out(&ben).await?;
    Ok(format!("denied by S3: Ada's vended credentials, {BEN}'s free/"))
}

pub(super) async fn forged_key_is_refused(play: &mut Play<'_>) -> Told {
    let photo = camera::photo(6).map_err(CliError::failed)?;
    let refused = play.hand_over("free/../premium/x", "image/jpeg", &photo).await;
    must_be_refused(refused.map(Response::new), "INVALID_KEY")?;
    Ok("free/../premium/x: refused before a byte is kept (INVALID_KEY)".to_owned())
}

pub(super) async fn forged_key_is_literal(play: &mut Play<'_>) -> Told {
    let photo = camera::photo(6).map_err(CliError::failed)?;
    let key = format!("{}free/../premium/x", play.prefix());
    let put = play.bucket_as_ada().await?.put(&key, photo.clone()).await;
    put.map_err(|refusal| failed(&refusal))?;
    let stored = play.bucket()?.get(&key).await.map_err(|refusal| failed(&refusal))?;
    if stored != photo {
        return Err(CliError::failed(format!("other bytes are at {key}")));
    }
    play.nothing_is_at(&format!("{}premium/x", play.prefix())).await?;
    play.expected.insert(key, i64::try_from(photo.len()).unwrap_or(i64::MAX));
    Ok("with the vended credentials: a literal name in S3, nothing at premium/x".to_owned())
}

pub(super) async fn premium_is_open(play: &mut Play<'_>) -> Told {
    let photo = camera::photo(7).map_err(CliError::failed)?;
    let upload = play.store("premium/aurora.jpg", "image/jpeg", &photo).await?;
    Ok(format!("{} in S3, without a new sign-in", size(upload.stored_bytes)))
}

pub(super) async fn denied_photo_goes_out(play: &mut Play<'_>) -> Told {
    let request = v1::RetryUploadRequest { name: play.denied.name.clone() };
    answer("retry", play.client()?.uploads().retry_upload(unary(request)).await)?;
    let upload = play.watch(&play.denied.name.clone()).await?;
    let photo = camera::photo(4).map_err(CliError::failed)?;
    play.must_be_stored(&upload, &photo).await?;
    Ok("premium/sunset.jpg, queued again: the app did not hand it over twice".to_owned())
}

pub(super) async fn clip(play: &mut Play<'_>) -> Told {
    let bytes = tokio::task::spawn_blocking(|| camera::clip(CLIP_BYTES)).await;
    let bytes = bytes.map_err(|_| CliError::failed("the camera broke"))?;
    let upload = play.store("premium/clip.mp4", "video/mp4", &bytes).await?;
    let object = upload.object.unwrap_or_default();
    // The ETag of a multipart object ends with the number of its parts.
    let parts = object.etag.trim_matches('"').rsplit_once('-').and_then(|(_, parts)| parts.parse::<u32>().ok());
    match parts {
        Some(parts) if parts > 1 => {
            Ok(format!("in {parts} parts; the bucket's CRC64NVME {} is the clip's", object.checksum_crc64nvme))
        }
        _ => Err(CliError::failed(format!("the clip is not a multipart object: its ETag is {}", object.etag))),
    }
}

/// A clip by its path, and a daemon that dies in the middle of sending it.
pub(super) async fn crash(play: &mut Play<'_>) -> Told {
    let bytes = tokio::task::spawn_blocking(|| camera::clip(LONG_CLIP_BYTES)).await;
    let bytes = bytes.map_err(|_| CliError::failed("the camera broke"))?;
    let path = play.stage.folder().join("photos/long.mp4");
    tokio::fs::write(&path, &bytes)
        .await
        .map_err(|error| CliError::failed(format!("cannot write the clip: {error}")))?;
    // The link of a kiosk: without it all would be over before anybody can pull a plug.
    let slow = Rule::new("s3:UploadPart", Effect::Delay).latency(PART_DELAY);
    let slowed = play.stage.cloud()?.faults().add(slow);
    slowed.map_err(|error| CliError::failed(error.to_string()))?;
    let spec = v1::UploadSpec {
        session: play.session.name.clone(),
        key: "premium/long.mp4".to_owned(),
        key_policy: v1::KeyPolicy::Exact.into(),
        content_type: "video/mp4".to_owned(),
        ..v1::UploadSpec::default()
    };
    let path = path.to_string_lossy().into_owned();
    let request = v1::CreateUploadRequest { spec: Some(spec), path, ..v1::CreateUploadRequest::default() };
    let created = answer("upload", play.client()?.uploads().create_upload(unary(request)).await)?;
    let name = created.upload.unwrap_or_default().name;
    let is_third = |upload: &v1::Upload| upload.total_bytes > 0 && upload.stored_bytes >= upload.total_bytes / 3;
    let before = play.watch_until(&name, is_third).await?;
    if has_ended(before.state) {
        return Err(CliError::failed("the clip was through before the daemon could be killed"));
    }
    play.stage.kill_daemon().await;
    play.stage.cloud()?.faults().clear();
    play.client = Some(play.stage.run_daemon().await?);
    let upload = play.watch(&name).await?;
    play.must_be_stored(&upload, &bytes).await?;
    let key = upload.object.unwrap_or_default().key;
    let requests = play.stage.cloud()?.requests(0);
    let parts = requests.iter().filter(|one| one.operation == "s3:UploadPart" && one.key == key);
    let sent = parts.filter(|one| one.status == Some(200)).count();
    let again = sent.saturating_sub(LONG_CLIP_BYTES / PART_BYTES);
    let in_flight = MAX_PARTS_IN_FLIGHT;
    if again > in_flight {
        return Err(CliError::failed(format!("{again} parts were sent again, more than the {in_flight} in flight")));
    }
    let twice = i64::try_from(again * PART_BYTES).unwrap_or(i64::MAX);
    Ok(format!("with {} in S3; started again, it went on: {} sent twice", size(before.stored_bytes), size(twice)))
}

pub(super) async fn list(play: &mut Play<'_>) -> Told {
    let found = play.bucket()?.list().await.map_err(|refusal| failed(&refusal))?;
    let mut told = format!("{} objects, exactly those that were meant to be there:", found.len());
    for (key, bytes) in &found {
        told.push_str(&format!("\n{:>10}  {key}", size(*bytes)));
    }
    if found == play.expected {
        return Ok(told);
    }
    let expected: Vec<_> = play.expected.keys().cloned().collect();
    Err(CliError::failed(format!("{told}\nexpected: {}", expected.join(", "))))
}
