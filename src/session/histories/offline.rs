//! Three hours without a link after the sign-in, and a fleet of sessions that comes back.

use super::*;

/// The device of one test: its world, its sessions, and who is signed in.
async fn device(dir: &Path, users: u32, burst: u32) -> (Arc<World>, Sessions, Vec<(Caller, SessionId)>) {
    let world = World::new(7, 0);
    let config = Config { seal_key_file: dir.join("key"), upstream_burst: burst, ..Config::default() };
    let stop = CancellationToken::new();
    let identities = vec![world.identity()];
    let sessions = Sessions::start(config, identities, &dir.join("state"), world.clock(), stop).await.unwrap();
    let mut signed_in = Vec::new();
    for number in 0..users {
        let caller = Caller { uid: 1_000 + number, gid: 1_000, is_admin: false };
        let method = SignInMethod::Password { username: format!("user{number}"), password: "right".into() };
        let view = sessions.sign_in(&caller, None, method).await.unwrap().session().unwrap();
        signed_in.push((caller, view.id));
    }
    (world, sessions, signed_in)
}

#[test]
fn three_hours_offline_sign_nobody_out_and_serve_nothing_past_its_end() {
    for (seed, weather) in [(1, Weather::Unreachable), (2, Weather::Silent), (3, Weather::LosesReplies)] {
        SEED.set(Some(seed));
        let dir = folder();
        runtime().block_on(async {
            let (world, sessions, users) = device(dir.path(), 5, 10).await;
            let signed_in = world.now();
            world.set_weather(weather);
            let calls_before = world.state().calls.len();
            let (mut served, mut refused) = (0, 0);
            for minute in 1..=180_u64 {
                tokio::time::sleep_until(tokio::time::Instant::now() + MINUTE).await;
                for (caller, id) in &users {
                    let answer = tokio::time::timeout(PATIENCE, sessions.credentials(caller, Some(id))).await.unwrap();
                    let state = sessions.get(caller, Some(id)).unwrap().state;
                    assert_ne!(state, SessionState::NeedsSignIn, "minute {minute}: {caller:?} was signed out");
                    match answer {
                        Ok(answer) => {
                            let end = world.state().issued[&answer.credentials.access_key_id].end;
                            assert!(world.now() < end, "minute {minute}: served past its end");
                            served += 1;
                        }
                        Err(error) => {
                            assert!(matches!(error, SessionError::Unavailable { .. }), "{error}");
                            let held = world.now() - signed_in;
                            assert!(held > Duration::from_secs(3_500), "taken away after {held:?}");
                            refused += 1;
                        }
                    }
                }
            }
            let calls = world.state().calls.len() - calls_before;
            // Five sessions: one call in 60 s each on average, and in 15 s for the last quarter of an hour; where the reply
            // is lost, one in 15 s, because a pool that rotates would count down on the refresh token.
            let each = if weather == Weather::LosesReplies { 850 } else { 330 };
            assert!(calls < 5 * each, "{calls} calls in three hours offline");
            world.set_weather(Weather::Fine);
            let mut recovered = Duration::ZERO;
            let back = world.now();
            for (caller, id) in &users {
                let mut view = sessions.watch(caller, Some(id)).unwrap();
                view.wait_for(|view| view.state == SessionState::Active).await.unwrap();
                sessions.credentials(caller, Some(id)).await.unwrap();
                recovered = recovered.max(world.now() - back);
            }
            // A call that began in the silence takes its 10 s; then one back-off, and the round's calls.
            assert!(recovered <= Duration::from_secs(120 + 10 + 6), "recovered after {recovered:?}");
            assert!(world.state().violations.is_empty(), "{:?}", world.state().violations);
            println!(
                "{weather:?} for 3 h: {served} times served, {refused} times refused after the end, {calls} calls, nobody \
                 signed out, everybody back after {recovered:?}"
            );
        });
    }
}

#[test]
fn who_asks_when_the_link_returns_is_served_at_once_and_the_others_spread() {
    SEED.set(Some(4));
    let dir = folder();
    runtime().block_on(async {
        let (world, sessions, users) = device(dir.path(), 40, 1_000).await;
        world.set_weather(Weather::Unreachable);
        tokio::time::sleep(3 * 60 * MINUTE).await;
        world.set_weather(Weather::Fine);
        let (back, before) = (world.now(), world.state().calls.len());
        sessions.link_returned();
        let (caller, id) = &users[17];
        sessions.credentials(caller, Some(id)).await.unwrap();
        assert!(world.now() - back < Duration::from_secs(5), "who waits goes first");
        tokio::time::sleep(Duration::from_secs(190)).await;
        let calls = world.state().calls[before..].to_vec();
        let firsts = users.iter().enumerate().filter(|(number, _)| *number != 17).map(|(number, _)| {
            let name = format!("user{number}");
            calls.iter().find(|call| call.subject == name).map(|call| (call.began - back).as_secs()).expect("came back")
        });
        let firsts: Vec<_> = firsts.collect();
        assert!(firsts.iter().all(|s| *s <= 181), "{firsts:?}");
        assert!(firsts.iter().any(|s| *s > 60), "all came back as one: {firsts:?}");
    });
}

#[test]
fn a_thousand_sessions_come_back_after_a_boot_within_the_limit() {
    SEED.set(Some(5));
    let dir = folder();
    let mut process = runtime();
    let world = process.block_on(async {
        let (world, sessions, _) = device(dir.path(), 1_000, 10_000).await;
        sessions.shutdown().await;
        world
    });
    let ended = process.block_on(async { world.now() });
    drop(process);
    process = runtime();
    process.block_on(async {
        world.next_life(ended, Duration::from_secs(30), -TEN_YEARS_MS);
        let before = world.state().calls.len();
        let config = Config { seal_key_file: dir.path().join("key"), ..Config::default() };
        let (state, stop) = (dir.path().join("state"), CancellationToken::new());
        let sessions = Sessions::start(config, vec![world.identity()], &state, world.clock(), stop).await.unwrap();
        // One who waits does not wait for the 999 others.
        tokio::time::sleep(MINUTE).await;
        let caller = Caller { uid: 1_999, gid: 1_000, is_admin: false };
        let asked = world.now();
        sessions.credentials(&caller, None).await.unwrap();
        assert!(world.now() - asked < Duration::from_secs(10), "waited {:?}", world.now() - asked);
        // 2,000 calls at 2 per second.
        tokio::time::sleep(Duration::from_secs(1_100)).await;
        let calls = world.state().calls[before..].to_vec();
        let good = calls.iter().filter(|call| call.name == "credentials" && call.answer == Answer::Good).count();
        assert_eq!(good, 1_000);
        let (mut level, mut last) = (10.0_f64, ended);
        for call in &calls {
            level = (level + 2.0 * (call.began - last).as_secs_f64()).min(10.0) - 1.0;
            last = call.began;
            assert!(level > -0.01, "more than 2 calls/s after a burst of 10: {call:?}");
        }
        assert!(world.state().violations.is_empty(), "{:?}", world.state().violations);
        sessions.shutdown().await;
    });
}
