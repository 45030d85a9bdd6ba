//! A round: the calls that lead to fresh tokens and credentials, one after the other, and what their results mean.

use super::super::event::{Call, Effect, Failure, Success};
use super::super::schedule;
use super::{Cached, IdToken, Machine};
use crate::clock::BootInstant;

/// A sequence of calls towards fresh tokens and credentials.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Round {
    pub(super) tokens_todo: bool,
    pub(super) tokens_done: bool,
    pub(super) credentials_todo: bool,
    pub(super) recheck_identity: bool,
    /// Started by a refresh: the gate after a denial joins it.
    pub(super) forced: bool,
    /// The ID token was refreshed because the login was refused; the second refusal is final.
    pub(super) login_refused: bool,
    /// The identity id was asked for again; the second conflict is final.
    pub(super) identity_moved: bool,
}

enum Next {
    Call(Call),
    Finished,
    /// There is no way to go on without the user.
    NeedsSignIn,
}

impl Machine {
    pub(super) fn start_round(&mut self, now: BootInstant, mut round: Round, effects: &mut Vec<Effect>) {
        debug_assert!(self.in_flight.is_none() && self.round.is_none(), "one round and one call at a time");
        self.round_number += 1;
        // However fresh the ID token is: the pool may be counting down on the refresh token.
        round.tokens_todo |= self.is_in_rotation_grace(now);
        self.round = Some(round);
        self.due = None;
        self.proceed(now, effects);
    }

    /// Takes the open round to its next call, or ends it.
    fn proceed(&mut self, now: BootInstant, effects: &mut Vec<Effect>) {
        match self.next_call(now) {
            Next::Call(call) => {
                self.in_flight = Some(call);
                effects.push(Effect::Start(call));
            }
            Next::NeedsSignIn => {
                self.round = None;
                self.again = false;
                self.failure = self.failure.or(Some(Failure::TokenRefused));
                self.due = None;
            }
            Next::Finished => {
                self.round = None;
                self.failure = None;
                self.failures = 0;
                self.hold = None;
                self.due = Some(match self.credentials {
                    Some(cached) => cached.refresh_at,
                    None => now + self.limits.boot_spread.mul_f64(self.jitter.unit()),
                });
                if std::mem::take(&mut self.again) {
                    let round = Round { tokens_todo: true, credentials_todo: true, forced: true, ..Round::default() };
                    self.start_round(now, round, effects);
                }
            }
        }
    }

    fn next_call(&mut self, now: BootInstant) -> Next {
        let Some(round) = &mut self.round else { return Next::Finished };
        if self.guest {
            return match (self.identity_known, round.credentials_todo) {
                (false, _) => Next::NeedsSignIn,
                (true, true) => Next::Call(Call::Credentials),
                (true, false) => Next::Finished,
            };
        }
        let valid = self.id_token.is_some_and(|token| now < token.deadline);
        let fresh = self.id_token.is_some_and(|token| now < token.fresh_until);
        if (round.tokens_todo || !fresh) && !round.tokens_done && self.can_refresh {
            return Next::Call(Call::Tokens);
        }
        if !round.credentials_todo && (valid || round.tokens_done) {
            return Next::Finished;
        }
        if !valid {
            // Also where it has ended since this round got it: the limit may let a round wait.
            return if self.can_refresh { Next::Call(Call::Tokens) } else { Next::NeedsSignIn };
        }
        if !self.identity_known || round.recheck_identity {
            return Next::Call(Call::IdentityId);
        }
        Next::Call(Call::Credentials)
    }

    pub(super) fn succeeded(&mut self, now: BootInstant, success: Success, effects: &mut Vec<Effect>) {
        let ahead = self.limits.id_token_ahead;
        if let Some(round) = &mut self.round {
            match success {
                Success::Tokens { id_token_deadline, groups_changed, rotated } => {
                    self.may_rotate = rotated;
                    self.reply_lost = None;
                    if now >= id_token_deadline {
                        self.failed(now, Failure::Transient, effects);
                        return;
                    }
                    let fresh_until = schedule::id_token_fresh_until(now, id_token_deadline, ahead);
                    self.id_token = Some(IdToken { deadline: id_token_deadline, fresh_until });
                    round.tokens_todo = false;
                    round.tokens_done = true;
                    if self.refused_since.take().is_some() {
                        self.failure = None;
                        effects.push(Effect::Persist);
                    }
                    // Another group is another role.
                    round.credentials_todo |= groups_changed;
                    if groups_changed {
                        self.denied_interval = self.limits.denied_initial;
                        self.denied_next = now;
                    }
                }
                Success::IdentityId => {
                    self.identity_known = true;
                    round.recheck_identity = false;
                }
                Success::Credentials { received, deadline } => {
                    round.credentials_todo = false;
                    if !self.can_serve(now, received, deadline) {
                        self.failed(now, Failure::Transient, effects);
                        return;
                    }
                    let serve_until = schedule::serve_until(received, deadline, self.limits.serve_margin);
                    let refresh_at = schedule::refresh_at(received, deadline, self.jitter.unit());
                    self.credentials = Some(Cached { deadline, serve_until, refresh_at });
                }
            }
        }
        self.proceed(now, effects);
    }

    pub(super) fn failed(&mut self, now: BootInstant, failure: Failure, effects: &mut Vec<Effect>) {
        let Some(round) = &mut self.round else { return };
        match failure {
            Failure::LoginRefused if self.can_refresh && !round.tokens_done && !round.login_refused => {
                round.login_refused = true;
                round.tokens_todo = true;
                self.proceed(now, effects);
                return;
            }
            // A guest that asks again becomes another guest.
            Failure::IdentityMoved if !self.guest && !round.identity_moved => {
                round.identity_moved = true;
                round.recheck_identity = true;
                self.proceed(now, effects);
                return;
            }
            _ => {}
        }
        self.round = None;
        self.again = false;
        self.failures = self.failures.saturating_add(1);
        let unit = self.jitter.unit();
        let (kept, wait) = match failure {
            Failure::Transient | Failure::ReplyLost => {
                let left = self.credentials.map(|cached| cached.deadline.saturating_since(now));
                let urgent = left.is_some_and(|left| left < schedule::URGENT_BELOW);
                let cap = if urgent { self.limits.backoff_urgent_max } else { self.limits.backoff_max };
                let in_grace = self.is_in_rotation_grace(now);
                let cap = if in_grace { cap.min(self.limits.rotation_retry_max) } else { cap };
                (Failure::Transient, schedule::backoff(self.failures, self.limits.backoff_initial, cap, unit))
            }
            Failure::Throttled => (failure, schedule::spread_wait(self.limits.backoff_max, unit)),
            Failure::TokenRefused => {
                // Every time: for how long it has been refused must survive a restart.
                self.refused_since.get_or_insert(now);
                effects.push(Effect::Persist);
                (failure, schedule::spread_wait(self.limits.refused_retry, unit))
            }
            Failure::LoginRefused | Failure::IdentityMoved | Failure::Configuration => {
                (Failure::Configuration, schedule::spread_wait(self.limits.configuration_retry, unit))
            }
            Failure::Terminal => {
                self.park(false, effects);
                return;
            }
            Failure::OtherUser => {
                self.park(true, effects);
                return;
            }
        };
        self.failure = Some(kept);
        self.due = Some(now + wait);
        self.hold = self.due;
    }
}
