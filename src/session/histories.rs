//! Scripted histories of whole devices: real sessions, files and tasks over a [`world`] that knows the true time. Time is
//! the runtime's own, paused: it jumps from one event to the next. A process is a runtime, and dropping one is `kill -9`.
//! `TIDEGATE_HISTORIES` sets how many are played; `tests/full` plays 10,000.
#![allow(clippy::unwrap_used)]

mod offline;
mod world;

use std::cell::Cell;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use secrecy::ExposeSecret as _;
use tokio_util::sync::CancellationToken;

use self::world::{Answer, Call, Weather, World};
use super::schedule::Jitter;
use super::*;
use crate::caller::Caller;

/// No caller is told to wait longer, and a second for the answer.
const PATIENCE: Duration = Duration::from_secs(61);
const TEN_YEARS_MS: i64 = 10 * 365 * 86_400_000;
const MINUTE: Duration = Duration::from_secs(60);

thread_local! {
    static SEED: Cell<Option<u64>> = const { Cell::new(None) };
}

/// Where the next session's jitter starts, in a history.
pub fn seed() -> Option<u64> {
    let seed = SEED.get()?;
    SEED.set(Some(seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1)));
    Some(seed)
}

/// Something after which a back-off starts over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mark {
    /// A refresh by hand, or after a denial.
    Forced,
    SignedIn,
    Restart,
    Link,
}

/// One user on the device, and what the judge knows.
struct Guest {
    name: String,
    caller: Caller,
    id: Option<SessionId>,
    /// Until when credentials that were served once must be served.
    served_until: Duration,
}

impl Guest {
    fn identity_id(&self) -> String {
        format!("us-east-1:{}", self.name)
    }
}

/// How a process ends.
enum End {
    Killed { down: Duration },
    Stopped { down: Duration },
    Over,
}

struct History {
    dice: Jitter,
    world: Arc<World>,
    guests: Vec<Guest>,
    marks: Vec<(Duration, Option<String>, Mark)>,
    events_left: u64,
    lives: u64,
    asked: u64,
}

impl History {
    fn new(seed: u64) -> Self {
        SEED.set(Some(seed));
        let mut dice = Jitter::new(seed);
        let wall_ms = if dice.unit() < 0.3 { wrong_clock(&mut dice) } else { 0 };
        let world = World::new(seed ^ 0x5EED, wall_ms);
        {
            let mut state = world.state();
            state.rotation_grace = (dice.unit() < 0.5).then_some(MINUTE);
            let lifetimes = [3_600, 3_600, 900, 300, 43_200];
            state.token_lifetime = Duration::from_secs(lifetimes[below(&mut dice, 5)]);
            state.credential_lifetime = Duration::from_secs(lifetimes[below(&mut dice, 3)]);
        }
        let guests = (0..=below(&mut dice, 3)).map(|number| {
            let uid = 1_000 + u32::try_from(number).unwrap();
            let caller = Caller { uid, gid: uid, is_admin: false };
            Guest { name: format!("user{number}"), caller, id: None, served_until: Duration::ZERO }
        });
        let guests = guests.collect();
        let events_left = 12 + below(&mut dice, 20) as u64;
        Self { dice, world, guests, marks: Vec::new(), events_left, lives: 0, asked: 0 }
    }

    fn mark(&mut self, guest: Option<usize>, mark: Mark) {
        let subject = guest.map(|guest| self.guests[guest].name.clone());
        self.marks.push((self.world.now(), subject, mark));
    }

    /// One process, from its start to its end.
    async fn live(&mut self, dir: &Path) -> End {
        self.lives += 1;
        self.mark(None, Mark::Restart);
        let config = Config { seal_key_file: dir.join("key"), ..Config::default() };
        let stop = CancellationToken::new();
        let identities = vec![self.world.identity()];
        let sessions = Sessions::start(config, identities, &dir.join("state"), self.world.clock(), stop).await.unwrap();
        if self.lives == 1 {
            for guest in 0..self.guests.len() {
                self.sign_in(&sessions, guest).await;
            }
        }
        while self.events_left > 0 {
            self.events_left -= 1;
            let pause = Duration::from_secs(1_800).mul_f64(self.dice.unit().powi(2));
            tokio::time::sleep(pause).await;
            if let Some(end) = self.event(&sessions).await {
                if matches!(end, End::Stopped { .. }) {
                    sessions.shutdown().await;
                }
                return end;
            }
            self.ask_everybody(&sessions).await;
        }
        self.recover(&sessions).await;
        sessions.shutdown().await;
        End::Over
    }

    async fn sign_in(&mut self, sessions: &Sessions, guest: usize) {
        self.mark(Some(guest), Mark::SignedIn);
        let (caller, name) = (self.guests[guest].caller, self.guests[guest].name.clone());
        let method = SignInMethod::Password { username: name, password: "right".into() };
        if let Ok(progress) = sessions.sign_in(&caller, None, method).await {
            self.guests[guest].id = Some(progress.session().unwrap().id);
        }
        self.mark(Some(guest), Mark::SignedIn);
    }

    async fn event(&mut self, sessions: &Sessions) -> Option<End> {
        let guest = below(&mut self.dice, self.guests.len());
        match below(&mut self.dice, 100) {
            0..35 => {
                let all = [
                    Weather::Unreachable,
                    Weather::Silent,
                    Weather::LosesReplies,
                    Weather::Throttled,
                    Weather::Broken,
                    Weather::Refusing,
                    Weather::Misconfigured,
                    Weather::LoginRefused,
                    Weather::Conflicting,
                    Weather::Ended,
                    Weather::Mixed,
                ];
                let weather =
                    if self.dice.unit() < 0.4 { Weather::Fine } else { all[below(&mut self.dice, all.len())] };
                self.world.set_weather(weather);
            }
            35..48 => self.world.clock().step_wall(wrong_clock(&mut self.dice)),
            48..58 => {
                self.mark(Some(guest), Mark::Forced);
                let guest = &self.guests[guest];
                if let Some(id) = &guest.id {
                    self.in_time(sessions.refresh(&guest.caller, Some(id))).await;
                }
            }
            58..62 => {
                self.mark(Some(guest), Mark::Forced);
                let guest = &self.guests[guest];
                let (uid, identity_id) = (guest.caller.uid, guest.identity_id());
                if let Ok(served) = sessions.credentials_for_upload(uid, "app", &identity_id).await {
                    let key = served.credentials.access_key_id.clone();
                    self.in_time(sessions.refresh_after_denied(uid, "app", &identity_id, &key)).await;
                }
            }
            62..67 => {
                self.world.set_weather(Weather::Fine);
                self.mark(None, Mark::Link);
                sessions.link_returned();
            }
            67..70 => {
                let name = self.guests[guest].name.clone();
                let groups = vec![format!("tier-{}", below(&mut self.dice, 3))];
                self.world.state().users.get_mut(&name).unwrap().groups = groups;
            }
            70..71 => {
                let name = self.guests[guest].name.clone();
                self.world.state().users.get_mut(&name).unwrap().deleted = true;
            }
            71..81 => self.sign_in(sessions, guest).await,
            81..84 => self.sign_out(sessions, guest).await,
            84..90 => return Some(End::Killed { down: self.down() }),
            90..97 => {
                // In the middle of a refresh.
                self.mark(Some(guest), Mark::Forced);
                let guest = &self.guests[guest];
                let caller = guest.caller;
                if let Some(id) = guest.id.clone() {
                    let sessions = sessions.clone();
                    tokio::spawn(async move { sessions.refresh(&caller, Some(&id)).await });
                }
                tokio::time::sleep(Duration::from_secs(12).mul_f64(self.dice.unit().powi(3))).await;
                return Some(End::Killed { down: self.down() });
            }
            _ => return Some(End::Stopped { down: self.down() }),
        }
        None
    }

    fn down(&mut self) -> Duration {
        Duration::from_secs(1) + Duration::from_secs(7_200).mul_f64(self.dice.unit().powi(4))
    }

    async fn sign_out(&mut self, sessions: &Sessions, guest: usize) {
        let (caller, Some(id)) = (self.guests[guest].caller, self.guests[guest].id.clone()) else { return };
        let _ = sessions.sign_out(&caller, Some(&id), SignOutUploads::Park, false).await;
        let identity_id = self.guests[guest].identity_id();
        let vended = sessions.credentials(&caller, Some(&id)).await.is_ok();
        let tokens = sessions.tokens(&caller, Some(&id)).await.is_ok();
        let uploads = sessions.credentials_for_upload(caller.uid, "app", &identity_id).await.is_ok();
        if vended || tokens || uploads {
            self.world.violation(&format!("{caller:?} was served after the sign-out: {vended} {tokens} {uploads}"));
        }
        (self.guests[guest].id, self.guests[guest].served_until) = (None, Duration::ZERO);
        self.sign_in(sessions, guest).await;
    }

    /// A call that must end, and how it ended.
    async fn in_time<T>(&self, call: impl Future<Output = Result<T, SessionError>>) -> Option<Result<T, SessionError>> {
        let answered = tokio::time::timeout(PATIENCE, call).await;
        if answered.is_err() {
            self.world.violation("a caller waited without end");
        }
        answered.ok()
    }

    /// Everybody asks for everything, and gets what is theirs.
    async fn ask_everybody(&mut self, sessions: &Sessions) {
        for at in 0..self.guests.len() {
            let guest = &self.guests[at];
            let Some(id) = guest.id.clone() else { continue };
            let (world, identity_id) = (Arc::clone(&self.world), guest.identity_id());
            let (first, second, uploads, (tokens, tokens_at)) = tokio::join!(
                async { (self.in_time(sessions.credentials(&guest.caller, Some(&id))).await, world.now()) },
                async { (self.in_time(sessions.credentials(&guest.caller, Some(&id))).await, world.now()) },
                async {
                    let uploads = sessions.credentials_for_upload(guest.caller.uid, "app", &identity_id);
                    (self.in_time(uploads).await, world.now())
                },
                async { (self.in_time(sessions.tokens(&guest.caller, Some(&id))).await, world.now()) },
            );
            let view = sessions.get(&guest.caller, Some(&id));
            self.asked += 4;
            let guest = &mut self.guests[at];
            for (served, at) in [first, second, uploads] {
                judge_credentials(&world, guest, served, at);
            }
            if let Some(Ok(tokens)) = tokens {
                let issued = world.state().issued[tokens.id_token.expose_secret()].clone();
                if issued.subject != guest.name || tokens_at >= issued.end {
                    world.violation(&format!("{} got the ID token {issued:?} at {tokens_at:?}", guest.name));
                }
            }
            match view.map(|view| view.state) {
                Ok(SessionState::NeedsSignIn) if !excuse(&world, &guest.name) => {
                    world.violation(&format!("{} was signed out for nothing", guest.name));
                }
                // From here on it needs a new reason.
                Ok(SessionState::Active) => {
                    world.state().users.entry(guest.name.clone()).or_default().refused = false;
                }
                _ => {}
            }
        }
    }

    /// In fine weather everybody who was not signed out by the pool has credentials again.
    async fn recover(&mut self, sessions: &Sessions) {
        self.world.set_weather(Weather::Fine);
        self.mark(None, Mark::Link);
        sessions.link_returned();
        // The longest wait without a refusal: a configuration that is tried again.
        tokio::time::sleep(Duration::from_secs(331)).await;
        self.ask_everybody(sessions).await;
        for at in 0..self.guests.len() {
            let guest = &self.guests[at];
            let Some(id) = guest.id.clone() else { continue };
            let (caller, name) = (guest.caller, guest.name.clone());
            let (ended, refused) = {
                let state = self.world.state();
                let user = &state.users[&name];
                (user.ended || user.crossed || user.deleted, user.refused)
            };
            if ended {
                continue;
            }
            if refused {
                self.mark(Some(at), Mark::Forced);
                if let Some(Err(error)) = self.in_time(sessions.refresh(&caller, Some(&id))).await
                    && !excuse(&self.world, &name)
                {
                    self.world.violation(&format!("{name}'s token was kept, and does not work: {error}"));
                }
            } else if let Some(Err(error)) = self.in_time(sessions.credentials(&caller, Some(&id))).await
                && !excuse(&self.world, &name)
            {
                self.world.violation(&format!("{name} did not recover: {error}"));
            }
        }
    }

    /// The calls against the limits: the process's, and each session's back-off.
    fn judge_calls(&self) {
        let calls = self.world.state().calls.clone();
        let restarts = || self.marks.iter().filter(|(_, _, mark)| *mark == Mark::Restart).map(|(at, ..)| *at);
        let (mut level, mut last) = (10.0_f64, Duration::ZERO);
        for call in &calls {
            if restarts().any(|at| at > last && at <= call.began) {
                level = 10.0;
            } else {
                level = (level + 2.0 * (call.began.saturating_sub(last)).as_secs_f64()).min(10.0);
            }
            level -= 1.0;
            last = call.began;
            if level < -0.01 {
                self.world.violation(&format!("more than 2 calls/s after a burst of 10: {call:?}"));
            }
        }
        for guest in &self.guests {
            let own: Vec<&Call> = calls.iter().filter(|call| call.subject == guest.name).collect();
            let mut streak: Option<(Duration, u32)> = None;
            for pair in own.windows(2) {
                let [before, call] = pair else { continue };
                let gap = call.began.saturating_sub(before.ended);
                let since = |marks: &[Mark]| {
                    self.marks.iter().any(|(at, subject, mark)| {
                        let about = subject.as_ref().is_none_or(|subject| *subject == guest.name);
                        about && marks.contains(mark) && *at >= before.began && *at <= call.began
                    })
                };
                let anew = since(&[Mark::SignedIn, Mark::Restart]);
                let by_hand = anew || since(&[Mark::Forced]);
                let least = match before.answer {
                    Answer::Throttled if !anew => Duration::from_secs(120),
                    Answer::Configuration if !by_hand => Duration::from_secs(300),
                    Answer::Refused if !by_hand => Duration::from_secs(3_600),
                    Answer::Transient if !by_hand && !since(&[Mark::Link]) => Duration::from_millis(99),
                    _ => Duration::ZERO,
                };
                if gap < least {
                    self.world.violation(&format!("{gap:?} after {before:?}: {call:?}"));
                }
                streak = match streak {
                    _ if before.answer != Answer::Transient || by_hand || since(&[Mark::Link]) => None,
                    None => Some((before.began, 2)),
                    Some((began, count)) => Some((began, count + 1)),
                };
                // Twice what full jitter makes of 30 s, or of 10 s and a call's own 10 s.
                if let Some((began, count)) = streak
                    && f64::from(count) > 60.0 + call.began.saturating_sub(began).as_secs_f64() / 7.5
                {
                    self.world.violation(&format!("{count} calls since {began:?} without a back-off: {call:?}"));
                }
            }
        }
    }
}

fn judge_credentials(
    world: &World,
    guest: &mut Guest,
    served: Option<Result<ServedCredentials, SessionError>>,
    at: Duration,
) {
    match served {
        Some(Ok(served)) => {
            let key = &served.credentials.access_key_id;
            let issued = world.state().issued.get(key).cloned().expect("was issued");
            if issued.subject != guest.name || served.identity_id != guest.identity_id() {
                world.violation(&format!("{} got the credentials {issued:?}", guest.name));
            }
            if at >= issued.end {
                world.violation(&format!("{} got credentials at {at:?} that ended: {issued:?}", guest.name));
            }
            let margin = MINUTE.min(issued.lifetime / 4);
            guest.served_until = guest.served_until.max(issued.end_from_sent.saturating_sub(margin));
        }
        Some(Err(error)) => {
            let excused = {
                let state = world.state();
                state.users.get(&guest.name).is_some_and(|user| user.ended || user.crossed)
            };
            if at + Duration::from_millis(5) < guest.served_until && !excused {
                let until = guest.served_until;
                world.violation(&format!("{} lost what was valid until {until:?}: {error}", guest.name));
            }
        }
        None => {}
    }
}

/// The pool gave a reason to ask this user for a sign-in.
fn excuse(world: &World, name: &str) -> bool {
    let state = world.state();
    state.users.get(name).is_some_and(|user| user.refused || user.ended || user.crossed || user.deleted)
}

fn below(dice: &mut Jitter, n: usize) -> usize {
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss)]
    let picked = (dice.unit() * n as f64) as usize;
    picked
}

/// Up to ten years wrong, either way.
fn wrong_clock(dice: &mut Jitter) -> i64 {
    #[allow(clippy::cast_possible_truncation, clippy::cast_precision_loss)]
    let off_ms = ((dice.unit() * 2.0 - 1.0) * TEN_YEARS_MS as f64) as i64;
    off_ms
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap()
}

/// Files whose syncs cost nothing: what is proven here is not the disk.
fn folder() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

/// Plays one history: the calls, the questions and the processes in it, or the panic that says what it broke.
fn play(seed: u64) -> (u64, u64, u64) {
    let dir = folder();
    let mut process = runtime();
    let mut history = process.block_on(async { History::new(seed) });
    loop {
        let (end, ended) = process.block_on(async {
            let end = history.live(dir.path()).await;
            (end, history.world.now())
        });
        drop(process);
        process = runtime();
        let down = match end {
            End::Over => break,
            End::Killed { down } | End::Stopped { down } => down,
        };
        // What was in memory is gone.
        for guest in &mut history.guests {
            guest.served_until = Duration::ZERO;
        }
        let wall_ms = if history.dice.unit() < 0.3 { wrong_clock(&mut history.dice) } else { 0 };
        process.block_on(async { history.world.next_life(ended, down, wall_ms) });
    }
    process.block_on(async { history.judge_calls() });
    let state = history.world.state();
    if !state.violations.is_empty() {
        for (at, subject, mark) in &history.marks {
            println!("{at:?}: {mark:?} {subject:?}");
        }
        for call in &state.calls {
            println!("{:?} to {:?}: {} {}: {:?}", call.began, call.ended, call.name, call.subject, call.answer);
        }
        panic!("history {seed} (TIDEGATE_HISTORY={seed} plays it again): {:#?}", state.violations);
    }
    (state.calls.len() as u64, history.asked, history.lives)
}

#[test]
fn no_history_of_a_device_breaks_a_promise() {
    let count = std::env::var("TIDEGATE_HISTORIES").ok().and_then(|count| count.parse().ok()).unwrap_or(500);
    let from = std::env::var("TIDEGATE_HISTORY").ok().and_then(|seed| seed.parse().ok()).unwrap_or(0);
    let next = AtomicU64::new(from);
    let threads = std::thread::available_parallelism().map_or(2, |threads| threads.get().min(4));
    let totals: Vec<_> = std::thread::scope(|scope| {
        let players = (0..threads).map(|_| {
            scope.spawn(|| {
                let mut total = (0, 0, 0);
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= from + count {
                        return total;
                    }
                    let (calls, asked, lives) = play(seed);
                    total = (total.0 + calls, total.1 + asked, total.2 + lives);
                }
            })
        });
        let players: Vec<_> = players.collect();
        players.into_iter().map(|player| player.join().unwrap()).collect()
    });
    let (calls, asked, lives) = totals.iter().fold((0, 0, 0), |a, b| (a.0 + b.0, a.1 + b.1, a.2 + b.2));
    println!("{count} histories: {lives} processes, {asked} questions, {calls} upstream calls, no promise broken");
}
