//! A limit of bandwidth over a real wire: that it holds, and that a reload lifts it.

use std::time::{Duration, Instant};

use tidegate::api::v1::{self, UploadState};
use tidegate::local_cloud::TemplateSource;

use crate::fixture::Stage;

const RATE: u64 = 256 << 10;
/// Two seconds' worth; a quarter of a second may be made up for at the start, and the last piece is not waited for.
const SMALL: usize = 512 << 10;
/// At the old rate this would take more than a minute.
const LARGE: usize = 20 << 20;
const SOON: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread")]
async fn a_limit_holds_until_a_reload_lifts_it() {
    let limited = |text: String| text.replace("[upload]", &format!("[upload]\nmax_upload_bytes_per_s = {RATE}"));
    let stage = Stage::start_with(TemplateSource::BuiltIn, limited).await;
    let user = stage.sign_up().await;
    stage.sign_in(&user).await;
    let begun = Instant::now();
    let stored = stage.upload_and_wait("free/slow.jpg", &vec![7; SMALL]).await.unwrap();
    assert_eq!((stored.state(), stored.attempt_count), (UploadState::Succeeded, 0));
    assert!(begun.elapsed() >= Duration::from_millis(1_600), "{:?}", begun.elapsed());

    let text = stage.config_text().replace(&format!("max_upload_bytes_per_s = {RATE}"), "max_upload_bytes_per_s = 0");
    std::fs::write(stage.config_file(), text).unwrap();
    let reloaded = stage.gateway().await.reload_config(v1::ReloadConfigRequest {}).await.unwrap().into_inner();
    assert!(reloaded.applied_keys.contains(&"upload.max_upload_bytes_per_s".to_owned()), "{reloaded:?}");
    let content = vec![7; LARGE];
    let stored = tokio::time::timeout(SOON, stage.upload_and_wait("free/fast.jpg", &content)).await;
    assert_eq!(stored.expect("the limit is gone").unwrap().state(), UploadState::Succeeded);
}
