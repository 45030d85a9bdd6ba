//! The steps about photos: what may be written where, and what arrived.

use tonic_types::StatusExt as _;

use super::super::super::client::{answer, unary};
use super::super::super::exit::CliError;
use super::super::super::text::size;
use super::super::camera;
use super::{BEN, CLIP_BYTES, Play, Told, failed, must_be, must_be_denied};
use crate::api::v1::{self, UploadState};

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
    let request = v1::SignOutRequest { name: ben.name, ..v1::SignOutRequest::default() };
    answer("sign out", play.client()?.sessions().sign_out(unary(request)).await)?;
    Ok(format!("denied by S3: Ada's vended credentials, {BEN}'s free/"))
}

pub(super) async fn forged_key_is_refused(play: &mut Play<'_>) -> Told {
    let photo = camera::photo(6).map_err(CliError::failed)?;
    let Err(status) = play.hand_over("free/../premium/x", "image/jpeg", &photo).await else {
        return Err(CliError::failed("the daemon took free/../premium/x"));
    };
    let reason = status.get_details_error_info().map(|info| info.reason).unwrap_or_default();
    if reason != "INVALID_KEY" {
        return Err(CliError::from_status("be refused with INVALID_KEY", &status));
    }
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
