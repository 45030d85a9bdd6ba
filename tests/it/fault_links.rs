//! Links that are slow, and links that are away for a day.
//!
//! `TIDEGATE_LINK_BYTES_PER_S` says how slow; the stall timeout is always what the kernel's buffers would carry in 20 s at
//! 1 kB/s, so that a faster link only makes the test shorter.

use std::time::Duration;

use tidegate::clock::Clock;
use tidegate::upload::{Ulid, UploadState, WaitReason};

use crate::fault_stage::{Role, Stage, spec, times};
use crate::rehearsal::bytes;

#[tokio::test(flavor = "multi_thread")]
async fn a_photo_of_64_kib_gets_through_a_link_of_one_kilobyte_a_second() {
    let bytes_per_s = times("TIDEGATE_LINK_BYTES_PER_S", 100_000);
    let mut stage = Stage::on_local_cloud().await;
    stage.config.stall_timeout_ms = 20_000_000 / bytes_per_s;
    stage.config.complete_timeout_ms = 600_000_000 / bytes_per_s;
    let daemon = stage.start().await;
    stage.proxy.set_bytes_per_s(bytes_per_s);
    let content = bytes(64 << 10);
    let begun = std::time::Instant::now();
    for role in Role::BOTH {
        let id = Ulid::generate();
        daemon.stream(role, id, spec("free/slow.jpg", false), &content).await.unwrap();
        let mut view = daemon.end(role, id).await;
        // On the slowest link it takes longer than anything else may.
        while view.state == UploadState::Running || matches!(view.state, UploadState::Waiting(WaitReason::Retry)) {
            assert!(begun.elapsed() < Duration::from_secs(1_200), "never done: {view:?}");
            view = daemon.end(role, id).await;
        }
        assert_eq!(view.state, UploadState::Succeeded, "{:?}", view.failure);
        assert!(stage.content(&view.key).await == content);
        println!("64 KiB at {bytes_per_s} B/s: {:?}, {} attempts put aside", begun.elapsed(), view.attempt_count);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_day_without_a_link_everything_is_sent() {
    // The cloud goes by the same hand, so credentials and tokens run out for both.
    let clock = Clock::manual(std::time::SystemTime::now());
    let stage = Stage::with_clock(clock.clone()).await;
    let daemon = stage.start().await;
    let uploads: Vec<(Role, Ulid, usize, bool)> = (0..24)
        .map(|number| {
            let len = if number % 8 == 0 { (5 << 20) + 1_000 } else { 20_000 + number };
            (Role::BOTH[number % 2], Ulid::generate(), len, number % 3 == 0)
        })
        .collect();
    stage.proxy.set_dark(true);
    stage.rehearsal.cloud.faults().set_offline(true);
    for (role, id, len, exact) in &uploads {
        let spec = spec(&format!("free/day-{id}.jpg"), *exact);
        daemon.stream(*role, *id, spec, &bytes(*len)).await.unwrap();
    }
    for hour in 0..24 {
        // One of each person's: what they all wait for.
        for (role, id, ..) in &uploads[..2] {
            let waits = |view: &tidegate::upload::UploadView| matches!(view.state, UploadState::Waiting(_));
            let view = daemon.until(*role, *id, waits).await;
            assert!(view.is_some(), "hour {hour}: {:?}", daemon.get(*role, *id).await);
        }
        clock.advance(Duration::from_secs(3_600));
    }
    for role in Role::BOTH {
        daemon.sessions.get(&role.caller(), None).expect("nobody is signed out by being offline");
    }
    stage.proxy.set_dark(false);
    stage.rehearsal.cloud.faults().set_offline(false);
    // The administrator's client signs by the machine's clock, until the cloud has told it the time.
    stage.learn_time().await;
    // What the detector of the link would tell. Sessions that were backing off ask again by then.
    clock.advance(Duration::from_secs(300));
    daemon.uploads.link_returned();
    for (role, id, len, _) in &uploads {
        let done = |view: &tidegate::upload::UploadView| crate::fault_stage::ended(view.state);
        let end = std::time::Instant::now() + crate::fault_stage::PATIENCE;
        let mut view = daemon.get(*role, *id).await;
        while !done(&view) && std::time::Instant::now() < end {
            clock.advance(Duration::from_secs(5));
            tokio::time::sleep(Duration::from_millis(50)).await;
            view = daemon.get(*role, *id).await;
        }
        assert_eq!(view.state, UploadState::Succeeded, "{:?}", view.failure);
        assert_eq!(view.attempt_count, 0, "being offline uses up no attempt");
        assert!(stage.content(&view.key).await == bytes(*len));
    }
    println!("24 hours dark, {} of {} uploads stored", uploads.len(), uploads.len());
    daemon.crash().await;
}
