//! The challenges that wait for an answer, in memory only. Promises that an id is unguessable and one uid's, that one
//! answer is on its way at a time, that a challenge which was answered or is over says so for a while instead of being
//! unknown, and that their number is bounded; must never keep a secret past its time. Reads no clock.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::{Challenge, Config, Identity, RememberedDevice, SessionError};
use crate::clock::BootInstant;

const LATE: &str = "it was not answered in time";
const CROWDED_OUT: &str = "it made room for newer ones of this uid";
const ENDED: &str = "the user directory does not wait for it any more";

/// A sign-in that waits for the user.
#[derive(Debug)]
pub struct Pending {
    /// Who signs in.
    pub uid: u32,
    /// Where.
    pub identity: Identity,
    /// What was asked.
    pub challenge: Challenge,
    /// The device that the sign-in was begun with.
    pub device: Option<RememberedDevice>,
}

#[derive(Debug)]
enum State {
    Waiting(Box<Pending>),
    Answering,
    Answered,
    Over(&'static str),
}

#[derive(Debug)]
struct Entry {
    uid: u32,
    until: BootInstant,
    /// Oldest first.
    serial: u64,
    state: State,
}

impl Entry {
    fn is_open(&self) -> bool {
        matches!(self.state, State::Waiting(_) | State::Answering)
    }
}

#[derive(Debug, Default)]
struct Table {
    by_id: HashMap<String, Entry>,
    last_serial: u64,
}

/// All of them.
#[derive(Debug)]
pub struct Challenges {
    lifetime: Duration,
    most: usize,
    most_per_uid: usize,
    table: Mutex<Table>,
}

impl Challenges {
    /// None yet.
    pub fn new(config: &Config) -> Self {
        Self {
            lifetime: Duration::from_millis(config.challenge_lifetime_ms),
            most: config.max_challenges,
            most_per_uid: config.max_challenges_per_uid,
            table: Mutex::default(),
        }
    }

    /// How long one may be answered.
    pub fn lifetime(&self) -> Duration {
        self.lifetime
    }

    /// Lets a challenge wait, and gives its id: 128 random bits. Where there are too many, the oldest makes room.
    pub fn open(&self, now: BootInstant, pending: Pending) -> String {
        let id = format!("{:032x}", rand::random::<u128>());
        let mut table = self.sweep(now);
        let uid = pending.uid;
        table.make_room(self.most_per_uid, |entry| entry.uid == uid);
        table.make_room(self.most, |_| true);
        table.last_serial += 1;
        let serial = table.last_serial;
        let state = State::Waiting(Box::new(pending));
        table.by_id.insert(id.clone(), Entry { uid, until: now + self.lifetime, serial, state });
        id
    }

    /// Takes the challenge to be answered. It is to be settled by [`Challenges::put_back`], [`Challenges::answered`] or
    /// [`Challenges::ended`].
    ///
    /// # Errors
    /// `ChallengeNotFound` (also for another uid's), `ChallengeAnswered`, `ChallengeExpired`, `ChallengeBusy`.
    pub fn take(&self, now: BootInstant, uid: u32, id: &str) -> Result<Box<Pending>, SessionError> {
        let mut table = self.sweep(now);
        let entry = table.by_id.get_mut(id).filter(|entry| entry.uid == uid);
        let entry = entry.ok_or(SessionError::ChallengeNotFound)?;
        match std::mem::replace(&mut entry.state, State::Answering) {
            State::Waiting(pending) => Ok(pending),
            State::Answering => Err(SessionError::ChallengeBusy),
            State::Answered => {
                entry.state = State::Answered;
                Err(SessionError::ChallengeAnswered)
            }
            State::Over(why) => {
                entry.state = State::Over(why);
                Err(SessionError::ChallengeExpired(why))
            }
        }
    }

    /// The answer was not taken: another one may be given within the same time.
    pub fn put_back(&self, now: BootInstant, id: &str, pending: Box<Pending>) {
        self.settle(id, State::Waiting(pending));
        drop(self.sweep(now));
    }

    /// The answer was right.
    pub fn answered(&self, id: &str) {
        self.settle(id, State::Answered);
    }

    /// The source does not take another answer.
    pub fn ended(&self, id: &str) {
        self.settle(id, State::Over(ENDED));
    }

    /// Drops the secrets of those whose time is over, and forgets them after as long again.
    pub fn tidy(&self, now: BootInstant) {
        drop(self.sweep(now));
    }

    fn settle(&self, id: &str, state: State) {
        if let Some(entry) = self.lock().by_id.get_mut(id) {
            entry.state = state;
        }
    }

    fn sweep(&self, now: BootInstant) -> MutexGuard<'_, Table> {
        let mut table = self.lock();
        table.by_id.retain(|_, entry| now < entry.until + self.lifetime);
        for entry in table.by_id.values_mut() {
            if now >= entry.until && matches!(entry.state, State::Waiting(_)) {
                entry.state = State::Over(LATE);
            }
        }
        // What is over is remembered as long as there is room.
        while table.by_id.len() > self.most.saturating_mul(2) {
            let oldest = table.by_id.iter().filter(|(_, entry)| !entry.is_open()).min_by_key(|(_, entry)| entry.serial);
            let Some(oldest) = oldest.map(|(id, _)| id.clone()) else { break };
            table.by_id.remove(&oldest);
        }
        table
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    /// Room for one more among the open ones that `counts` is true of. One that is being answered stays.
    fn make_room(&mut self, most: usize, counts: impl Fn(&Entry) -> bool) {
        while self.by_id.values().filter(|entry| entry.is_open() && counts(entry)).count() >= most {
            let waiting =
                self.by_id.values_mut().filter(|entry| matches!(entry.state, State::Waiting(_)) && counts(entry));
            let Some(oldest) = waiting.min_by_key(|entry| entry.serial) else { return };
            oldest.state = State::Over(CROWDED_OUT);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::collections::HashSet;

    use super::*;
    use crate::clock::{Clock, from_unix_ms};
    use crate::session::fake::FakeCloud;

    const LIFETIME: Duration = Duration::from_secs(170);
    const MS: Duration = Duration::from_millis(1);

    struct Bench {
        challenges: Challenges,
        clock: Clock,
        identity: Identity,
    }

    fn bench(most: usize, most_per_uid: usize) -> Bench {
        let clock = Clock::manual(from_unix_ms(1_800_000_000_000));
        let config = Config { max_challenges: most, max_challenges_per_uid: most_per_uid, ..Config::default() };
        assert_eq!(Duration::from_millis(config.challenge_lifetime_ms), LIFETIME);
        Bench { challenges: Challenges::new(&config), identity: FakeCloud::new(&clock).identity("app"), clock }
    }

    impl Bench {
        fn open(&self, uid: u32) -> String {
            let challenge = Challenge {
                name: "SMS_MFA".into(),
                parameters: Default::default(),
                answers: vec!["SMS_MFA_CODE".into()],
                username: format!("user of {uid}"),
                handle: "canary-session".into(),
            };
            let pending = Pending { uid, identity: self.identity.clone(), challenge, device: None };
            self.challenges.open(self.clock.boot(), pending)
        }

        fn take(&self, uid: u32, id: &str) -> Result<Box<Pending>, SessionError> {
            self.challenges.take(self.clock.boot(), uid, id)
        }

        fn secrets(&self) -> usize {
            self.challenges.lock().by_id.values().filter(|entry| matches!(entry.state, State::Waiting(_))).count()
        }
    }

    #[test]
    fn it_is_answered_once_and_by_its_uid() {
        let bench = bench(9, 9);
        let id = bench.open(7);
        assert!(matches!(bench.take(8, &id), Err(SessionError::ChallengeNotFound)));
        assert!(matches!(bench.take(7, "no such id"), Err(SessionError::ChallengeNotFound)));
        let pending = bench.take(7, &id).unwrap();
        assert!(matches!(bench.take(7, &id), Err(SessionError::ChallengeBusy)));
        bench.challenges.put_back(bench.clock.boot(), &id, pending);
        bench.take(7, &id).expect("a wrong code may be followed by another");
        bench.challenges.answered(&id);
        assert!(matches!(bench.take(7, &id), Err(SessionError::ChallengeAnswered)));
        assert!(matches!(bench.take(8, &id), Err(SessionError::ChallengeNotFound)), "nothing is told to another uid");
        let id = bench.open(7);
        bench.take(7, &id).unwrap();
        bench.challenges.ended(&id);
        assert!(matches!(bench.take(7, &id), Err(SessionError::ChallengeExpired(ENDED))));
    }

    #[test]
    fn its_time_ends_and_with_it_its_secrets() {
        let bench = bench(9, 9);
        let id = bench.open(7);
        bench.clock.advance(LIFETIME - MS);
        let pending = bench.take(7, &id).unwrap();
        bench.clock.advance(MS);
        bench.challenges.put_back(bench.clock.boot(), &id, pending);
        assert_eq!(bench.secrets(), 0, "a late answer does not make it longer");
        assert!(matches!(bench.take(7, &id), Err(SessionError::ChallengeExpired(LATE))));
        bench.clock.advance(LIFETIME - MS);
        assert!(matches!(bench.take(7, &id), Err(SessionError::ChallengeExpired(LATE))));
        bench.clock.advance(MS);
        assert!(matches!(bench.take(7, &id), Err(SessionError::ChallengeNotFound)));
        bench.open(7);
        bench.clock.advance(LIFETIME);
        bench.challenges.tidy(bench.clock.boot());
        assert_eq!(bench.secrets(), 0);
    }

    #[test]
    fn a_step_of_the_wall_clock_ends_none() {
        let bench = bench(9, 9);
        let id = bench.open(7);
        bench.clock.observe_server_date(from_unix_ms(2_100_000_000_000));
        bench.take(7, &id).unwrap();
    }

    #[test]
    fn the_oldest_makes_room_first_of_the_same_uid() {
        let bench = bench(4, 2);
        let others = [bench.open(8), bench.open(9)];
        let ids: Vec<_> = (0..3).map(|_| bench.open(7)).collect();
        assert!(matches!(bench.take(7, &ids[0]), Err(SessionError::ChallengeExpired(CROWDED_OUT))));
        bench.open(10);
        assert!(matches!(bench.take(8, &others[0]), Err(SessionError::ChallengeExpired(CROWDED_OUT))));
        for (uid, id) in [(9, &others[1]), (7, &ids[1]), (7, &ids[2])] {
            bench.take(uid, id).unwrap();
        }
        for uid in 0..1_000 {
            bench.open(uid);
        }
        assert!(bench.challenges.lock().by_id.len() <= 9, "{}", bench.challenges.lock().by_id.len());
        assert!(matches!(bench.take(9, &others[1]), Err(SessionError::ChallengeBusy)), "what is being answered stays");
    }

    #[test]
    fn ids_differ_and_have_128_bits() {
        let bench = bench(1_000, 1_000);
        let ids: HashSet<_> = (0..1_000).map(|_| bench.open(7)).collect();
        assert_eq!(ids.len(), 1_000);
        assert!(ids.iter().all(|id| id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit())));
    }

    #[test]
    fn nothing_is_shown() {
        let bench = bench(9, 9);
        bench.open(7);
        assert!(!format!("{:?}", bench.challenges).contains("canary"));
    }
}
