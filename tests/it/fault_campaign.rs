//! Every S3 call that an upload makes goes wrong in every way, for whoever may only put and for whoever may also look,
//! under both key policies: always the right final state, one visible object with the right bytes, and nothing left behind
//! that the design does not allow.
//!
//! `TIDEGATE_FAULT_SEEDS` says how often the whole table is played, `TIDEGATE_FAULT_FIRST_SEED` from which seed on,
//! `TIDEGATE_FAULT_SHARE` how much of its multipart half (in percent), `TIDEGATE_FAULTS_S3_URL` on which other S3.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crc_fast::{CrcAlgorithm, checksum};
use rand::rngs::StdRng;
use rand::seq::SliceRandom as _;
use rand::{RngExt as _, SeedableRng as _};
use tidegate::local_cloud::faults::{Effect, Rule as CloudRule};
use tidegate::upload::{Ulid, UploadState, UploadView};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::fault_proxy::{Answer, Fault, Rule};
use crate::fault_stage::{Daemon, PATIENCE, Role, Stage, spec, times};
use crate::rehearsal::bytes;

/// Large ones need a core each for their checksums, so that more at once only stall one another.
const AT_ONCE: usize = 8;
/// A case that takes longer is told about.
const SLOW: Duration = Duration::from_secs(30);
/// A case whose fault never struck: it is not counted.
const UNNEEDED: &str = "not needed";
const SMALL_MAX: usize = 200_000;
/// Two parts.
const LARGE_MIN: usize = (5 << 20) + 1;
const LARGE_MAX: usize = (5 << 20) + 200_000;

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    ReplyLost,
    ReplyTruncated,
    ReplyStalled,
    Reset,
    Stall,
    HalfOpen,
    Late,
    Internal,
    InternalDone,
    SlowDown,
    Throttled,
    ExpiredToken,
    SkewedClock,
    Conflict,
    ErrorInside,
    ErrorInsideDone,
}

impl Kind {
    const EVERYWHERE: [Self; 13] = [
        Self::ReplyLost,
        Self::ReplyTruncated,
        Self::ReplyStalled,
        Self::Reset,
        Self::Stall,
        Self::HalfOpen,
        Self::Late,
        Self::Internal,
        Self::InternalDone,
        Self::SlowDown,
        Self::Throttled,
        Self::ExpiredToken,
        Self::SkewedClock,
    ];
    const OF_COMPLETE: [Self; 3] = [Self::Conflict, Self::ErrorInside, Self::ErrorInsideDone];

    fn name(self) -> &'static str {
        match self {
            Self::ReplyLost => "reply lost",
            Self::ReplyTruncated => "reply truncated",
            Self::ReplyStalled => "reply stalled",
            Self::Reset => "reset",
            Self::Stall => "stall",
            Self::HalfOpen => "half-open",
            Self::Late => "arrives late",
            Self::Internal => "500",
            Self::InternalDone => "500, but done",
            Self::SlowDown => "503 SlowDown",
            Self::Throttled => "throttled",
            Self::ExpiredToken => "expired token",
            Self::SkewedClock => "skewed clock",
            Self::Conflict => "409",
            Self::ErrorInside => "200, error inside",
            Self::ErrorInsideDone => "200, error inside, but done",
        }
    }

    fn fault(self, random: &mut StdRng) -> Fault {
        let answer = |status, code, done| Fault::Answer { answer: Answer::new(status, code), done };
        let share = random.random_range(0.0..1.0);
        match self {
            Self::ReplyLost => Fault::LoseReply,
            Self::ReplyTruncated => Fault::TruncateReply(share),
            Self::ReplyStalled => Fault::StallReply(share),
            Self::Reset => Fault::ResetRequest(share),
            Self::Stall => Fault::StallRequest(share),
            Self::HalfOpen => Fault::HalfOpen,
            Self::Late => Fault::Late,
            Self::Internal => answer(500, "InternalError", false),
            Self::InternalDone => answer(500, "InternalError", true),
            Self::SlowDown => answer(503, "SlowDown", false),
            Self::Throttled => answer(429, "TooManyRequests", false),
            Self::ExpiredToken => answer(400, "ExpiredToken", false),
            Self::SkewedClock => {
                let skew_s = if random.random_bool(0.5) { 7_200 } else { -7_200 };
                Fault::Answer { answer: Answer { status: 403, code: "RequestTimeTooSkewed", skew_s }, done: false }
            }
            Self::Conflict => answer(409, "ConditionalRequestConflict", false),
            Self::ErrorInside => answer(200, "InternalError", false),
            Self::ErrorInsideDone => answer(200, "InternalError", true),
        }
    }

    /// The same by the local cloud's own faults, where it has them.
    fn of_cloud(self) -> Option<Effect> {
        let error = |status, code: &str| Effect::Error { status, code: code.into(), message: None };
        match self {
            Self::ReplyLost => Some(Effect::DropAfter),
            Self::Reset => Some(Effect::DropBefore),
            Self::Internal => Some(error(500, "InternalError")),
            Self::SlowDown => Some(error(503, "SlowDown")),
            Self::ExpiredToken => Some(Effect::ExpiredCredentials),
            _ => None,
        }
    }

    /// As far as the client can know, the call may have worked although nobody said so.
    fn may_be_done(self) -> bool {
        !matches!(self, Self::Throttled | Self::ExpiredToken | Self::SkewedClock | Self::Conflict)
    }
}

const PUT: &str = "s3:PutObject";
const CREATE: &str = "s3:CreateMultipartUpload";
const PART: &str = "s3:UploadPart";
const COMPLETE: &str = "s3:CompleteMultipartUpload";
const ABORT: &str = "s3:AbortMultipartUpload";
const LIST: &str = "s3:ListParts";
const HEAD: &str = "s3:HeadObject";
const OPERATIONS: [&str; 7] = [PUT, CREATE, PART, COMPLETE, ABORT, LIST, HEAD];

/// One upload, and what is done to it.
#[derive(Debug, Clone)]
struct Case {
    number: usize,
    operation: &'static str,
    kind: Kind,
    role: Role,
    exact: bool,
    large: bool,
    /// Somebody else's object is at the key.
    foreign: bool,
}

/// What an upload must still be after a restart.
struct Played {
    case: Case,
    id: Ulid,
    content: Vec<u8>,
    from_file: Option<std::path::PathBuf>,
    state: UploadState,
}

/// The whole table once; the part with multipart uploads is thinned to `share_percent`.
fn table(random: &mut StdRng, share_percent: u64) -> Vec<Case> {
    let mut cases = Vec::new();
    for (operation, large) in
        [(PUT, false), (HEAD, false), (CREATE, true), (PART, true), (COMPLETE, true), (HEAD, true), (ABORT, true)]
    {
        let more: &[Kind] = match operation {
            COMPLETE => &Kind::OF_COMPLETE,
            PUT => &[Kind::Conflict],
            _ => &[],
        };
        for kind in Kind::EVERYWHERE.iter().chain(more) {
            for role in Role::BOTH {
                for (exact, foreign) in [(false, false), (true, false), (true, true)] {
                    // Nothing is there to settle, and nothing to abort, where the key was taken before.
                    if foreign && ![PUT, COMPLETE].contains(&operation) {
                        continue;
                    }
                    if large && random.random_range(0..100) >= share_percent {
                        continue;
                    }
                    let number = cases.len();
                    cases.push(Case { number, operation, kind: *kind, role, exact, large, foreign });
                }
            }
        }
    }
    cases
}

#[tokio::test(flavor = "multi_thread")]
async fn every_call_may_go_wrong_in_every_way() {
    let (seeds, share) = (times("TIDEGATE_FAULT_SEEDS", 1), times("TIDEGATE_FAULT_SHARE", 12));
    let first = times("TIDEGATE_FAULT_FIRST_SEED", 0);
    let stage = Arc::new(Stage::new().await);
    let base: Arc<Vec<u8>> = Arc::new(bytes(LARGE_MAX + 100_000));
    let mut report = Report::default();
    for seed in first..first + seeds {
        let mut random = StdRng::seed_from_u64(seed);
        let mut cases = table(&mut random, share);
        cases.shuffle(&mut random);
        // A clock that jumps is everybody's: by itself.
        let (skewed, others): (Vec<_>, Vec<_>) = cases.into_iter().partition(|case| case.kind == Kind::SkewedClock);
        let daemon = Arc::new(stage.start().await);
        // What failed in the seeds before.
        let kept = stage.spool_files();
        let mut played = Vec::new();
        for (wave, at_once) in [(others, AT_ONCE), (skewed, 1)] {
            played.extend(play_all(&stage, &daemon, wave, at_once, seed, &base, &mut report).await);
            stage.proxy.clear();
            stage.rehearsal.cloud.faults().clear();
        }
        report.leftovers(&stage, &daemon, &played, kept, seed).await;
        let daemon = Arc::into_inner(daemon).expect("nobody else has it");
        let daemon = play_restart(&stage, daemon, &mut random, seed, &base, &mut report).await;
        report.repeated(&stage, &daemon, &played).await;
        daemon.crash().await;
        stage.empty().await;
        let (cases, right) = report.sum();
        println!("up to seed {seed}: {cases} cases, {right} right");
    }
    report.print();
}

async fn play_all(
    stage: &Arc<Stage>,
    daemon: &Arc<Daemon>,
    cases: Vec<Case>,
    at_once: usize,
    seed: u64,
    base: &Arc<Vec<u8>>,
    report: &mut Report,
) -> Vec<Played> {
    let room = Arc::new(Semaphore::new(at_once));
    let mut playing = JoinSet::new();
    for case in cases {
        let (stage, daemon, base, room) = (Arc::clone(stage), Arc::clone(daemon), Arc::clone(base), Arc::clone(&room));
        playing.spawn(async move {
            let _room = room.acquire_owned().await;
            let begun = std::time::Instant::now();
            let played = play(&stage, &daemon, &case, seed, &base).await;
            if begun.elapsed() > SLOW {
                println!("{case:?} took {:?}", begun.elapsed());
            }
            (case, played)
        });
    }
    let mut all = Vec::new();
    while let Some(played) = playing.join_next().await {
        let (case, played) = played.unwrap();
        match played {
            Ok((played, end)) => {
                report.right(&case, end);
                all.push(played);
            }
            Err(why) => report.wrong(&case, &why),
        }
    }
    all
}

/// Kills the daemon in the middle of uploads; the next one asks the store what it has, and that goes wrong too.
async fn play_restart(
    stage: &Stage,
    daemon: Daemon,
    random: &mut StdRng,
    seed: u64,
    base: &[u8],
    report: &mut Report,
) -> Daemon {
    let mut kinds = Kind::EVERYWHERE.to_vec();
    kinds.shuffle(random);
    let held = Arc::new(Semaphore::new(0));
    let mut under_way = Vec::new();
    // As many as may be under way at once.
    for (at, kind) in kinds.into_iter().take(AT_ONCE / 2).enumerate() {
        let (role, exact) = (Role::BOTH[at % 2], random.random_bool(0.5));
        let case = Case { number: 10_000 + at, operation: LIST, kind, role, exact, large: true, foreign: false };
        let tag = tag(&case, seed);
        // Also when it is sent again.
        let rule = |fault| Rule { operation: PART, key_part: format!("/{tag}/"), skip: 1, times: 1_000, fault };
        stage.proxy.add(rule(Fault::Gate(Arc::clone(&held))));
        let start = random.random_range(0..100_000);
        let content = base[start..start + LARGE_MIN].to_vec();
        let id = Ulid::generate();
        daemon.stream(role, id, spec(&format!("free/{tag}/photo.jpg"), exact), &content).await.unwrap();
        under_way.push((case, tag, id, content));
    }
    for (case, tag, ..) in &under_way {
        if let Err(why) = Struck::Proxy(format!("/{tag}/")).wait(stage, PATIENCE).await {
            report.wrong(case, &format!("its second part never came: {why}"));
        }
    }
    daemon.crash().await;
    stage.proxy.clear();
    for (case, tag, ..) in &under_way {
        // Counted by itself.
        let (key_part, fault) = (format!("{tag}/"), case.kind.fault(random));
        stage.proxy.add(Rule { operation: LIST, key_part, skip: 0, times: 1, fault });
    }
    let daemon = stage.start().await;
    for (case, tag, id, content) in &under_way {
        let view = daemon.end(case.role, *id).await;
        if let Err(why) = Struck::Proxy(format!("{tag}/")).wait(stage, PATIENCE).await {
            report.wrong(case, &why);
            continue;
        }
        let folder = format!("users/{}/free/{tag}/", daemon.identity_id(case.role).await);
        match judge(stage, case, &view, &folder, tag, content).await {
            Ok(end) => report.right(case, end),
            Err(why) => report.wrong(case, &why),
        }
    }
    held.close();
    daemon
}

fn tag(case: &Case, seed: u64) -> String {
    format!("case-{seed}-{}", case.number)
}

/// Plays one case; tells how it ended, or what was wrong.
async fn play(
    stage: &Stage,
    daemon: &Daemon,
    case: &Case,
    seed: u64,
    base: &[u8],
) -> Result<(Played, &'static str), String> {
    let mut random = StdRng::seed_from_u64(seed << 32 | case.number as u64);
    let tag = tag(case, seed);
    let len = if case.large { random.random_range(LARGE_MIN..LARGE_MAX) } else { random.random_range(0..SMALL_MAX) };
    let start = random.random_range(0..base.len() - len);
    let content = base[start..start + len].to_vec();
    let folder = format!("users/{}/free/{tag}/", daemon.identity_id(case.role).await);
    if case.foreign {
        stage.put(&format!("{folder}photo.jpg"), b"somebody else's").await;
    }
    let struck = arm(stage, case, &tag, &mut random);
    let (id, spec) = (Ulid::generate(), spec(&format!("free/{tag}/photo.jpg"), case.exact));
    let from_file = random.random_bool(0.3).then(|| stage.file(case.role, &format!("{tag}.jpg"), &content));
    match &from_file {
        Some(path) => {
            let created = daemon.uploads.create_from_file(&case.role.caller(), Some(id), spec.clone(), path).await;
            created.map_err(|why| format!("not accepted: {why}"))?;
        }
        None => {
            let streamed = daemon.stream(case.role, id, spec.clone(), &content).await;
            streamed.map_err(|why| format!("not accepted: {why}"))?;
        }
    }
    let view = daemon.end(case.role, id).await;
    // Aborts come after the upload's end, everything else before it. Where a loaded machine or a jumping clock had the write
    // sent once more, the lost reply may have been one that nobody waited for: then there is nothing to look at.
    let patience = if case.operation == HEAD { Duration::ZERO } else { PATIENCE };
    let has_struck = struck.wait(stage, patience).await;
    let mut end = judge(stage, case, &view, &folder, &tag, &content).await?;
    match has_struck {
        Err(_) if case.operation == HEAD => end = UNNEEDED,
        has_struck => has_struck?,
    }
    Ok((Played { case: case.clone(), id, content, from_file, state: view.state }, end))
}

/// How to find out that a fault has struck.
enum Struck {
    Proxy(String),
    Cloud(String),
}

impl Struck {
    /// A fault that never struck proves nothing. Aborts come after the upload's end.
    async fn wait(&self, stage: &Stage, patience: Duration) -> Result<(), String> {
        let has_struck = || match self {
            Self::Proxy(part) => stage.proxy.struck(part) > 0,
            Self::Cloud(part) => {
                let plan = stage.rehearsal.cloud.faults().plan();
                !plan.rules.iter().any(|rule| rule.key_contains.as_deref() == Some(part))
            }
        };
        let end = std::time::Instant::now() + patience;
        while !has_struck() {
            if std::time::Instant::now() > end {
                return Err("the fault never struck".into());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }
}

fn arm(stage: &Stage, case: &Case, tag: &str, random: &mut StdRng) -> Struck {
    let rule = |operation, skip, fault| Rule { operation, key_part: format!("/{tag}/"), skip, times: 1, fault };
    // What leads to the call that goes wrong: its own rule is found by another name for the same key.
    let before = match (case.operation, case.large) {
        (HEAD, false) => Some((PUT, Fault::LoseReply)),
        (HEAD, true) => Some((COMPLETE, Fault::LoseReply)),
        (ABORT, _) => Some((COMPLETE, Kind::Conflict.fault(random))),
        _ => None,
    };
    if let Some((operation, fault)) = before {
        stage.proxy.add(Rule { key_part: format!("{tag}/"), ..rule(operation, 0, fault) });
    }
    let skip = if case.operation == PART { random.random_range(0..2) } else { 0 };
    match case.kind.of_cloud().filter(|_| stage.is_local_cloud() && random.random_bool(0.5)) {
        Some(effect) => {
            let mut rule = CloudRule::new(case.operation, effect).next(1);
            rule.skip = skip;
            rule.key_contains = Some(format!("/{tag}/"));
            stage.rehearsal.cloud.faults().add(rule).unwrap();
            Struck::Cloud(format!("/{tag}/"))
        }
        None => {
            stage.proxy.add(rule(case.operation, skip, case.kind.fault(random)));
            Struck::Proxy(format!("/{tag}/"))
        }
    }
}

/// The only states that are right, and what must be in the bucket then.
async fn judge(
    stage: &Stage,
    case: &Case,
    view: &UploadView,
    folder: &str,
    tag: &str,
    content: &[u8],
) -> Result<&'static str, String> {
    let reason = view.failure.as_ref().map_or("", |failure| failure.reason);
    let keys = stage.keys_below(folder).await;
    let shown = || format!("{:?} {:?}, {} objects", view.state, view.failure, keys.len());
    if keys.len() > 1 {
        return Err(format!("more than one object: {keys:?}; {}", shown()));
    }
    let there = match keys.first() {
        Some(key) => Some(stage.content(key).await),
        None => None,
    };
    // Whoever may not look cannot tell its own object at an exact key from another one.
    let blind = case.exact && case.role == Role::PutOnly;
    // A look follows a lost reply. Besides the request that is struck, a loaded machine may make one look stalled: that one
    // was left before it was answered.
    let doubtful = case.operation == HEAD || case.kind.may_be_done() || stage.asked.unanswered(&format!("/{tag}/")) > 0;
    if case.foreign {
        let unknown = blind && doubtful && reason == "OUTCOME_UNKNOWN";
        if view.state != UploadState::Failed || !(reason == "OBJECT_EXISTS" || unknown) {
            return Err(format!("somebody else's object was there: {}", shown()));
        }
        return match there.as_deref() {
            Some(b"somebody else's") => Ok("left alone"),
            _ => Err("somebody else's object is gone or another one".into()),
        };
    }
    let ours = there.as_deref() == Some(content);
    match view.state {
        UploadState::Succeeded if !ours => Err(format!("SUCCEEDED with other bytes: {}", shown())),
        UploadState::Succeeded if keys.first() != Some(&view.key) => Err(format!("another key: {keys:?}")),
        UploadState::Succeeded => {
            let crc64nvme = Some(checksum(CrcAlgorithm::Crc64Nvme, content));
            if view.crc64nvme == crc64nvme { Ok("stored") } else { Err("another checksum is shown".into()) }
        }
        UploadState::Failed if blind && doubtful && reason == "OUTCOME_UNKNOWN" && ours => Ok("unknown"),
        _ => Err(shown()),
    }
}

#[derive(Default)]
struct Report {
    /// By what goes wrong and where: cases, right ones.
    cells: BTreeMap<(Kind, &'static str), (u32, u32)>,
    ends: BTreeMap<&'static str, u32>,
    wrong: Vec<String>,
}

impl Report {
    fn right(&mut self, case: &Case, end: &'static str) {
        *self.ends.entry(end).or_default() += 1;
        if end == UNNEEDED {
            return;
        }
        let cell = self.cells.entry((case.kind, case.operation)).or_default();
        *cell = (cell.0 + 1, cell.1 + 1);
    }

    fn wrong(&mut self, case: &Case, why: &str) {
        self.cells.entry((case.kind, case.operation)).or_default().0 += 1;
        self.wrong.push(format!("{case:?}: {why}"));
    }

    /// Spooled bytes of what failed, and multipart uploads that nobody may or can abort: nothing else is left.
    async fn leftovers(
        &mut self,
        stage: &Stage,
        daemon: &Daemon,
        played: &[Played],
        mut expected: Vec<String>,
        seed: u64,
    ) {
        let kept = |played: &&Played| played.state == UploadState::Failed && played.from_file.is_none();
        expected.extend(played.iter().filter(kept).map(|played| played.id.to_string()));
        let mut spooled = stage.spool_files();
        expected.sort();
        spooled.sort();
        if spooled != expected && self.wrong.is_empty() {
            self.wrong.push(format!("seed {seed}: the spool holds {spooled:?}, it should hold {expected:?}"));
        }
        let end = std::time::Instant::now() + PATIENCE;
        loop {
            let open = stage.open_multiparts().await;
            let unexpected: Vec<&Played> = played.iter().filter(|played| left_open(&open, played, seed)).collect();
            if unexpected.is_empty() {
                return;
            }
            if std::time::Instant::now() > end {
                let cases: Vec<_> = unexpected.iter().map(|played| &played.case).collect();
                return self.wrong.push(format!("seed {seed}: multipart uploads are left open by {cases:?}"));
            }
            // Aborts that failed are tried again when an upload ends.
            let (id, spec) = (Ulid::generate(), spec(&format!("free/nudge-{seed}.jpg"), false));
            daemon.stream(Role::Reader, id, spec, b"nudge").await.unwrap();
            daemon.end(Role::Reader, id).await;
        }
    }

    /// The same call again, after a restart, is the same upload, and sends nothing.
    async fn repeated(&mut self, stage: &Stage, daemon: &Daemon, played: &[Played]) {
        let sent = || [PUT, CREATE, PART, COMPLETE].map(|operation| stage.proxy.requests(operation));
        let before = sent();
        for Played { case, id, content, from_file, state } in played {
            let tag = stage_tag(&daemon.get(case.role, *id).await.key);
            let spec = spec(&format!("free/{tag}/photo.jpg"), case.exact);
            let again = match from_file {
                Some(path) => daemon.uploads.create_from_file(&case.role.caller(), Some(*id), spec, path).await,
                None => daemon.stream(case.role, *id, spec, content).await,
            };
            match again {
                Ok(view) if view.id == *id && view.state == *state => {}
                other => self.wrong.push(format!("{case:?}: the same call again: {other:?}")),
            }
        }
        if sent() != before {
            self.wrong.push(format!("repeated calls were sent again: {before:?} {:?}", sent()));
        }
    }

    /// Cases, and right ones.
    fn sum(&self) -> (u32, u32) {
        self.cells.values().fold((0, 0), |sum, cell| (sum.0 + cell.0, sum.1 + cell.1))
    }

    fn print(self) {
        let width = Kind::ErrorInsideDone.name().len();
        print!("{:width$}", "");
        for operation in OPERATIONS {
            print!("  {:>23}", operation.trim_start_matches("s3:"));
        }
        println!();
        let kinds: std::collections::BTreeSet<Kind> = self.cells.keys().map(|(kind, _)| *kind).collect();
        for kind in kinds {
            print!("{:width$}", kind.name());
            for operation in OPERATIONS {
                match self.cells.get(&(kind, operation)) {
                    Some((cases, right)) => print!("  {:>23}", format!("{right}/{cases}")),
                    None => print!("  {:>23}", "-"),
                }
            }
            println!();
        }
        let (cases, right) = self.sum();
        println!("ends: {:?}", self.ends);
        println!("{cases} cases, {right} right");
        assert!(self.wrong.is_empty(), "{} wrong:\n{}", self.wrong.len(), self.wrong.join("\n"));
        let unneeded = self.ends.get(UNNEEDED).copied().unwrap_or(0);
        assert!(cases > 0 && unneeded * 10 <= cases, "{unneeded} faults never struck, {cases} did");
    }
}

fn left_open(open: &[String], played: &Played, seed: u64) -> bool {
    // Of a creation whose answer was lost nobody knows the id, and whoever may only put may not abort: the bucket's
    // lifecycle rule removes these.
    let allowed =
        played.case.role == Role::PutOnly || (played.case.operation == CREATE && played.case.kind.may_be_done());
    let folder = format!("/{}/", tag(&played.case, seed));
    !allowed && open.iter().any(|key| key.contains(&folder))
}

/// The folder's name in `users/ID/free/FOLDER/photo-….jpg`.
fn stage_tag(key: &str) -> String {
    key.split('/').nth(3).unwrap_or_default().to_owned()
}
