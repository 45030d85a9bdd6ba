//! The local cloud's S3 with the AWS SDK: objects, multipart uploads, conditions, checksums, tokens, listings.

use aws_sdk_s3::Client;
use aws_sdk_s3::config::RequestChecksumCalculation;
use aws_sdk_s3::operation::create_multipart_upload::CreateMultipartUploadOutput;
use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{
    ChecksumAlgorithm, ChecksumMode, ChecksumType, CompletedMultipartUpload, CompletedPart, Delete, ObjectIdentifier,
};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use crc_fast::CrcAlgorithm::Crc64Nvme;

use crate::rehearsal::{Rehearsal, bytes, code, keys, options};

const MIB: usize = 1024 * 1024;

fn crc64(data: &[u8]) -> String {
    STANDARD.encode(crc_fast::checksum(Crc64Nvme, data).to_be_bytes())
}

async fn put(s3: &Client, bucket: &str, key: &str, body: &[u8]) {
    s3.put_object().bucket(bucket).key(key).body(ByteStream::from(body.to_vec())).send().await.unwrap();
}

async fn get(s3: &Client, bucket: &str, key: &str) -> Vec<u8> {
    let got = s3.get_object().bucket(bucket).key(key).send().await.unwrap();
    got.body.collect().await.unwrap().to_vec()
}

async fn create(s3: &Client, bucket: &str, key: &str) -> String {
    let created = s3.create_multipart_upload().bucket(bucket).key(key).checksum_algorithm(ChecksumAlgorithm::Crc64Nvme);
    created.send().await.unwrap().upload_id.unwrap()
}

async fn part(s3: &Client, bucket: &str, key: &str, id: &str, number: i32, body: &[u8]) -> CompletedPart {
    let sent = s3
        .upload_part()
        .bucket(bucket)
        .key(key)
        .upload_id(id)
        .part_number(number)
        .checksum_crc64_nvme(crc64(body))
        .body(ByteStream::from(body.to_vec()))
        .send()
        .await
        .unwrap();
    CompletedPart::builder().part_number(number).e_tag(sent.e_tag.unwrap()).build()
}

fn parts(parts: impl IntoIterator<Item = CompletedPart>) -> CompletedMultipartUpload {
    CompletedMultipartUpload::builder().set_parts(Some(parts.into_iter().collect())).build()
}

#[tokio::test]
async fn an_object_comes_back_as_it_was_sent() {
    let rehearsal = Rehearsal::start().await;
    let (s3, bucket) = (rehearsal.admin_s3(), rehearsal.bucket.as_str());
    let body = bytes(3 * MIB + 17);
    let key = "users/us-east-1:id/free/a b+c%2F/ü 漢.jpg";
    let sent = s3
        .put_object()
        .bucket(bucket)
        .key(key)
        .content_type("image/jpeg")
        .cache_control("no-store")
        .metadata("upload-id", "01J")
        .body(ByteStream::from(body.clone()))
        .send()
        .await
        .unwrap();
    // S3's default for clients that name none.
    assert_eq!(sent.checksum_crc64_nvme(), Some(crc64(&body).as_str()));
    let head = s3.head_object().bucket(bucket).key(key).checksum_mode(ChecksumMode::Enabled).send().await.unwrap();
    assert_eq!(head.content_length(), Some(body.len() as i64));
    assert_eq!(head.content_type(), Some("image/jpeg"));
    assert_eq!(head.cache_control(), Some("no-store"));
    assert_eq!(head.metadata().unwrap()["upload-id"], "01J");
    assert_eq!(head.e_tag(), sent.e_tag());
    assert_eq!(head.checksum_crc64_nvme(), Some(crc64(&body).as_str()));
    assert_eq!(get(&s3, bucket, key).await, body);
    let ranged = s3.get_object().bucket(bucket).key(key).range("bytes=1000000-1000009").send().await.unwrap();
    assert_eq!(ranged.content_range(), Some(format!("bytes 1000000-1000009/{}", body.len()).as_str()));
    assert_eq!(ranged.body.collect().await.unwrap().to_vec(), &body[1_000_000..1_000_010]);
    let error = s3.get_object().bucket(bucket).key(key).range("bytes=99999999-").send().await.unwrap_err();
    assert_eq!(code(&error), "InvalidRange");
    assert_eq!(rehearsal.keys().await, [key]);
    s3.delete_object().bucket(bucket).key(key).send().await.unwrap();
    let error = s3.get_object().bucket(bucket).key(key).send().await.unwrap_err().into_service_error();
    assert!(error.is_no_such_key(), "{error:?}");
    let error = s3.head_object().bucket(bucket).key(key).send().await.unwrap_err().into_service_error();
    assert!(error.is_not_found(), "{error:?}");
    let error = s3.list_objects_v2().bucket("no-such-bucket").send().await.unwrap_err().into_service_error();
    assert!(error.is_no_such_bucket(), "{error:?}");
}

#[tokio::test]
async fn every_checksum_is_compared() {
    let rehearsal = Rehearsal::start().await;
    let (s3, bucket) = (rehearsal.admin_s3(), rehearsal.bucket.as_str());
    let config = rehearsal.s3_config(rehearsal.administrator());
    let config = config.request_checksum_calculation(RequestChecksumCalculation::WhenSupported);
    let computing = Client::from_conf(config.build());
    for algorithm in [
        ChecksumAlgorithm::Crc32,
        ChecksumAlgorithm::Crc32C,
        ChecksumAlgorithm::Crc64Nvme,
        ChecksumAlgorithm::Sha1,
        ChecksumAlgorithm::Sha256,
    ] {
        let body = ByteStream::from_static(b"photo");
        let key = format!("sums/{algorithm}");
        let put = computing.put_object().bucket(bucket).key(&key).checksum_algorithm(algorithm).body(body);
        put.send().await.unwrap();
        let head = s3.head_object().bucket(bucket).key(&key).checksum_mode(ChecksumMode::Enabled).send().await.unwrap();
        let shown = [
            head.checksum_crc32(),
            head.checksum_crc32_c(),
            head.checksum_crc64_nvme(),
            head.checksum_sha1(),
            head.checksum_sha256(),
        ];
        assert_eq!(shown.iter().flatten().count(), 1, "{shown:?}");
        assert_eq!(head.checksum_type(), Some(&ChecksumType::FullObject));
    }
    let wrong = s3.put_object().bucket(bucket).key("wrong").checksum_crc64_nvme(crc64(b"other"));
    let error = wrong.body(ByteStream::from_static(b"photo")).send().await.unwrap_err();
    assert_eq!(code(&error), "BadDigest");
    let wrong = s3.put_object().bucket(bucket).key("wrong").content_md5(STANDARD.encode([7; 16]));
    let error = wrong.body(ByteStream::from_static(b"photo")).send().await.unwrap_err();
    assert_eq!(code(&error), "BadDigest");
    assert!(!rehearsal.keys().await.contains(&"wrong".to_owned()));
}

#[tokio::test]
async fn the_default_settings_of_an_sdk_work() {
    let rehearsal = Rehearsal::start().await;
    let config = rehearsal.s3_config(rehearsal.administrator());
    let config = config.request_checksum_calculation(RequestChecksumCalculation::WhenSupported);
    let s3 = Client::from_conf(config.build());
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("clip");
    let body = bytes(2 * MIB);
    std::fs::write(&file, &body).unwrap();
    let stream = ByteStream::from_path(&file).await.unwrap();
    s3.put_object().bucket(&rehearsal.bucket).key("clip").body(stream).send().await.unwrap();
    assert_eq!(get(&s3, &rehearsal.bucket, "clip").await, body);
}

#[tokio::test]
async fn a_multipart_upload_is_one_object_with_one_checksum() {
    let rehearsal = Rehearsal::start().await;
    let (s3, bucket, key) = (rehearsal.admin_s3(), rehearsal.bucket.as_str(), "users/me/clip.mp4");
    let body = bytes(16 * MIB + 3);
    let chunks: Vec<&[u8]> = body.chunks(8 * MIB).collect();
    let id = create(&s3, bucket, key).await;
    let mut sent = Vec::new();
    for (number, chunk) in (1..).zip(&chunks) {
        sent.push(part(&s3, bucket, key, &id, number, chunk).await);
    }
    let listed = s3.list_parts().bucket(bucket).key(key).upload_id(&id).max_parts(2).send().await.unwrap();
    assert_eq!(listed.is_truncated(), Some(true));
    assert_eq!(listed.checksum_algorithm(), Some(&ChecksumAlgorithm::Crc64Nvme));
    assert_eq!(listed.parts()[1].checksum_crc64_nvme(), Some(crc64(chunks[1]).as_str()));
    let rest = s3.list_parts().bucket(bucket).key(key).upload_id(&id);
    let rest = rest.part_number_marker(listed.next_part_number_marker().unwrap()).send().await.unwrap();
    assert_eq!(rest.parts().len(), 1);
    assert_eq!(rest.parts()[0].size(), Some(3));
    let uploads = s3.list_multipart_uploads().bucket(bucket).prefix("users/").send().await.unwrap();
    assert_eq!(uploads.uploads()[0].upload_id(), Some(id.as_str()));
    assert!(rehearsal.keys().await.is_empty());

    let complete = |checksum: String, size: i64| {
        s3.complete_multipart_upload()
            .bucket(bucket)
            .key(key)
            .upload_id(&id)
            .checksum_crc64_nvme(checksum)
            .checksum_type(ChecksumType::FullObject)
            .mpu_object_size(size)
            .if_none_match("*")
            .multipart_upload(parts(sent.clone()))
            .send()
    };
    let size = body.len() as i64;
    assert_eq!(code(&complete(crc64(b"other"), size).await.unwrap_err()), "BadDigest");
    assert_eq!(code(&complete(crc64(&body), size + 1).await.unwrap_err()), "InvalidRequest");
    let done = complete(crc64(&body), size).await.unwrap();
    assert_eq!(done.checksum_crc64_nvme(), Some(crc64(&body).as_str()));
    assert!(done.e_tag().unwrap().ends_with("-3\""), "{:?}", done.e_tag());
    assert_eq!(code(&complete(crc64(&body), size).await.unwrap_err()), "NoSuchUpload");
    assert_eq!(get(&s3, bucket, key).await, body);
    let second = s3.get_object().bucket(bucket).key(key).part_number(2).send().await.unwrap();
    assert_eq!(second.parts_count(), Some(3));
    assert_eq!(second.body.collect().await.unwrap().to_vec(), chunks[1]);
    let across = s3.get_object().bucket(bucket).key(key).range(format!("bytes={}-{}", 8 * MIB - 2, 8 * MIB + 1));
    let across = across.send().await.unwrap().body.collect().await.unwrap().to_vec();
    assert_eq!(across, &body[8 * MIB - 2..8 * MIB + 2]);
    assert!(s3.list_multipart_uploads().bucket(bucket).send().await.unwrap().uploads().is_empty());
}

#[tokio::test]
async fn composite_checksums_are_those_of_the_parts() {
    let rehearsal = Rehearsal::start().await;
    let (s3, bucket) = (rehearsal.admin_s3(), rehearsal.bucket.as_str());
    let sha = |data: &[u8]| aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, data).as_ref().to_vec();
    let created = s3.create_multipart_upload().bucket(bucket).key("k").checksum_algorithm(ChecksumAlgorithm::Sha256);
    let CreateMultipartUploadOutput { upload_id: Some(id), .. } = created.send().await.unwrap() else { panic!() };
    let chunks = [bytes(5 * MIB), b"end".to_vec()];
    let mut sent = Vec::new();
    for (number, chunk) in (1..).zip(&chunks) {
        let upload = s3.upload_part().bucket(bucket).key("k").upload_id(&id).part_number(number);
        let upload = upload.checksum_sha256(STANDARD.encode(sha(chunk))).body(ByteStream::from(chunk.clone()));
        let etag = upload.send().await.unwrap().e_tag.unwrap();
        sent.push(CompletedPart::builder().part_number(number).e_tag(etag));
    }
    let other = s3.upload_part().bucket(bucket).key("k").upload_id(&id).part_number(3);
    let other = other.checksum_crc64_nvme(crc64(b"x")).body(ByteStream::from_static(b"x")).send().await.unwrap_err();
    assert_eq!(code(&other), "InvalidRequest");
    let complete = |with_sums: bool| {
        let parts_sent = (0..).zip(&chunks).map(|(place, chunk): (usize, _)| {
            let part = sent[place].clone();
            if with_sums { part.checksum_sha256(STANDARD.encode(sha(chunk))).build() } else { part.build() }
        });
        let complete = s3.complete_multipart_upload().bucket(bucket).key("k").upload_id(&id);
        complete.multipart_upload(parts(parts_sent)).send()
    };
    assert_eq!(code(&complete(false).await.unwrap_err()), "InvalidRequest");
    let done = complete(true).await.unwrap();
    let joined: Vec<u8> = chunks.iter().flat_map(|chunk| sha(chunk)).collect();
    assert_eq!(done.checksum_sha256(), Some(format!("{}-2", STANDARD.encode(sha(&joined))).as_str()));
    assert_eq!(done.checksum_type(), Some(&ChecksumType::Composite));
}

#[tokio::test]
async fn wrong_multipart_calls_get_the_right_codes() {
    let rehearsal = Rehearsal::start().await;
    let (s3, bucket) = (rehearsal.admin_s3(), rehearsal.bucket.as_str());
    let id = create(&s3, bucket, "k").await;
    let small = part(&s3, bucket, "k", &id, 1, b"small").await;
    let last = part(&s3, bucket, "k", &id, 2, b"last").await;
    let complete = |wanted: Vec<CompletedPart>| {
        s3.complete_multipart_upload().bucket(bucket).key("k").upload_id(&id).multipart_upload(parts(wanted)).send()
    };
    let failed = async |wanted| code(&complete(wanted).await.unwrap_err());
    assert_eq!(failed(vec![small.clone(), last.clone()]).await, "EntityTooSmall");
    assert_eq!(failed(vec![last.clone(), small.clone()]).await, "InvalidPartOrder");
    let missing = CompletedPart::builder().part_number(9).e_tag(small.e_tag().unwrap()).build();
    assert_eq!(failed(vec![missing]).await, "InvalidPart");
    let mixed = CompletedPart::builder().part_number(1).e_tag(last.e_tag().unwrap()).build();
    assert_eq!(failed(vec![mixed]).await, "InvalidPart");
    assert_eq!(failed(vec![]).await, "MalformedXML");
    for number in [0, 10_001] {
        let wrong = s3.upload_part().bucket(bucket).key("k").upload_id(&id).part_number(number);
        assert_eq!(code(&wrong.body(ByteStream::from_static(b"x")).send().await.unwrap_err()), "InvalidArgument");
    }
    s3.abort_multipart_upload().bucket(bucket).key("k").upload_id(&id).send().await.unwrap();
    let gone = s3.abort_multipart_upload().bucket(bucket).key("k").upload_id(&id).send().await.unwrap_err();
    assert!(gone.into_service_error().is_no_such_upload());
    let late = s3.upload_part().bucket(bucket).key("k").upload_id(&id).part_number(1);
    assert_eq!(code(&late.body(ByteStream::from_static(b"x")).send().await.unwrap_err()), "NoSuchUpload");
    assert!(rehearsal.keys().await.is_empty());
    assert_eq!(stored_files(rehearsal.cloud.data_dir()).len(), 0);
}

/// The files in which S3 keeps bytes.
fn stored_files(data_dir: &std::path::Path) -> Vec<String> {
    let mut files = Vec::new();
    for shelf in std::fs::read_dir(data_dir.join("s3/blobs")).unwrap() {
        for file in std::fs::read_dir(shelf.unwrap().path()).unwrap() {
            files.push(file.unwrap().file_name().into_string().unwrap());
        }
    }
    files
}

#[tokio::test]
async fn nothing_is_overwritten_on_condition() {
    let rehearsal = Rehearsal::start().await;
    let (s3, bucket) = (rehearsal.admin_s3(), rehearsal.bucket.as_str());
    let attempts: Vec<_> = (0..16_u8)
        .map(|n| {
            let put = s3.put_object().bucket(bucket).key("one").if_none_match("*").body(ByteStream::from(vec![n; 9]));
            tokio::spawn(put.send())
        })
        .collect();
    let (mut won, mut lost) = (0, 0);
    for attempt in attempts {
        match attempt.await.unwrap() {
            Ok(_) => won += 1,
            Err(error) => {
                assert_eq!(error.raw_response().unwrap().status().as_u16(), 412);
                assert_eq!(code(&error), "PreconditionFailed");
                lost += 1;
            }
        }
    }
    assert_eq!((won, lost), (1, 15));
    assert_eq!(stored_files(rehearsal.cloud.data_dir()).len(), 1);

    let id = create(&s3, bucket, "one").await;
    let only = part(&s3, bucket, "one", &id, 1, b"later").await;
    let complete = || s3.complete_multipart_upload().bucket(bucket).key("one").upload_id(&id);
    let refused = complete().if_none_match("*").multipart_upload(parts([only.clone()])).send().await.unwrap_err();
    assert_eq!(code(&refused), "PreconditionFailed");
    // The upload is still there, and may be completed without the condition.
    complete().multipart_upload(parts([only])).send().await.unwrap();
    assert_eq!(get(&s3, bucket, "one").await, b"later");

    let foreign = s3.put_object().bucket(bucket).key("x").expected_bucket_owner("999999999999");
    let error = foreign.body(ByteStream::from_static(b"x")).send().await.unwrap_err();
    assert_eq!((error.raw_response().unwrap().status().as_u16(), code(&error)), (403, "AccessDenied".into()));
    let own = s3.put_object().bucket(bucket).key("x").expected_bucket_owner(&rehearsal.account);
    own.body(ByteStream::from_static(b"x")).send().await.unwrap();
}

#[tokio::test]
async fn temporary_keys_count_only_with_their_token() {
    let rehearsal = Rehearsal::start().await;
    let ana = rehearsal.new_session("ana@example.com").await;
    let ben = rehearsal.new_session("ben@example.com").await;
    let key = format!("users/{}/free/x", ana.identity_id);
    let with = async |id: &str, secret: &str, token: Option<&str>| {
        let credentials = keys(id, secret, token.map(str::to_owned));
        let put = rehearsal.s3(credentials).put_object().bucket(&rehearsal.bucket).key(&key);
        match put.body(ByteStream::from_static(b"x")).send().await {
            Ok(_) => (200, "none".to_owned()),
            Err(error) => (error.raw_response().unwrap().status().as_u16(), code(&error)),
        }
    };
    let (id, secret) = (ana.credentials.access_key_id(), ana.credentials.secret_access_key());
    let token = ana.credentials.session_token();
    assert_eq!(with(id, secret, token).await, (200, "none".into()));
    assert_eq!(with(id, secret, None).await, (403, "InvalidAccessKeyId".into()));
    assert_eq!(with(id, secret, Some("made up")).await, (400, "InvalidToken".into()));
    assert_eq!(with(id, secret, ben.credentials.session_token()).await, (400, "InvalidToken".into()));
    assert_eq!(with(id, "wrong", token).await, (403, "SignatureDoesNotMatch".into()));
    assert_eq!(with("ASIANOBODY0000000000", secret, token).await, (403, "InvalidAccessKeyId".into()));
    rehearsal.cloud.sts().expire_sessions();
    assert_eq!(with(id, secret, token).await, (400, "ExpiredToken".into()));
    let anonymous = reqwest::get(format!("{}/{}/{key}", rehearsal.cloud.url(), rehearsal.bucket)).await.unwrap();
    assert_eq!(anonymous.status(), 403);
}

#[tokio::test]
async fn put_object_alone_covers_a_multipart_upload_and_nothing_else() {
    let rehearsal = Rehearsal::start().await;
    let session = rehearsal.new_session("ana@example.com").await;
    let (s3, bucket) = (rehearsal.s3(session.credentials.clone()), rehearsal.bucket.as_str());
    let key = format!("users/{}/free/clip", session.identity_id);
    let id = create(&s3, bucket, &key).await;
    let first = part(&s3, bucket, &key, &id, 1, &bytes(5 * MIB)).await;
    let last = part(&s3, bucket, &key, &id, 2, b"end").await;
    let complete = s3.complete_multipart_upload().bucket(bucket).key(&key).upload_id(&id);
    complete.multipart_upload(parts([first, last])).send().await.unwrap();
    let premium = format!("users/{}/premium/clip", session.identity_id);
    let denied = s3.create_multipart_upload().bucket(bucket).key(&premium).send().await.unwrap_err();
    assert_eq!(code(&denied), "AccessDenied");
    let message = denied.into_service_error().meta().message().unwrap_or_default().to_owned();
    assert!(message.ends_with("because no identity-based policy allows the s3:PutObject action"), "{message}");
    let denied = s3.list_buckets().send().await.unwrap_err();
    assert_eq!(code(&denied), "AccessDenied");
    let denied = s3.delete_object().bucket(bucket).key(&key).send().await.unwrap_err();
    assert_eq!(code(&denied), "AccessDenied");
    // Without s3:ListBucket not even the absence of a key is told.
    let unknown = s3.get_object().bucket(bucket).key(format!("{key}-absent")).send().await.unwrap_err();
    assert_eq!(code(&unknown), "AccessDenied");
}

#[tokio::test]
async fn a_denied_large_body_gets_an_answer_and_not_a_reset() {
    let rehearsal = Rehearsal::start().await;
    let session = rehearsal.new_session("ana@example.com").await;
    let s3 = rehearsal.s3(session.credentials.clone());
    let body = bytes(12 * MIB);
    for _ in 0..5 {
        let put = s3.put_object().bucket(&rehearsal.bucket).key("elsewhere").body(ByteStream::from(body.clone()));
        assert_eq!(code(&put.send().await.unwrap_err()), "AccessDenied");
    }
    assert_eq!(stored_files(rehearsal.cloud.data_dir()).len(), 0);
}

#[tokio::test]
async fn keys_are_never_paths() {
    let rehearsal = Rehearsal::start().await;
    let (s3, bucket) = (rehearsal.admin_s3(), rehearsal.bucket.as_str());
    let literal = ["a/../b", "a/./b", "a//b", "users/me/free/../premium/x", "trailing/", ".hidden", "a/b/../../c"];
    for key in literal {
        put(&s3, bucket, key, key.as_bytes()).await;
    }
    let mut expected: Vec<_> = literal.iter().map(|key| (*key).to_owned()).collect();
    expected.sort();
    assert_eq!(rehearsal.keys().await, expected);
    for key in literal {
        assert_eq!(get(&s3, bucket, key).await, key.as_bytes());
    }
    for key in ["../x", "a/../../x", "a/b/../../../x"] {
        let refused = s3.put_object().bucket(bucket).key(key).body(ByteStream::from_static(b"x")).send().await;
        assert_eq!(refused.unwrap_err().raw_response().unwrap().status().as_u16(), 400, "{key}");
    }
    let long = s3.put_object().bucket(bucket).key("k".repeat(1_025)).body(ByteStream::from_static(b"x")).send().await;
    assert_eq!(code(&long.unwrap_err()), "KeyTooLongError");
    for file in stored_files(rehearsal.cloud.data_dir()) {
        assert!(file.len() > 64 && file[..64].bytes().all(|byte| byte.is_ascii_hexdigit()), "{file}");
    }
}

#[tokio::test]
async fn listings_have_pages_and_groups() {
    let rehearsal = Rehearsal::start().await;
    let (s3, bucket) = (rehearsal.admin_s3(), rehearsal.bucket.as_str());
    let keys: Vec<String> = (0..25).map(|n| format!("p/{}/{n:02} é", n % 4)).collect();
    for key in &keys {
        put(&s3, bucket, key, b"x").await;
    }
    let mut found = Vec::new();
    let mut pages = s3.list_objects_v2().bucket(bucket).prefix("p/").max_keys(7).into_paginator().send();
    while let Some(page) = pages.next().await {
        found.extend(page.unwrap().contents().iter().map(|object| object.key().unwrap().to_owned()));
    }
    let mut sorted = keys.clone();
    sorted.sort();
    assert_eq!(found, sorted);
    let mut groups = Vec::new();
    let mut pages = s3.list_objects_v2().bucket(bucket).prefix("p/").delimiter("/").max_keys(3).into_paginator().send();
    while let Some(page) = pages.next().await {
        let page = page.unwrap();
        assert!(page.contents().is_empty());
        groups.extend(page.common_prefixes().iter().map(|group| group.prefix().unwrap().to_owned()));
    }
    assert_eq!(groups, ["p/0/", "p/1/", "p/2/", "p/3/"]);
    let v1 = s3.list_objects().bucket(bucket).prefix("p/").marker(&sorted[20]).send().await.unwrap();
    assert_eq!(v1.contents().len(), 4);
    let mut delete = Delete::builder();
    for key in &keys {
        delete = delete.objects(ObjectIdentifier::builder().key(key).build().unwrap());
    }
    let deleted = s3.delete_objects().bucket(bucket).delete(delete.build().unwrap()).send().await.unwrap();
    assert_eq!((deleted.deleted().len(), deleted.errors().len()), (25, 0));
    assert!(rehearsal.keys().await.is_empty());
}

#[tokio::test]
async fn a_reader_keeps_what_it_began_to_read() {
    let rehearsal = Rehearsal::start().await;
    let (s3, bucket) = (rehearsal.admin_s3(), rehearsal.bucket.as_str());
    let before = bytes(24 * MIB);
    put(&s3, bucket, "k", &before).await;
    let got = s3.get_object().bucket(bucket).key("k").send().await.unwrap();
    put(&s3, bucket, "k", b"after").await;
    s3.delete_object().bucket(bucket).key("k").send().await.unwrap();
    assert!(got.body.collect().await.unwrap().to_vec() == before);
}

#[tokio::test]
async fn a_restart_on_the_same_directory_forgets_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let rehearsal = Rehearsal::with(options(directory.path())).await;
    let session = rehearsal.new_session("ana@example.com").await;
    let key = format!("users/{}/free/x", session.identity_id);
    put(&rehearsal.s3(session.credentials.clone()), &rehearsal.bucket, &key, b"photo").await;
    let (s3, bucket) = (rehearsal.admin_s3(), rehearsal.bucket.clone());
    let id = create(&s3, &bucket, "clip").await;
    let first = part(&s3, &bucket, "clip", &id, 1, &bytes(5 * MIB)).await;
    std::fs::write(directory.path().join("s3/blobs/incoming/half"), b"half").unwrap();
    rehearsal.cloud.shutdown().await;

    let rehearsal = Rehearsal::with(options(directory.path())).await;
    assert_eq!(rehearsal.keys().await, std::slice::from_ref(&key));
    let s3 = rehearsal.admin_s3();
    let last = part(&s3, &bucket, "clip", &id, 2, b"end").await;
    let complete = s3.complete_multipart_upload().bucket(&bucket).key("clip").upload_id(&id);
    complete.multipart_upload(parts([first, last])).send().await.unwrap();
    assert_eq!(get(&s3, &bucket, "clip").await.len(), 5 * MIB + 3);
    // The old credentials still count, and the user is the same.
    put(&rehearsal.s3(session.credentials), &bucket, &key, b"again").await;
    let again = rehearsal.session(&rehearsal.id_token("ana@example.com").await).await;
    assert_eq!(again.identity_id, session.identity_id);
    assert_eq!(stored_files(directory.path()).len(), 3);
}

#[tokio::test]
async fn copies_are_objects_of_their_own() {
    let rehearsal = Rehearsal::start().await;
    let (s3, bucket) = (rehearsal.admin_s3(), rehearsal.bucket.as_str());
    put(&s3, bucket, "from", b"photo").await;
    let copied = s3.copy_object().bucket(bucket).key("to").copy_source(format!("{bucket}/from")).send().await.unwrap();
    assert!(copied.copy_object_result().unwrap().e_tag().is_some());
    s3.delete_object().bucket(bucket).key("from").send().await.unwrap();
    assert_eq!(get(&s3, bucket, "to").await, b"photo");
}

#[tokio::test]
async fn sixty_four_mebibytes_are_nothing_special() {
    let rehearsal = Rehearsal::start().await;
    let (s3, bucket) = (rehearsal.admin_s3(), rehearsal.bucket.as_str());
    let body = bytes(64 * MIB);
    let id = create(&s3, bucket, "clip").await;
    let mut sent = Vec::new();
    for (number, chunk) in (1..).zip(body.chunks(8 * MIB)) {
        sent.push(part(&s3, bucket, "clip", &id, number, chunk).await);
    }
    let complete = s3.complete_multipart_upload().bucket(bucket).key("clip").upload_id(&id).if_none_match("*");
    let complete = complete.checksum_crc64_nvme(crc64(&body)).multipart_upload(parts(sent));
    complete.send().await.unwrap();
    assert_eq!(crc64(&get(&s3, bucket, "clip").await), crc64(&body));
}
