//! Bits that flip, in the spool, on the wire, in answers and in the store, and files that change after they were handed
//! over: a wrong object is never shown as stored, and what is wrong here ends in its typed error with the bytes kept.
//!
//! `TIDEGATE_FLIPS` and `TIDEGATE_MUTATIONS` say how many.

use std::collections::BTreeMap;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use tidegate::upload::{Ulid, UploadState, UploadView};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::fault_proxy::{Fault, Rule};
use crate::fault_stage::{Daemon, Role, Stage, spec, times};
use crate::rehearsal::bytes;

const AT_ONCE: usize = 12;
const LARGE: usize = (5 << 20) + 70_000;
/// How many go in parts, of photos.
const FEW: f64 = 0.1;
const WRITES: [&str; 4] = ["s3:PutObject", "s3:CreateMultipartUpload", "s3:UploadPart", "s3:CompleteMultipartUpload"];

/// One upload among many: its own folder, its own bytes, its own dice.
struct Photo {
    /// Of the test that it is for: on an S3 of somebody else's they share a bucket.
    of: &'static str,
    number: u64,
    role: Role,
    exact: bool,
    content: Vec<u8>,
    random: StdRng,
}

impl Photo {
    /// `large` is the chance of one that goes in parts.
    fn new(of: &'static str, number: u64, base: &[u8], large: f64) -> Self {
        let mut random = StdRng::seed_from_u64(number);
        let len = if random.random_bool(large) { LARGE } else { random.random_range(1..100_000) };
        let start = random.random_range(0..base.len() - len);
        let role = Role::BOTH[usize::from(random.random_bool(0.5))];
        let exact = random.random_bool(0.3);
        Self { of, number, role, exact, content: base[start..start + len].to_vec(), random }
    }

    fn is_large(&self) -> bool {
        self.content.len() == LARGE
    }

    fn tag(&self) -> String {
        format!("{}-{}", self.of, self.number)
    }

    fn key_part(&self) -> String {
        format!("/{}/", self.tag())
    }

    fn spec(&self) -> tidegate::upload::UploadSpec {
        spec(&format!("free/{}/photo.jpg", self.tag()), self.exact)
    }

    async fn stream(&self, daemon: &Daemon) -> Ulid {
        let id = Ulid::generate();
        daemon.stream(self.role, id, self.spec(), &self.content).await.unwrap();
        id
    }

    /// What is visible of it: nothing, or its own bytes under one key.
    async fn visible(&self, stage: &Stage, daemon: &Daemon) -> Result<Option<String>, String> {
        let folder = format!("users/{}/free/{}/", daemon.identity_id(self.role).await, self.tag());
        let mut keys = stage.keys_below(&folder).await;
        if keys.len() > 1 {
            return Err(format!("more than one object: {keys:?}"));
        }
        let Some(key) = keys.pop() else { return Ok(None) };
        if stage.content(&key).await == self.content { Ok(Some(key)) } else { Err(format!("wrong bytes at {key}")) }
    }
}

fn reason(view: &UploadView) -> &'static str {
    view.failure.as_ref().map_or("", |failure| failure.reason)
}

/// Plays `count` photos, some at once; counts how they ended.
async fn play<F>(
    what: &'static str,
    numbers: std::ops::Range<u64>,
    large: f64,
    play: impl Fn(Photo) -> F,
) -> (u64, BTreeMap<String, u64>)
where
    F: Future<Output = Result<String, String>> + Send + 'static,
{
    let base = bytes(LARGE + 1_000_000);
    let room = Arc::new(Semaphore::new(AT_ONCE));
    let mut playing = JoinSet::new();
    for number in numbers.clone() {
        let played = play(Photo::new(what, number, &base, large));
        let room = Arc::clone(&room);
        playing.spawn(async move {
            let _room = room.acquire_owned().await;
            (number, played.await)
        });
    }
    let (mut ends, mut wrong) = (BTreeMap::new(), Vec::new());
    while let Some(played) = playing.join_next().await {
        match played.unwrap() {
            (_, Ok(end)) => *ends.entry(end).or_default() += 1,
            (number, Err(why)) => wrong.push(format!("{what} {number}: {why}")),
        }
    }
    assert!(wrong.is_empty(), "{} of {numbers:?} wrong:\n{}", wrong.len(), wrong.join("\n"));
    println!("{what}: {ends:?}");
    (numbers.end - numbers.start, ends)
}

#[tokio::test(flavor = "multi_thread")]
async fn flipped_bits_are_caught_wherever_they_flip() {
    let all = times("TIDEGATE_FLIPS", 60);
    let stage = Arc::new(Stage::new().await);
    let daemon = Arc::new(stage.start().await);
    let share = |percent: u64| all * percent / 100;
    let (spool, wire, answers) = (share(40), share(70), share(90));
    let with = |numbers| (numbers, Arc::clone(&stage), Arc::clone(&daemon));

    // At rest, between the acknowledgement and the sending.
    daemon.uploads.set_paused(true);
    let (numbers, on, by) = with(0..spool);
    let resting: Vec<(Photo, Ulid, std::fs::File, u64)> = rest(&on, &by, numbers).await;
    daemon.uploads.set_paused(false);
    let mut right = 0;
    for (photo, id, file, bit) in resting {
        let view = by.end(photo.role, id).await;
        assert_eq!((view.state, reason(&view)), (UploadState::Failed, "SPOOL_CORRUPT"), "{}", photo.number);
        assert_eq!(photo.visible(&on, &by).await, Ok(None), "{}", photo.number);
        // The bytes are kept: whoever has mended the disk sends them.
        flip(&file, bit);
        by.uploads.retry(&photo.role.caller(), id).await.unwrap();
        let view = by.end(photo.role, id).await;
        assert_eq!(view.state, UploadState::Succeeded, "{}: {:?}", photo.number, view.failure);
        assert_eq!(photo.visible(&on, &by).await, Ok(Some(view.key)), "{}", photo.number);
        right += 1;
    }
    println!("spool: {right} SPOOL_CORRUPT, stored once mended");

    let spoil = |flip_of: fn(f64) -> Fault| {
        let (_, on, by) = with(0..0);
        move |mut photo: Photo| {
            let (on, by) = (Arc::clone(&on), Arc::clone(&by));
            async move {
                let operation = if photo.is_large() { WRITES[photo.random.random_range(1..4)] } else { WRITES[0] };
                let fault = flip_of(photo.random.random_range(0.0..1.0));
                on.proxy.add(Rule { operation, key_part: photo.key_part(), skip: 0, times: 1, fault });
                let id = photo.stream(&by).await;
                let view = by.end(photo.role, id).await;
                if on.proxy.struck(&photo.key_part()) != 1 {
                    return Err("no bit flipped".into());
                }
                shown_as_it_is(&on, &by, &photo, &view).await
            }
        }
    };
    let (on_the_wire, _) = play("wire", spool..wire, FEW, spoil(Fault::FlipRequest)).await;
    let (in_answers, _) = play("answers", wire..answers, FEW, spoil(Fault::FlipReply)).await;
    let (_, on, by) = with(0..0);
    let spoil = move |photo| flip_in_the_store(Arc::clone(&on), Arc::clone(&by), photo);
    let (in_the_store, _) = play("store", answers..all, FEW, spoil).await;
    let sum = right + on_the_wire + in_answers + in_the_store;
    assert_eq!(sum, all);
    println!("{all} bit flips, {sum} caught");
}

/// Hands photos over while nothing is sent, and flips a bit of each in the spool.
async fn rest(stage: &Stage, daemon: &Daemon, numbers: std::ops::Range<u64>) -> Vec<(Photo, Ulid, std::fs::File, u64)> {
    let base = bytes(LARGE + 1_000_000);
    let mut resting = Vec::new();
    for number in numbers {
        let mut photo = Photo::new("spool", number, &base, FEW);
        let id = photo.stream(daemon).await;
        let file = std::fs::OpenOptions::new().read(true).write(true).open(stage.spooled(id)).unwrap();
        let bit = photo.random.random_range(0..photo.content.len() as u64 * 8);
        flip(&file, bit);
        resting.push((photo, id, file, bit));
    }
    resting
}

fn flip(file: &std::fs::File, bit: u64) {
    let mut byte = [0];
    file.read_exact_at(&mut byte, bit / 8).unwrap();
    file.write_all_at(&[byte[0] ^ (1 << (bit % 8))], bit / 8).unwrap();
}

/// SUCCEEDED means that its bytes are there; anything else is a typed failure, and nothing wrong is visible.
async fn shown_as_it_is(stage: &Stage, daemon: &Daemon, photo: &Photo, view: &UploadView) -> Result<String, String> {
    let visible = photo.visible(stage, daemon).await?;
    match view.state {
        UploadState::Succeeded if visible.as_deref() == Some(view.key.as_str()) => Ok("SUCCEEDED".into()),
        UploadState::Failed if !reason(view).is_empty() => {
            std::fs::metadata(stage.spooled(view.id)).map_err(|why| format!("the bytes are gone: {why}"))?;
            Ok(reason(view).into())
        }
        other => Err(format!("{other:?} {:?}, visible: {visible:?}", view.failure)),
    }
}

/// The store has done the write, its reply is lost, and the object that it has under the upload's own name is damaged:
/// whoever may look sees it.
async fn flip_in_the_store(stage: Arc<Stage>, daemon: Arc<Daemon>, mut photo: Photo) -> Result<String, String> {
    photo.role = Role::Reader;
    let operation = if photo.is_large() { "s3:CompleteMultipartUpload" } else { "s3:PutObject" };
    let rule = |operation, fault| Rule { operation, key_part: photo.key_part(), skip: 0, times: 1, fault };
    stage.proxy.add(rule(operation, Fault::LoseReply));
    let gate = Arc::new(tokio::sync::Semaphore::new(0));
    stage.proxy.add(rule("s3:HeadObject", Fault::Gate(Arc::clone(&gate))));
    let id = photo.stream(&daemon).await;
    let end = std::time::Instant::now() + crate::fault_stage::PATIENCE;
    while stage.proxy.struck(&photo.key_part()) < 2 {
        if std::time::Instant::now() > end {
            return Err(format!("nobody looked: {:?}", daemon.get(photo.role, id).await));
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let key = daemon.get(photo.role, id).await.key;
    let mut damaged = photo.content.clone();
    let bit = photo.random.random_range(0..damaged.len() * 8);
    damaged[bit / 8] ^= 1 << (bit % 8);
    stage.put_as(&key, &damaged, id).await;
    gate.add_permits(1);
    let view = daemon.end(photo.role, id).await;
    match (view.state, reason(&view)) {
        (UploadState::Failed, "CHECKSUM_MISMATCH") if stage.spooled(id).exists() => Ok("CHECKSUM_MISMATCH".into()),
        _ => Err(format!("{:?} {:?}", view.state, view.failure)),
    }
}

/// What somebody does to a file.
#[derive(Debug, Clone, Copy)]
enum Mutation {
    Append,
    Truncate,
    Overwrite,
    RenameOver,
    Touch,
    Delete,
}

impl Mutation {
    const ALL: [Self; 6] = [Self::Append, Self::Truncate, Self::Overwrite, Self::RenameOver, Self::Touch, Self::Delete];

    fn apply(self, path: &Path, content: &[u8], random: &mut StdRng) {
        let open = || std::fs::OpenOptions::new().write(true).open(path).unwrap();
        match self {
            Self::Append => {
                let end = content.len() as u64;
                open().write_all_at(&[random.random(); 3], end).unwrap();
            }
            Self::Truncate => open().set_len(random.random_range(0..content.len() as u64)).unwrap(),
            Self::Overwrite => {
                let at = random.random_range(0..content.len());
                open().write_all_at(&[content[at] ^ 1], at as u64).unwrap();
            }
            Self::RenameOver => {
                let other = path.with_extension("other");
                let mut changed = content.to_vec();
                changed[0] ^= 1;
                std::fs::write(&other, changed).unwrap();
                std::fs::rename(&other, path).unwrap();
            }
            Self::Touch => open().set_modified(SystemTime::now()).unwrap(),
            Self::Delete => std::fs::remove_file(path).unwrap(),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn files_that_change_after_they_were_handed_over_are_caught() {
    let all = times("TIDEGATE_MUTATIONS", 60);
    let stage = Arc::new(Stage::new().await);
    let daemon = Arc::new(stage.start().await);
    // Half of them while they wait for their turn.
    let base = bytes(LARGE + 1_000_000);
    daemon.uploads.set_paused(true);
    let mut queued = Vec::new();
    for number in 0..all / 2 {
        let mut photo = Photo::new("queued", number, &base, FEW);
        let (mutation, id, path) = hand_over(&stage, &daemon, &photo).await;
        mutation.apply(&path, &photo.content, &mut photo.random);
        queued.push((photo, mutation, id));
    }
    daemon.uploads.set_paused(false);
    for (photo, mutation, id) in queued {
        let view = daemon.end(photo.role, id).await;
        let told = matches!(reason(&view), "SOURCE_CHANGED" | "SOURCE_MISSING");
        assert!(view.state == UploadState::Failed && told, "{mutation:?} {}: {:?}", photo.number, view);
        assert_eq!(photo.visible(&stage, &daemon).await, Ok(None), "{mutation:?} {}", photo.number);
    }
    let (on, by) = (Arc::clone(&stage), Arc::clone(&daemon));
    let change = move |photo| change_while_sent(Arc::clone(&on), Arc::clone(&by), photo);
    play("sending", all / 2..all, 0.5, change).await;
    println!("{all} source mutations, {all} caught");
}

async fn hand_over(stage: &Stage, daemon: &Daemon, photo: &Photo) -> (Mutation, Ulid, std::path::PathBuf) {
    let mutation = Mutation::ALL[usize::try_from(photo.number).unwrap() % Mutation::ALL.len()];
    let (id, path) = (Ulid::generate(), stage.file(photo.role, &format!("{}.jpg", photo.tag()), &photo.content));
    daemon.uploads.create_from_file(&photo.role.caller(), Some(id), photo.spec(), &path).await.unwrap();
    (mutation, id, path)
}

/// Changes the file while one of its requests is held up.
async fn change_while_sent(stage: Arc<Stage>, daemon: Arc<Daemon>, mut photo: Photo) -> Result<String, String> {
    let operation = if photo.is_large() { WRITES[photo.random.random_range(1..4)] } else { WRITES[0] };
    let gate = Arc::new(tokio::sync::Semaphore::new(0));
    let fault = Fault::Gate(Arc::clone(&gate));
    stage.proxy.add(Rule { operation, key_part: photo.key_part(), skip: 0, times: 1, fault });
    let (mutation, id, path) = hand_over(&stage, &daemon, &photo).await;
    let end = std::time::Instant::now() + crate::fault_stage::PATIENCE;
    while stage.proxy.struck(&photo.key_part()) == 0 {
        if std::time::Instant::now() > end {
            return Err("its request never came".into());
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let content = photo.content.clone();
    mutation.apply(&path, &content, &mut photo.random);
    gate.add_permits(1);
    let view = daemon.end(photo.role, id).await;
    let visible = photo.visible(&stage, &daemon).await?;
    match (view.state, reason(&view)) {
        // All of it had been read already: the object is what was accepted.
        (UploadState::Succeeded, _) if visible.as_deref() == Some(view.key.as_str()) => Ok("sent as accepted".into()),
        (UploadState::Failed, reason @ ("SOURCE_CHANGED" | "SOURCE_MISSING")) if visible.is_none() => Ok(reason.into()),
        // The request that was held up may be seen as stalled: whoever may not look cannot tell whether it arrived.
        (UploadState::Failed, "OUTCOME_UNKNOWN") if photo.exact && photo.role == Role::PutOnly && visible.is_some() => {
            Ok("OUTCOME_UNKNOWN, sent as accepted".into())
        }
        // Or its repetition finds the file changed.
        (UploadState::Failed, reason @ ("SOURCE_CHANGED" | "SOURCE_MISSING")) if !photo.is_large() => {
            Ok(format!("{reason}, sent as accepted"))
        }
        _ => Err(format!("{mutation:?} {operation}: {:?} {:?}, visible: {visible:?}", view.state, view.failure)),
    }
}
