//! Histories against the machine's promises. `TIDEGATE_MACHINE_STEPS` sets how many steps are taken (1,000,000 by default).
#![allow(clippy::unwrap_used)]

use std::time::Duration;

use super::*;
use crate::session::Config;
use crate::session::event::Success;

const HOUR: Duration = Duration::from_secs(3_600);

fn at(s: u64) -> BootInstant {
    BootInstant::from_boot(Duration::from_secs(s))
}

fn machine(now: BootInstant, known: Known) -> Machine {
    Machine::new(Limits::from(&Config::default()), 11, now, known)
}

fn signed_in(now: BootInstant) -> Machine {
    let mut machine = machine(now, Known::default());
    let effects = machine.on(now, Event::SignedIn { id_token_deadline: now + HOUR, can_refresh: true });
    assert_eq!(effects, vec![Effect::Start(Call::IdentityId)]);
    assert_eq!(machine.on(now, Event::Done(Ok(Success::IdentityId))), vec![Effect::Start(Call::Credentials)]);
    let got = Success::Credentials { received: now, deadline: now + HOUR };
    assert_eq!(machine.on(now, Event::Done(Ok(got))), vec![]);
    assert_eq!(machine.state(now), SessionState::Active);
    machine
}

fn tokens(now: BootInstant, groups_changed: bool) -> Event {
    Event::Done(Ok(Success::Tokens { id_token_deadline: now + HOUR, groups_changed, rotated: false }))
}

fn credentials(now: BootInstant) -> Event {
    Event::Done(Ok(Success::Credentials { received: now, deadline: now + HOUR }))
}

#[test]
fn refreshes_ahead_with_fresh_tokens_where_they_are_short() {
    let start = at(1_000);
    let mut machine = signed_in(start);
    let due = machine.next_wake().unwrap();
    assert!(due >= start + Duration::from_secs(2_088) && due <= start + Duration::from_secs(2_412), "{due:?}");
    assert_eq!(machine.on(due.saturating_sub(Duration::from_secs(1)), Event::Wake), vec![]);
    assert_eq!(machine.on(due, Event::Wake), vec![Effect::Start(Call::Credentials)], "the ID token is good enough");
    assert_eq!(machine.on(due, credentials(due)), vec![]);
    let next = machine.next_wake().unwrap();
    assert_eq!(machine.on(next, Event::Wake), vec![Effect::Start(Call::Tokens)], "now it is not");
}

#[test]
fn serves_stale_until_a_minute_before_the_end() {
    let start = at(1_000);
    let mut machine = signed_in(start);
    let due = machine.next_wake().unwrap();
    machine.on(due, Event::Wake);
    assert_eq!(machine.on(due, Event::Done(Err(Failure::Transient))), vec![]);
    assert_eq!(machine.state(due), SessionState::Stale);
    let last = start + Duration::from_secs(3_540);
    assert_eq!(machine.servable_until(due), Some(last));
    assert_eq!(machine.ask(due, Want::Credentials).0, Reply::Now(Ok(())));
    assert_eq!(machine.servable_until(last), None);
    assert!(machine.on(last, Event::Wake).contains(&Effect::DropCredentials));
}

#[test]
fn throttling_waits_two_minutes_and_a_refused_token_an_hour_then_72() {
    let start = at(1_000);
    let mut machine = signed_in(start);
    machine.ask(start, Want::Refresh);
    machine.on(start, Event::Done(Err(Failure::Throttled)));
    let due = machine.next_wake().unwrap();
    assert!(due >= start + Duration::from_secs(120) && due <= start + Duration::from_secs(132));
    assert!(matches!(machine.ask(start, Want::Refresh).0, Reply::Now(Err(Refusal::Unavailable { .. }))));

    let mut machine = signed_in(start);
    machine.ask(start, Want::Refresh);
    assert_eq!(machine.on(start, Event::Done(Err(Failure::TokenRefused))), vec![Effect::Persist]);
    assert_eq!(machine.state(start), SessionState::NeedsSignIn);
    assert!(machine.servable_until(start).is_some(), "what is valid is served to its end");
    let mut attempts = 0;
    let wiped = loop {
        let now = machine.next_wake().unwrap();
        let effects = machine.on(now, Event::Wake);
        if effects.contains(&Effect::WipeTokens) {
            break now;
        }
        if machine.in_flight() == Some(Call::Tokens) {
            attempts += 1;
            machine.on(now, Event::Done(Err(Failure::TokenRefused)));
        }
    };
    assert_eq!(wiped, start + 72 * HOUR);
    assert!((64..=71).contains(&attempts), "hourly: {attempts}");
    assert_eq!(machine.ask(wiped, Want::Credentials).0, Reply::Now(Err(Refusal::NeedsSignIn)));
}

#[test]
fn a_refused_login_refreshes_the_token_once() {
    let now = at(1_000);
    let mut machine = machine(now, Known { can_refresh: true, identity_id: true, ..Known::default() });
    assert_eq!(machine.ask(now, Want::Credentials), (Reply::Wait(1), vec![Effect::Start(Call::Tokens)]));
    assert_eq!(machine.on(now, tokens(now, false)), vec![Effect::Start(Call::Credentials)]);
    machine.on(now, Event::Done(Err(Failure::LoginRefused)));
    assert_eq!(machine.verdict(now, Want::Credentials, 1), Some(Err(Refusal::Configuration)));

    let mut machine = signed_in(now);
    let due = machine.next_wake().unwrap();
    machine.on(due, Event::Wake);
    assert_eq!(machine.on(due, Event::Done(Err(Failure::LoginRefused))), vec![Effect::Start(Call::Tokens)]);
    assert_eq!(machine.on(due, tokens(due, false)), vec![Effect::Start(Call::Credentials)]);
    assert_eq!(machine.on(due, Event::Done(Err(Failure::LoginRefused))), vec![]);
    assert_eq!(machine.state(due), SessionState::Stale);
}

#[test]
fn a_moved_identity_is_asked_for_once_more() {
    let now = at(1_000);
    let mut machine = signed_in(now);
    let due = machine.next_wake().unwrap();
    machine.on(due, Event::Wake);
    assert_eq!(machine.on(due, Event::Done(Err(Failure::IdentityMoved))), vec![Effect::Start(Call::IdentityId)]);
    let effects = machine.on(due, Event::Done(Err(Failure::OtherUser)));
    assert_eq!(effects, vec![Effect::DropCredentials, Effect::WipeTokens]);
    assert!(machine.is_other_user());
    assert_eq!(machine.ask(due, Want::UploadCredentials).0, Reply::Now(Err(Refusal::OtherUser)));
}

#[test]
fn denied_refreshes_double_and_a_new_group_starts_over() {
    let mut now = at(1_000);
    let mut machine = signed_in(now);
    let mut expected = Duration::from_secs(30);
    for _ in 0..8 {
        assert!(matches!(machine.ask(now, Want::DeniedRefresh).0, Reply::Wait(_)));
        assert!(matches!(machine.ask(now, Want::DeniedRefresh).0, Reply::Wait(_)), "joins the one that runs");
        machine.on(now, tokens(now, false));
        machine.on(now, credentials(now));
        let almost = (now + expected).saturating_sub(Duration::from_millis(1));
        assert_eq!(machine.ask(almost, Want::DeniedRefresh).0, Reply::TooEarly);
        now = now + expected;
        expected = (expected * 2).min(Duration::from_secs(900));
    }
    machine.ask(now, Want::Refresh);
    machine.on(now, tokens(now, true));
    machine.on(now, credentials(now));
    assert!(matches!(machine.ask(now, Want::DeniedRefresh).0, Reply::Wait(_)));
}

#[test]
fn a_refresh_asked_for_during_a_call_gets_a_later_one() {
    let now = at(1_000);
    let mut machine = signed_in(now);
    let due = machine.next_wake().unwrap();
    machine.on(due, Event::Wake);
    let (Reply::Wait(round), _) = machine.ask(due, Want::Refresh) else { panic!("waits") };
    assert_eq!(machine.on(due, credentials(due)), vec![Effect::Start(Call::Tokens)]);
    assert_eq!(machine.verdict(due, Want::Refresh, round), None);
    machine.on(due, tokens(due, false));
    machine.on(due, credentials(due));
    assert_eq!(machine.verdict(due, Want::Refresh, round), Some(Ok(())));
}

#[test]
fn a_lost_rotation_is_asked_for_again_in_its_grace_however_fresh_the_id_token_is() {
    let start = at(1_000);
    for may_rotate in [true, false] {
        let mut machine = signed_in(start);
        if !may_rotate {
            machine.ask(start, Want::Refresh);
            machine.on(start, tokens(start, false));
            machine.on(start, credentials(start));
        }
        let now = start + Duration::from_secs(600);
        machine.ask(now, Want::Refresh);
        for _ in 0..8 {
            machine.on(now, Event::Done(Err(Failure::ReplyLost)));
            assert_eq!(machine.is_in_rotation_grace(now), may_rotate);
            machine.ask(now + Duration::from_secs(2), Want::Refresh);
        }
        machine.on(now, Event::Done(Err(Failure::ReplyLost)));
        let wake = machine.next_wake().unwrap();
        let call = if may_rotate { Call::Tokens } else { Call::Credentials };
        if may_rotate {
            assert!(wake <= now + Duration::from_secs(10), "inside the grace");
        }
        assert_eq!(machine.on(wake, Event::Wake), vec![Effect::Start(call)]);
        assert!(!machine.is_in_rotation_grace(now + Duration::from_secs(60)), "the grace is over");
    }
}

#[test]
fn sign_out_ends_vending_and_draining_leaves_it_to_the_uploads_for_a_day() {
    let now = at(1_000);
    let mut machine = signed_in(now);
    assert_eq!(machine.on(now, Event::SignOut { drain: true, everywhere: false }), vec![Effect::Persist]);
    assert_eq!(machine.ask(now, Want::Credentials).0, Reply::Now(Err(Refusal::SignedOut)));
    assert_eq!(machine.ask(now, Want::Tokens).0, Reply::Now(Err(Refusal::SignedOut)));
    assert_eq!(machine.ask(now, Want::UploadCredentials).0, Reply::Now(Ok(())));
    let end = now + 24 * HOUR;
    assert_eq!(machine.draining_for(now), Some(24 * HOUR));
    assert!(machine.on(end, Event::Wake).contains(&Effect::End));

    let mut machine = signed_in(now);
    let effects = machine.on(now, Event::SignOut { drain: false, everywhere: false });
    assert_eq!(effects, vec![Effect::DropCredentials, Effect::End]);
}

#[test]
fn without_a_refresh_token_the_session_ends_with_the_id_token() {
    let now = at(1_000);
    let mut machine = machine(now, Known { identity_id: true, ..Known::default() });
    machine.on(now, Event::SignedIn { id_token_deadline: now + HOUR, can_refresh: false });
    machine.on(now, credentials(now));
    assert_eq!(machine.state(now), SessionState::Active);
    let end = now + HOUR;
    while let Some(wake) = machine.next_wake().filter(|wake| *wake <= end) {
        if machine.on(wake, Event::Wake).contains(&Effect::Start(Call::Credentials)) {
            machine.on(wake, Event::Done(Err(Failure::Transient)));
        }
    }
    assert_eq!(machine.state(end), SessionState::NeedsSignIn);
    assert_eq!(machine.ask(end, Want::Credentials).0, Reply::Now(Err(Refusal::NeedsSignIn)));
    assert_eq!(machine.next_wake(), None, "nothing is left to wake up for");
}

#[test]
fn a_guest_needs_no_tokens_and_has_none() {
    let now = at(1_000);
    let guest = Known { guest: true, identity_id: true, ..Known::default() };
    let mut machine = machine(now, guest);
    assert_eq!(machine.on(now, Event::GuestSignedIn), vec![Effect::Start(Call::Credentials)]);
    assert_eq!(machine.on(now, credentials(now)), vec![]);
    assert_eq!(machine.state(now), SessionState::Active);
    assert_eq!(machine.ask(now, Want::Tokens), (Reply::Now(Err(Refusal::Guest)), vec![]));
    let (Reply::Wait(_), effects) = machine.ask(now, Want::Refresh) else { panic!("refreshes") };
    assert_eq!(effects, vec![Effect::Start(Call::Credentials)]);
    assert_eq!(machine.on(now, Event::Done(Err(Failure::IdentityMoved))), vec![], "it never asks to be somebody else");
    assert_eq!(machine.state(now), SessionState::Stale);
    assert!(machine.servable_until(now).is_some());
    let due = machine.next_wake().unwrap();
    assert_eq!(machine.on(due, Event::Wake), vec![Effect::Start(Call::Credentials)]);
    assert_eq!(machine.on(due, credentials(due)), vec![]);
    assert_eq!(machine.on(due, Event::SignOut { drain: true, everywhere: false }), vec![Effect::Persist]);
    assert_eq!(machine.ask(due, Want::UploadCredentials).0, Reply::Now(Ok(())));

    let restored = self::machine(now, guest);
    assert!(restored.next_wake().is_some(), "it comes back by itself");
    let mut lost = self::machine(now, Known { guest: true, ..Known::default() });
    assert_eq!((lost.state(now), lost.next_wake()), (SessionState::NeedsSignIn, None));
    assert_eq!(lost.ask(now, Want::Credentials), (Reply::Now(Err(Refusal::NeedsSignIn)), vec![]));
}

#[test]
fn restored_sessions_spread_over_the_boot_jitter() {
    let now = at(50);
    let wakes: Vec<_> = (0..200)
        .map(|seed| {
            let known = Known { can_refresh: true, identity_id: true, ..Known::default() };
            let machine = Machine::new(Limits::from(&Config::default()), seed, now, known);
            machine.next_wake().unwrap().saturating_since(now).as_secs()
        })
        .collect();
    assert!(wakes.iter().all(|s| *s < 180));
    assert!(wakes.iter().any(|s| *s < 20) && wakes.iter().any(|s| *s > 160));
}

/// A random history of one session beside a model of what its driver holds.
struct History {
    machine: Machine,
    dice: Jitter,
    now: BootInstant,
    guest: bool,
    in_flight: Option<Call>,
    /// True end of the credentials that the driver holds.
    held: Option<BootInstant>,
    /// An answer was about somebody else, and nobody has signed in since.
    foreign: bool,
    waiting: Vec<(Want, u64)>,
    calls: u64,
    ended: bool,
}

impl History {
    fn new(seed: u64) -> Self {
        let mut dice = Jitter::new(seed);
        let now = at(100_000);
        let guest = dice.unit() < 0.2;
        let known = Known {
            guest,
            can_refresh: !guest && dice.unit() < 0.8,
            identity_id: dice.unit() < 0.5,
            may_rotate: dice.unit() < 0.5,
            reply_lost: !guest && dice.unit() < 0.1,
            refused_for: (!guest && dice.unit() < 0.1).then_some(HOUR),
            draining_for: (dice.unit() < 0.1).then_some(HOUR),
        };
        let machine = Machine::new(Limits::from(&Config::default()), seed, now, known);
        Self {
            machine,
            dice,
            now,
            guest,
            in_flight: None,
            held: None,
            foreign: false,
            waiting: vec![],
            calls: 0,
            ended: false,
        }
    }

    fn below(&mut self, n: u64) -> u64 {
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss)]
        let pick = (self.dice.unit() * n as f64) as u64;
        pick
    }

    fn apply(&mut self, effects: &[Effect]) {
        for effect in effects {
            assert!(!self.ended, "nothing happens after the end: {effect:?}");
            match effect {
                Effect::Start(call) => {
                    assert_eq!(self.in_flight, None, "two calls in flight");
                    assert!(!self.guest || *call == Call::Credentials, "a guest has no tokens and one identity id");
                    self.in_flight = Some(*call);
                    self.calls += 1;
                }
                Effect::Abort => assert!(self.in_flight.take().is_some(), "abort of nothing"),
                Effect::DropCredentials => self.held = None,
                Effect::End => self.ended = true,
                Effect::WipeTokens | Effect::Persist => {}
            }
        }
    }

    fn outcome(&mut self, call: Call) -> Result<Success, Failure> {
        let lifetime = Duration::from_secs(1 + self.below(2 * 3_600));
        if self.below(10) < 6 {
            return Ok(match call {
                Call::Tokens => {
                    let (groups_changed, rotated) = (self.below(4) == 0, self.below(2) == 0);
                    Success::Tokens { id_token_deadline: self.now + lifetime, groups_changed, rotated }
                }
                Call::IdentityId => Success::IdentityId,
                Call::Credentials => Success::Credentials { received: self.now, deadline: self.now + lifetime },
            });
        }
        Err(match (self.below(40), call) {
            (0, _) => Failure::Terminal,
            (1, _) => Failure::OtherUser,
            (2..=9, Call::Tokens) => Failure::TokenRefused,
            (2..=9, Call::IdentityId | Call::Credentials) => Failure::LoginRefused,
            (10..=14, Call::IdentityId | Call::Credentials) => Failure::IdentityMoved,
            (15..=20, _) => Failure::Configuration,
            (21..=26, _) => Failure::Throttled,
            (27..=31, Call::Tokens) => Failure::ReplyLost,
            _ => Failure::Transient,
        })
    }

    fn step(&mut self) {
        let servable_before = self.machine.servable_until(self.now);
        // A session that drains may end by itself.
        let mut harmless = self.machine.draining_for(self.now).is_none();
        match self.below(12) {
            0..=3 => {
                let jump = [0, 1, 59, 600, 3_000, 80_000][usize::try_from(self.below(6)).unwrap()];
                self.now = match self.machine.next_wake() {
                    Some(wake) if jump == 0 => wake.max(self.now),
                    _ => self.now + Duration::from_secs(jump),
                };
                let effects = self.machine.on(self.now, Event::Wake);
                self.apply(&effects);
            }
            4..=7 => {
                if let Some(call) = self.in_flight.take() {
                    let result = self.outcome(call);
                    harmless &= !matches!(result, Err(Failure::Terminal | Failure::OtherUser));
                    if let Ok(Success::Credentials { deadline, .. }) = result {
                        self.held = Some(deadline);
                    }
                    self.foreign |= result == Err(Failure::OtherUser);
                    let effects = self.machine.on(self.now, Event::Done(result));
                    self.apply(&effects);
                }
            }
            8..=10 => {
                let wants =
                    [Want::Credentials, Want::UploadCredentials, Want::Tokens, Want::Refresh, Want::DeniedRefresh];
                let want = wants[usize::try_from(self.below(5)).unwrap()];
                let (reply, effects) = self.machine.ask(self.now, want);
                self.apply(&effects);
                match reply {
                    Reply::Wait(round) => self.waiting.push((want, round)),
                    Reply::Now(Ok(())) if matches!(want, Want::Credentials | Want::UploadCredentials) => {
                        assert!(self.held.is_some_and(|deadline| self.now < deadline), "served without any");
                    }
                    Reply::Now(_) | Reply::TooEarly => {}
                }
            }
            _ => {
                let event = match self.below(60) {
                    0..=3 if self.guest => Event::GuestSignedIn,
                    0..=3 => Event::SignedIn {
                        id_token_deadline: self.now + Duration::from_secs(self.below(7_200)),
                        can_refresh: self.below(4) > 0,
                    },
                    4 => Event::SignOut { drain: true, everywhere: self.below(2) == 0 },
                    5 => Event::SignOut { drain: false, everywhere: false },
                    6 => Event::UploadsDone,
                    _ => Event::LinkReturned,
                };
                harmless &= !matches!(event, Event::SignOut { .. } | Event::UploadsDone);
                self.foreign &= !matches!(event, Event::SignedIn { .. } | Event::GuestSignedIn);
                let effects = self.machine.on(self.now, event);
                self.apply(&effects);
            }
        }
        self.check(servable_before.filter(|_| harmless));
    }

    fn check(&mut self, servable_before: Option<BootInstant>) {
        assert_eq!(self.machine.in_flight(), self.in_flight, "the driver and the machine agree");
        if let Some(until) = self.machine.servable_until(self.now) {
            let held = self.held.expect("what is served is held");
            assert!(self.now < until && until < held, "served at or after the end");
        }
        if servable_before.is_some_and(|until| self.now < until) {
            assert!(
                self.machine.servable_until(self.now).is_some(),
                "a failure took valid credentials away: {:?}",
                self.machine
            );
        }
        assert!(!self.foreign || self.machine.servable_until(self.now).is_none(), "somebody else's credentials");
        if self.machine.phase == Phase::Live && self.machine.can_refresh && self.in_flight.is_none() {
            let wake = self.machine.next_wake().expect("who can refresh tries again");
            assert!(wake <= self.now + 3 * HOUR, "tries again at {wake:?} only");
        }
        let machine = &self.machine;
        self.waiting.retain(|(want, round)| machine.verdict(self.now, *want, *round).is_none());
        if !self.waiting.is_empty() {
            assert!(self.in_flight.is_some(), "somebody waits for nothing");
        }
        if self.machine.next_wake().is_some_and(|wake| wake <= self.now) && self.in_flight.is_none() {
            let effects = self.machine.on(self.now, Event::Wake);
            self.apply(&effects);
            let idle = self.in_flight.is_none() && self.machine.next_wake().is_some_and(|wake| wake <= self.now);
            assert!(!idle, "a wake-up that does nothing: a busy loop at {:?}: {:?}", self.now, self.machine);
        }
    }
}

fn steps() -> u64 {
    std::env::var("TIDEGATE_MACHINE_STEPS").ok().and_then(|steps| steps.parse().ok()).unwrap_or(1_000_000)
}

#[test]
fn no_history_breaks_a_promise() {
    let (mut taken, mut histories, mut calls) = (0, 0, 0);
    while taken < steps() {
        let mut history = History::new(histories);
        for _ in 0..400 {
            history.step();
            taken += 1;
            if history.ended {
                break;
            }
        }
        histories += 1;
        calls += history.calls;
    }
    println!("{taken} steps in {histories} histories, {calls} upstream calls, no promise broken");
}

#[test]
fn failing_upstreams_are_not_hammered() {
    for seed in 0..50 {
        let mut now = at(1_000);
        let known = Known { can_refresh: true, identity_id: true, ..Known::default() };
        let mut machine = Machine::new(Limits::from(&Config::default()), seed, now, known);
        let (end, mut calls) = (now + 3 * HOUR, 0);
        while now < end {
            // A caller asks every second, all the time.
            now = now + Duration::from_secs(1);
            machine.on(now, Event::Wake);
            machine.ask(now, Want::Credentials);
            if machine.in_flight().is_some() {
                calls += 1;
                machine.on(now, Event::Done(Err(Failure::Transient)));
            }
        }
        assert!(calls < 320, "{calls} calls in three hours offline");
        machine.on(now, Event::LinkReturned);
        let due = machine.next_wake().unwrap();
        assert!(due.saturating_since(now) <= Duration::from_secs(120), "recovers within one back-off");
        machine.ask(now, Want::Credentials);
        assert_eq!(machine.in_flight(), Some(Call::Tokens), "who waits goes first");
    }
}
