//! One session's life as a pure state machine: events with times go in, effects come out. Promises that at most one
//! call is in flight, that credentials are never servable at or after their deadline and that a failure never takes
//! valid ones away (a token that is finished, and another user's tokens, do). Does no I/O, reads no clock, holds no
//! secret: the actor keeps those.

mod round;
#[cfg(test)]
mod tests;

use std::time::Duration;

use self::round::Round;
use super::SessionState;
use super::event::{Call, Effect, Event, Failure, Known, Limits, Refusal, Reply, Want};
use super::schedule::{self, Jitter};
use crate::clock::BootInstant;

/// A refresh by hand waits at least this long after a failed attempt.
const BY_HAND_AFTER_FAILURE: Duration = Duration::from_secs(2);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Live,
    /// Only a sign-in helps.
    Parked {
        other_user: bool,
    },
    SigningOut {
        until: BootInstant,
    },
    Ended,
}

#[derive(Debug, Clone, Copy)]
struct Cached {
    deadline: BootInstant,
    serve_until: BootInstant,
    refresh_at: BootInstant,
}

#[derive(Debug, Clone, Copy)]
struct IdToken {
    deadline: BootInstant,
    fresh_until: BootInstant,
}

/// The state of one session.
#[derive(Debug, Clone)]
pub struct Machine {
    limits: Limits,
    jitter: Jitter,
    phase: Phase,
    id_token: Option<IdToken>,
    /// A guest proves itself with its identity id alone.
    guest: bool,
    can_refresh: bool,
    may_rotate: bool,
    /// When a reply was lost last: nobody knows whether the refresh token has been rotated.
    reply_lost: Option<BootInstant>,
    identity_known: bool,
    credentials: Option<Cached>,
    in_flight: Option<Call>,
    round: Option<Round>,
    round_number: u64,
    /// A refresh was asked for while a round was open: one more round is due.
    again: bool,
    failure: Option<Failure>,
    failures: u32,
    last_attempt: Option<BootInstant>,
    /// When the next background round starts.
    due: Option<BootInstant>,
    /// Until when a failure holds back what callers ask for.
    hold: Option<BootInstant>,
    /// Since when the refresh token has been refused.
    refused_since: Option<BootInstant>,
    denied_interval: Duration,
    denied_next: BootInstant,
}

impl Machine {
    /// A session that was restored, or is about to be told [`Event::SignedIn`]. Nothing is called before somebody asks
    /// or the boot spread is over.
    pub fn new(limits: Limits, seed: u64, now: BootInstant, known: Known) -> Self {
        let mut machine = Self {
            limits,
            jitter: Jitter::new(seed),
            phase: known.draining_for.map_or(Phase::Live, |left| Phase::SigningOut { until: now + left }),
            id_token: None,
            guest: known.guest,
            can_refresh: known.can_refresh,
            may_rotate: known.may_rotate,
            reply_lost: known.reply_lost.then_some(now),
            identity_known: known.identity_id,
            credentials: None,
            in_flight: None,
            round: None,
            round_number: 0,
            again: false,
            failure: known.refused_for.map(|_| Failure::TokenRefused),
            failures: 0,
            last_attempt: None,
            due: None,
            hold: None,
            refused_since: known.refused_for.map(|long| now.saturating_sub(long)),
            denied_interval: limits.denied_initial,
            denied_next: now,
        };
        if known.can_refresh || (known.guest && known.identity_id) {
            let spread = limits.boot_spread.mul_f64(machine.jitter.unit());
            // The old refresh token is good for the pool's grace only.
            machine.due = Some(if known.reply_lost { now } else { now + spread });
        }
        machine
    }

    /// What may be shown.
    pub fn state(&self, now: BootInstant) -> SessionState {
        match self.phase {
            Phase::SigningOut { .. } | Phase::Ended => SessionState::SigningOut,
            Phase::Parked { .. } => SessionState::NeedsSignIn,
            Phase::Live if self.refused_since.is_some() || !self.login_usable(now) => SessionState::NeedsSignIn,
            Phase::Live if self.failure.is_some() => SessionState::Stale,
            Phase::Live => SessionState::Active,
        }
    }

    /// Until when the credentials may be served; `None` where they may not be now.
    pub fn servable_until(&self, now: BootInstant) -> Option<BootInstant> {
        match self.phase {
            Phase::Live | Phase::SigningOut { .. } => {
                self.credentials.filter(|cached| now < cached.serve_until).map(|cached| cached.serve_until)
            }
            Phase::Parked { .. } | Phase::Ended => None,
        }
    }

    /// For how long the refresh token has been refused.
    pub fn refused_for(&self, now: BootInstant) -> Option<Duration> {
        self.refused_since.map(|since| now.saturating_since(since))
    }

    /// How long a session that is signing out has left.
    pub fn draining_for(&self, now: BootInstant) -> Option<Duration> {
        match self.phase {
            Phase::SigningOut { until } => Some(until.saturating_since(now)),
            Phase::Live | Phase::Parked { .. } | Phase::Ended => None,
        }
    }

    /// Parked because an answer was about somebody else.
    pub fn is_other_user(&self) -> bool {
        self.phase == Phase::Parked { other_user: true }
    }

    /// The refresh token may have been rotated by a refresh whose reply was lost, and the pool still takes the old one:
    /// the next refresh must not wait behind others.
    pub fn is_in_rotation_grace(&self, now: BootInstant) -> bool {
        self.reply_lost.is_some_and(|lost| now.saturating_since(lost) < self.limits.rotation_grace)
    }

    /// Whether credentials that count from `received` to `deadline` can still be served.
    pub fn can_serve(&self, now: BootInstant, received: BootInstant, deadline: BootInstant) -> bool {
        now < schedule::serve_until(received, deadline, self.limits.serve_margin)
    }

    /// The call in flight.
    pub fn in_flight(&self) -> Option<Call> {
        self.in_flight
    }

    /// When [`Event::Wake`] is wanted next.
    pub fn next_wake(&self) -> Option<BootInstant> {
        let drop_at = self.credentials.map(|cached| cached.serve_until);
        let (due, until, wipe_at, token_end) = match self.phase {
            Phase::Ended => return None,
            Phase::Parked { .. } => (None, None, None, None),
            Phase::Live | Phase::SigningOut { .. } => (
                self.due.filter(|_| self.round.is_none()),
                match self.phase {
                    Phase::SigningOut { until } => Some(until),
                    Phase::Live | Phase::Parked { .. } | Phase::Ended => None,
                },
                self.refused_since.map(|since| since + self.limits.refused_wipe_after),
                self.id_token.filter(|_| !self.can_refresh).map(|token| token.deadline),
            ),
        };
        [drop_at, due, until, wipe_at, token_end].into_iter().flatten().min()
    }

    /// Somebody wants something.
    pub fn ask(&mut self, now: BootInstant, want: Want) -> (Reply, Vec<Effect>) {
        let mut effects = Vec::new();
        let reply = self.answer(now, want, &mut effects);
        (reply, effects)
    }

    /// Whether somebody who was told to wait for `round` has an answer now.
    pub fn verdict(&self, now: BootInstant, want: Want, round: u64) -> Option<Result<(), Refusal>> {
        if let Err(refusal) = self.admit(want) {
            return Some(Err(refusal));
        }
        match want {
            Want::Credentials | Want::UploadCredentials => {
                if self.servable_until(now).is_some() {
                    return Some(Ok(()));
                }
            }
            Want::Tokens => {
                let refreshing = self.round.is_some();
                if self.id_token.is_some_and(|token| now < if refreshing { token.fresh_until } else { token.deadline })
                {
                    return Some(Ok(()));
                }
            }
            Want::Refresh | Want::DeniedRefresh => {
                if self.round.is_none() && self.round_number >= round && self.failure.is_none() {
                    return Some(Ok(()));
                }
                if self.round.is_some() && self.round_number > round {
                    return Some(Ok(()));
                }
            }
        }
        if self.round.is_some() { None } else { Some(Err(self.refusal(now))) }
    }

    /// Something happened.
    pub fn on(&mut self, now: BootInstant, event: Event) -> Vec<Effect> {
        let mut effects = Vec::new();
        if self.phase == Phase::Ended {
            return effects;
        }
        match event {
            Event::Wake => {}
            Event::Done(result) => {
                if let Some(call) = self.in_flight.take() {
                    self.last_attempt = Some(now);
                    match result {
                        Ok(success) => self.succeeded(now, success, &mut effects),
                        Err(failure) => {
                            if (call, failure) == (Call::Tokens, Failure::ReplyLost) && self.may_rotate {
                                self.reply_lost = Some(now);
                            }
                            self.failed(now, failure, &mut effects);
                        }
                    }
                }
            }
            Event::SignedIn { id_token_deadline, can_refresh } => {
                self.signed_in(now, id_token_deadline, can_refresh, &mut effects);
            }
            Event::GuestSignedIn => {
                self.identity_known = true;
                self.begin_anew(now, Round { credentials_todo: true, forced: true, ..Round::default() }, &mut effects);
            }
            Event::SignOut { drain, everywhere } => self.sign_out(now, drain, everywhere, &mut effects),
            Event::UploadsDone => {
                if matches!(self.phase, Phase::SigningOut { .. }) {
                    self.end(&mut effects);
                }
            }
            Event::LinkReturned => {
                if self.failure == Some(Failure::Transient) && self.round.is_none() {
                    let spread = now + self.limits.boot_spread.mul_f64(self.jitter.unit());
                    self.due = Some(self.due.map_or(spread, |due| due.min(spread)));
                    self.hold = None;
                }
            }
        }
        self.pass_time(now, &mut effects);
        effects
    }

    /// What the clock alone brings about.
    fn pass_time(&mut self, now: BootInstant, effects: &mut Vec<Effect>) {
        if self.credentials.is_some_and(|cached| now >= cached.serve_until) {
            self.credentials = None;
            effects.push(Effect::DropCredentials);
        }
        if !self.can_refresh && self.id_token.is_some_and(|token| now >= token.deadline) {
            self.id_token = None;
        }
        if !self.login_usable(now) {
            self.due = None;
        }
        if matches!(self.phase, Phase::SigningOut { until } if now >= until) {
            self.end(effects);
        }
        let wipe = self.refused_since.is_some_and(|since| now >= since + self.limits.refused_wipe_after);
        if wipe && matches!(self.phase, Phase::Live | Phase::SigningOut { .. }) {
            self.park(false, effects);
        }
        let running = matches!(self.phase, Phase::Live | Phase::SigningOut { .. });
        if running && self.round.is_none() && self.due.is_some_and(|due| now >= due) {
            // A refused refresh token is what the hourly attempt is about.
            let tokens_todo = self.refused_since.is_some();
            self.start_round(now, Round { tokens_todo, credentials_todo: true, ..Round::default() }, effects);
        }
    }

    fn answer(&mut self, now: BootInstant, want: Want, effects: &mut Vec<Effect>) -> Reply {
        if let Err(refusal) = self.admit(want) {
            return Reply::Now(Err(refusal));
        }
        let satisfied = match want {
            Want::Credentials | Want::UploadCredentials => self.servable_until(now).is_some(),
            Want::Tokens => self.id_token.is_some_and(|token| now < token.fresh_until),
            Want::Refresh | Want::DeniedRefresh => false,
        };
        if satisfied {
            return Reply::Now(Ok(()));
        }
        let forced = matches!(want, Want::Refresh | Want::DeniedRefresh);
        if want == Want::DeniedRefresh {
            let joins = self.round.is_some_and(|round| round.forced) || self.again;
            if joins {
                return Reply::Wait(self.round_number + u64::from(self.again));
            }
            if now < self.denied_next {
                return Reply::TooEarly;
            }
            if let Some(refusal) = self.held_back(now, true).filter(|_| self.round.is_none()) {
                return Reply::Now(Err(refusal));
            }
            self.denied_next = now + self.denied_interval;
            self.denied_interval = (self.denied_interval * 2).min(self.limits.denied_max);
        }
        if let Some(round) = &mut self.round {
            if forced {
                self.again = true;
                return Reply::Wait(self.round_number + 1);
            }
            match want {
                Want::Tokens => round.tokens_todo |= !round.tokens_done,
                _ => round.credentials_todo = true,
            }
            return Reply::Wait(self.round_number);
        }
        if let Some(refusal) = self.held_back(now, forced) {
            let valid = want == Want::Tokens && self.id_token.is_some_and(|token| now < token.deadline);
            return Reply::Now(if valid { Ok(()) } else { Err(refusal) });
        }
        let round = Round {
            tokens_todo: forced || want == Want::Tokens || self.refused_since.is_some(),
            credentials_todo: want != Want::Tokens,
            forced,
            ..Round::default()
        };
        self.start_round(now, round, effects);
        match self.verdict(now, want, self.round_number) {
            Some(answer) => Reply::Now(answer),
            None => Reply::Wait(self.round_number),
        }
    }

    /// Whether this want is served in this phase at all.
    fn admit(&self, want: Want) -> Result<(), Refusal> {
        match (self.phase, want) {
            (Phase::Live, Want::Tokens) if self.guest => Err(Refusal::Guest),
            (Phase::Live, _) | (Phase::SigningOut { .. }, Want::UploadCredentials | Want::DeniedRefresh) => Ok(()),
            (Phase::Parked { other_user: true }, _) => Err(Refusal::OtherUser),
            (Phase::Parked { other_user: false }, _) => Err(Refusal::NeedsSignIn),
            (Phase::SigningOut { .. } | Phase::Ended, _) => Err(Refusal::SignedOut),
        }
    }

    /// Whether a back-off forbids a new round now.
    fn held_back(&self, now: BootInstant, forced: bool) -> Option<Refusal> {
        let failure = self.failure?;
        let until = if forced && failure != Failure::Throttled {
            self.last_attempt? + BY_HAND_AFTER_FAILURE
        } else {
            self.hold?
        };
        (now < until).then(|| if forced { unavailable(until, now) } else { self.refusal(now) })
    }

    /// Why there is nothing to serve, when no round is open.
    fn refusal(&self, now: BootInstant) -> Refusal {
        match self.phase {
            Phase::Parked { other_user: true } => return Refusal::OtherUser,
            Phase::Parked { other_user: false } => return Refusal::NeedsSignIn,
            Phase::Ended => return Refusal::SignedOut,
            Phase::Live | Phase::SigningOut { .. } => {}
        }
        match self.failure {
            Some(Failure::TokenRefused) => Refusal::NeedsSignIn,
            _ if !self.login_usable(now) => Refusal::NeedsSignIn,
            Some(Failure::Configuration) => Refusal::Configuration,
            _ => unavailable(self.due.unwrap_or(now), now),
        }
    }

    fn login_usable(&self, now: BootInstant) -> bool {
        self.can_refresh
            || (self.guest && self.identity_known)
            || self.id_token.is_some_and(|token| now < token.deadline)
    }

    fn signed_in(&mut self, now: BootInstant, deadline: BootInstant, can_refresh: bool, effects: &mut Vec<Effect>) {
        let fresh_until = schedule::id_token_fresh_until(now, deadline, self.limits.id_token_ahead);
        self.id_token = Some(IdToken { deadline, fresh_until });
        self.can_refresh = can_refresh;
        let round = Round { tokens_done: true, credentials_todo: true, forced: true, ..Round::default() };
        self.begin_anew(now, round, effects);
    }

    /// A sign-in ends whatever was under way or wrong.
    fn begin_anew(&mut self, now: BootInstant, round: Round, effects: &mut Vec<Effect>) {
        if self.in_flight.take().is_some() {
            effects.push(Effect::Abort);
        }
        self.phase = Phase::Live;
        if self.round.take().is_some() {
            // The new round goes on in the aborted one's place, for those who wait for its number.
            self.round_number -= 1;
        }
        self.failure = None;
        self.failures = 0;
        self.hold = None;
        self.refused_since = None;
        self.may_rotate = true;
        self.reply_lost = None;
        self.denied_interval = self.limits.denied_initial;
        self.denied_next = now;
        self.start_round(now, round, effects);
    }

    fn sign_out(&mut self, now: BootInstant, drain: bool, everywhere: bool, effects: &mut Vec<Effect>) {
        let usable = self.servable_until(now).is_some() || self.login_usable(now);
        if !drain || !usable || matches!(self.phase, Phase::Parked { .. }) {
            self.end(effects);
            return;
        }
        if everywhere {
            // The pool ends the refresh token at once; what was given out already lasts for its time.
            self.can_refresh = false;
            if self.in_flight == Some(Call::Tokens) {
                self.in_flight = None;
                self.round = None;
                effects.push(Effect::Abort);
            }
        }
        if matches!(self.phase, Phase::Live) {
            self.phase = Phase::SigningOut { until: now + self.limits.drain_max };
            effects.push(Effect::Persist);
        }
    }

    fn park(&mut self, other_user: bool, effects: &mut Vec<Effect>) {
        self.drop_everything(effects);
        if matches!(self.phase, Phase::SigningOut { .. }) {
            self.end(effects);
            return;
        }
        self.phase = Phase::Parked { other_user };
        effects.push(Effect::WipeTokens);
    }

    fn end(&mut self, effects: &mut Vec<Effect>) {
        self.drop_everything(effects);
        self.phase = Phase::Ended;
        effects.push(Effect::End);
    }

    fn drop_everything(&mut self, effects: &mut Vec<Effect>) {
        if self.in_flight.take().is_some() {
            effects.push(Effect::Abort);
        }
        if self.credentials.take().is_some() {
            effects.push(Effect::DropCredentials);
        }
        self.round = None;
        self.again = false;
        self.id_token = None;
        self.can_refresh = false;
        self.reply_lost = None;
        self.refused_since = None;
        self.due = None;
    }
}

fn unavailable(until: BootInstant, now: BootInstant) -> Refusal {
    Refusal::Unavailable { retry_after: until.saturating_since(now).max(Duration::from_millis(100)) }
}
