//! What a template says of a bucket: versions, its policy, the lifecycle of unfinished uploads; and races on a key.

use std::convert::Infallible;
use std::time::Duration;

use aws_sdk_s3::primitives::{ByteStream, SdkBody};
use bytes::Bytes;
use http_body::Frame;
use http_body_util::StreamBody;
use serde_json::json;
use tidegate::clock::{Clock, from_unix_ms, unix_ms};
use tidegate::local_cloud::seed::Seed;
use tidegate::local_cloud::{Options, TemplateSource, template};
use tokio_stream::wrappers::ReceiverStream;

use crate::rehearsal::{Rehearsal, code, options};

async fn with_seed(change: impl FnOnce(&mut Seed)) -> Rehearsal {
    let mut seed = template::load(template::built_in(), &template::Options::default()).unwrap();
    change(&mut seed);
    let template = TemplateSource::Seed(Box::new(seed));
    Rehearsal::with(Options { listen: ([127, 0, 0, 1], 0).into(), template, ..Options::default() }).await
}

#[tokio::test]
async fn a_versioned_bucket_keeps_what_is_overwritten_and_deleted() {
    let rehearsal = with_seed(|seed| seed.buckets[0].versioning = true).await;
    let (s3, bucket) = (rehearsal.admin_s3(), rehearsal.bucket.as_str());
    let put = async |body: &'static [u8]| {
        let put = s3.put_object().bucket(bucket).key("k").body(ByteStream::from_static(body));
        put.send().await.unwrap().version_id.unwrap()
    };
    let (first, second) = (put(b"first").await, put(b"second").await);
    let read = async |version: Option<&str>| {
        let got = s3.get_object().bucket(bucket).key("k").set_version_id(version.map(str::to_owned)).send().await;
        match got {
            Ok(got) => Ok(got.body.collect().await.unwrap().to_vec()),
            Err(error) => Err(code(&error)),
        }
    };
    assert_eq!(read(None).await, Ok(b"second".to_vec()));
    assert_eq!(read(Some(&first)).await, Ok(b"first".to_vec()));
    assert_eq!(read(Some("nope")).await, Err("NoSuchVersion".into()));
    let deleted = s3.delete_object().bucket(bucket).key("k").send().await.unwrap();
    assert_eq!(deleted.delete_marker(), Some(true));
    assert_eq!(read(None).await, Err("NoSuchKey".into()));
    assert_eq!(read(Some(&second)).await, Ok(b"second".to_vec()));
    let versions = s3.list_object_versions().bucket(bucket).send().await.unwrap();
    assert_eq!((versions.versions().len(), versions.delete_markers().len()), (2, 1));
    // Nothing is there, so the condition holds.
    let absent = s3.put_object().bucket(bucket).key("k").if_none_match("*").body(ByteStream::from_static(b"third"));
    let third = absent.send().await.unwrap().version_id.unwrap();
    for version in [third, deleted.version_id.unwrap()] {
        s3.delete_object().bucket(bucket).key("k").version_id(version).send().await.unwrap();
    }
    assert_eq!(read(None).await, Ok(b"second".to_vec()));
}

#[tokio::test]
async fn the_buckets_policy_allows_and_denies_beside_the_roles() {
    let rehearsal = with_seed(|seed| {
        seed.buckets[0].policy = Some(json!({
            "Version": "2012-10-17",
            "Statement": [
                {"Effect": "Allow", "Principal": "*", "Action": "s3:GetObject", "Resource": "arn:aws:s3:::app-photos/*"},
                {"Effect": "Deny", "Principal": "*", "Action": "s3:PutObject", "Resource": "arn:aws:s3:::app-photos/*.exe"},
                {"Effect": "Deny", "Principal": "*", "Action": "s3:*", "Resource": "arn:aws:s3:::app-photos/*",
                 "Condition": {"Bool": {"aws:SecureTransport": "false"}}},
            ],
        }));
    })
    .await;
    let session = rehearsal.new_session("ana@example.com").await;
    let (s3, bucket) = (rehearsal.s3(session.credentials.clone()), rehearsal.bucket.as_str());
    let key = |name: &str| format!("users/{}/free/{name}", session.identity_id);
    let put = |name: &str| s3.put_object().bucket(bucket).key(key(name)).body(ByteStream::from_static(b"x")).send();
    put("a.jpg").await.unwrap();
    let denied = put("a.exe").await.unwrap_err();
    assert_eq!(code(&denied), "AccessDenied");
    let message = denied.into_service_error().meta().message().unwrap_or_default().to_owned();
    assert!(message.ends_with("with an explicit deny in a resource-based policy"), "{message}");
    s3.get_object().bucket(bucket).key(key("a.jpg")).send().await.unwrap();
}

#[tokio::test]
async fn a_deletion_during_a_conditional_write_is_a_conflict() {
    let rehearsal = Rehearsal::start().await;
    let (s3, bucket) = (rehearsal.admin_s3(), rehearsal.bucket.clone());
    let (sender, receiver) = tokio::sync::mpsc::channel::<Result<Frame<Bytes>, Infallible>>(1);
    let body = ByteStream::new(SdkBody::from_body_1_x(StreamBody::new(ReceiverStream::new(receiver))));
    let put = s3.put_object().bucket(&bucket).key("k").if_none_match("*").content_length(10).body(body);
    let writing = tokio::spawn(async move {
        let config = put.customize().mutate_request(|request| {
            request.headers_mut().insert("x-amz-content-sha256", "UNSIGNED-PAYLOAD");
        });
        config.send().await
    });
    // The second half is taken only after the first was: by then the write is under way.
    for half in ["first", "other"] {
        sender.send(Ok(Frame::data(Bytes::from_static(half.as_bytes())))).await.unwrap();
        if half == "first" {
            wait_for_writer(&rehearsal).await;
            rehearsal.admin_s3().delete_object().bucket(&bucket).key("k").send().await.unwrap();
        }
    }
    drop(sender);
    let refused = writing.await.unwrap().unwrap_err();
    assert_eq!(refused.raw_response().unwrap().status().as_u16(), 409);
    assert_eq!(code(&refused), "ConditionalRequestConflict");
    assert!(rehearsal.keys().await.is_empty());
}

/// Until the first bytes of a body lie in a file.
async fn wait_for_writer(rehearsal: &Rehearsal) {
    let incoming = rehearsal.cloud.data_dir().join("s3/blobs/incoming");
    let arrived = async {
        while std::fs::read_dir(&incoming).unwrap().next().is_none() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), arrived).await.expect("the body arrives");
}

#[tokio::test]
async fn unfinished_uploads_end_with_their_lifecycle_rule() {
    let directory = tempfile::tempdir().unwrap();
    let rehearsal = Rehearsal::with(options(directory.path())).await;
    let days = rehearsal.cloud.seed().buckets[0].abort_multipart_after_days.unwrap();
    let (s3, bucket) = (rehearsal.admin_s3(), rehearsal.bucket.clone());
    let created = s3.create_multipart_upload().bucket(&bucket).key("clip").send().await.unwrap();
    assert!(created.abort_date().is_some());
    let part = s3.upload_part().bucket(&bucket).key("clip").upload_id(created.upload_id().unwrap()).part_number(1);
    part.body(ByteStream::from_static(b"x")).send().await.unwrap();
    rehearsal.cloud.shutdown().await;
    let later = unix_ms(std::time::SystemTime::now()) + i64::from(days + 1) * 86_400_000;
    let clock = Clock::manual(from_unix_ms(later));
    let rehearsal = Rehearsal::with(Options { clock, ..options(directory.path()) }).await;
    drop(rehearsal);
    let rehearsal = Rehearsal::with(options(directory.path())).await;
    let uploads = rehearsal.admin_s3().list_multipart_uploads().bucket(&bucket).send().await.unwrap();
    assert!(uploads.uploads().is_empty());
}
