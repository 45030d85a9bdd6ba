//! Federated sign-ins under way, and the trait of the page that they go by. Owns the attempts: `state`, nonce, PKCE
//! verifier, and where each stands; promises that an attempt belongs to the uid that began it, ends in time, and is good
//! for one sign-in; must never put a verifier or a code where it could be shown. Does no I/O.
//!
//! The protocol is OAuth 2.0's authorisation code flow for native apps (RFC 8252) with PKCE (RFC 7636) and OpenID
//! Connect's `nonce`.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rand::RngExt as _;
use secrecy::{ExposeSecret as _, SecretString};
use sha2::{Digest as _, Sha256};
use tokio::sync::watch;

use super::redirect::{Returned, Verdict};
use super::{IdClaims, TokenError};
use crate::clock::BootInstant;

/// 256 random bits for each secret: 43 characters of base64url, as long as a PKCE verifier has to be.
const SECRET_BYTES: usize = 32;
/// How far `auth_time` may lie before the attempt: rounding, and an issuer's machines that differ.
const FRESH_LEEWAY: Duration = Duration::from_secs(60);

/// A hosted sign-in page.
#[async_trait::async_trait]
pub trait Federation: Send + Sync + std::fmt::Debug + 'static {
    /// The redirect URI that is meant: the first one where none is named.
    ///
    /// # Errors
    /// `RedirectNotAllowed`.
    fn redirect_uri(&self, wanted: Option<&str>) -> Result<String, FederationError>;
    /// Whether the daemon itself waits for the browser there.
    fn listens_at(&self, redirect_uri: &str) -> bool;
    /// The page's address for one attempt.
    ///
    /// # Errors
    /// `ProviderNotFound` where the configuration names providers and this is none of them.
    fn authorize_url(&self, asked: &Asked<'_>) -> Result<String, FederationError>;
    /// Ends the page's own cookie in the browser that opens it; `None` where the configuration names no place to go to
    /// afterwards.
    fn sign_out_url(&self) -> Option<String>;
    /// The tokens for a code, not verified yet.
    ///
    /// # Errors
    /// What went wrong, and whether the code may have been used.
    async fn exchange(
        &self,
        code: &SecretString,
        verifier: &SecretString,
        redirect_uri: &str,
    ) -> Result<CodeTokens, ExchangeError>;
}

/// What the page is asked.
#[derive(Debug, Clone, Copy)]
pub struct Asked<'a> {
    /// One of the client's callback URLs.
    pub redirect_uri: &'a str,
    /// Go there at once; else the page asks.
    pub provider: Option<&'a str>,
    /// Comes back with the browser.
    pub state: &'a str,
    /// Comes back in the ID token.
    pub nonce: &'a str,
    /// PKCE, `S256`.
    pub code_challenge: &'a str,
    /// Whoever signed in with this browser before has to prove it again.
    pub is_fresh: bool,
}

/// What the token endpoint gave.
#[derive(Debug, Clone)]
pub struct CodeTokens {
    /// The ID token.
    pub id_token: SecretString,
    /// The access token.
    pub access_token: Option<SecretString>,
    /// The refresh token.
    pub refresh_token: Option<SecretString>,
}

/// Why a code gave no tokens.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ExchangeError {
    /// `invalid_grant`.
    #[error("the code was refused")]
    CodeRefused,
    /// Certainly nothing came of the code: the same one can be tried again.
    #[error(transparent)]
    NotSent(TokenError),
    /// The code may be spent.
    #[error(transparent)]
    Failed(TokenError),
}

/// Why a federated sign-in failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FederationError {
    /// The identity has no page.
    #[error("identity {0:?} has no hosted sign-in page: add [identity.hosted_ui] to the configuration")]
    NotConfigured(String),
    /// No such redirect URI.
    #[error("{0:?} is not one of identity.hosted_ui.redirect_uris: {1}")]
    RedirectNotAllowed(String, String),
    /// No such provider.
    #[error("{0:?} is not one of identity.hosted_ui.providers: {1}")]
    ProviderNotFound(String, String),
    /// As many attempts as may be.
    #[error("{0} federated sign-ins are under way, as many as max_federated_sign_ins allows: try again later")]
    TooMany(usize),
    /// The redirect's port is somebody else's.
    #[error(
        "cannot listen at {address} for the browser's return: {why}; end what uses the port, or use another redirect URI"
    )]
    ListenerBusy {
        /// Where.
        address: String,
        /// The system's words.
        why: String,
    },
    /// What was handed in is no answer of a sign-in page.
    #[error("redirect_url {0}")]
    MalformedRedirect(&'static str),
    /// Nobody, or another uid, began it; or it was forgotten.
    #[error("this state is of no sign-in that this uid began: begin again")]
    StateUnknown,
    /// Too late.
    #[error("this sign-in was begun too long ago: begin again")]
    StateExpired,
    /// This uid began others since.
    #[error("this sign-in has made way for newer ones of this uid: begin again")]
    StateReplaced,
    /// Once only.
    #[error("this sign-in was finished already: begin again")]
    StateUsed,
    /// Nobody listens there.
    #[error("the daemon does not listen at {0}: pass the redirect_url that the browser was sent to")]
    NotListening(String),
    /// Not where the page was told to go.
    #[error("the redirect URL is not at {0}, where this sign-in was to end: it is from elsewhere")]
    RedirectMismatch(String),
    /// The person said no.
    #[error("the sign-in was cancelled at the provider{0}")]
    Cancelled(String),
    /// The page or the provider said no.
    #[error("the sign-in page answered {error:?}{description}")]
    Refused {
        /// OAuth's code.
        error: String,
        /// Its words.
        description: String,
    },
    /// The page is in trouble.
    #[error("the sign-in page is in trouble ({0}): begin again later")]
    PageTrouble(String),
    /// The pool has linked the provider's user just now, and AWS ends that sign-in.
    #[error("the provider's account was linked to the user just now: open the same authorize_url once more")]
    LinkedNow,
    /// `invalid_grant`.
    #[error("the sign-in page does not take the code: it was used, is too old, or is another sign-in's; begin again")]
    CodeRefused,
    /// Another sign-in's token.
    #[error("the ID token is not of this sign-in (another nonce): begin again")]
    NonceMismatch,
    /// The browser's cookie answered, not a person.
    #[error(
        "the page took whoever had signed in with this browser before: open the sign-out URL in it and begin again, or \
         allow that by reuse_browser_session"
    )]
    NotFresh,
}

/// How many attempts there may be, and for how long.
#[derive(Debug, Clone, Copy)]
pub struct AttemptLimits {
    /// In all.
    pub total: usize,
    /// Of one uid: its oldest one makes way.
    pub per_uid: usize,
    /// From the beginning to the browser's return.
    pub lifetime: Duration,
}

/// What an attempt is begun with.
#[derive(Debug, Clone)]
pub struct Begin {
    /// Whose it is.
    pub uid: u32,
    /// The identity's name.
    pub identity: String,
    /// Where the browser comes back to.
    pub redirect_uri: String,
    /// The daemon listens there.
    pub listens: bool,
    /// The person has to prove who they are.
    pub is_fresh: bool,
}

/// What belongs into the page's address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Begun {
    /// Names the attempt.
    pub state: String,
    /// For the ID token.
    pub nonce: String,
    /// PKCE, `S256`.
    pub code_challenge: String,
}

/// What is taken out of an attempt to finish it.
#[derive(Debug, Clone)]
pub struct Finish {
    /// The identity's name.
    pub identity: String,
    /// Where the browser came back to.
    pub redirect_uri: String,
    /// PKCE.
    pub verifier: SecretString,
    nonce: String,
    is_fresh: bool,
    began: BootInstant,
}

/// Where an attempt stands; for whoever waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// The browser is not back.
    Away,
    /// It is.
    Back,
    /// A session came of it.
    SignedIn,
    /// Nothing came of it.
    Failed,
}

/// All attempts.
pub struct Attempts {
    limits: AttemptLimits,
    /// Moves whenever one ends.
    ends: watch::Sender<u64>,
    by_state: Mutex<HashMap<String, Attempt>>,
}

struct Attempt {
    uid: u32,
    identity: String,
    redirect_uri: String,
    listens: bool,
    is_fresh: bool,
    nonce: String,
    verifier: SecretString,
    authorize_url: String,
    began: BootInstant,
    phase: Phase,
    /// The page may be opened once more after "Already found an entry".
    was_sent_again: bool,
    progress: watch::Sender<Progress>,
}

enum Phase {
    Away,
    /// What the browser brought.
    Back(Verdict),
    /// Being finished, or finished.
    Used,
    Replaced,
}

/// What is to be shown to the browser that came back to the daemon's own listener.
#[derive(Debug)]
pub enum Arrival {
    /// Its sign-in ends soon: await the progress.
    Taken(watch::Receiver<Progress>),
    /// It has to go there once more.
    Again(String),
    /// It brought nothing that anybody waits for.
    Nobody,
}

impl Attempts {
    /// None yet.
    pub fn new(limits: AttemptLimits) -> Self {
        Self { limits, ends: watch::channel(0).0, by_state: Mutex::default() }
    }

    /// Begins one; `address` makes the page's address of it. Answers the state, the address, and when it ends.
    ///
    /// # Errors
    /// `TooMany`; what `address` says.
    pub fn begin(
        &self,
        begin: Begin,
        now: BootInstant,
        address: impl FnOnce(&Begun) -> Result<String, FederationError>,
    ) -> Result<(String, String), FederationError> {
        let verifier = SecretString::from(random());
        let challenge = URL_SAFE_NO_PAD.encode(Sha256::digest(verifier.expose_secret().as_bytes()));
        let begun = Begun { state: random(), nonce: random(), code_challenge: challenge };
        let authorize_url = address(&begun)?;
        let mut attempts = self.lock();
        let live = |attempt: &Attempt| attempt.is_live(now, self.limits.lifetime);
        let own = attempts.values_mut().filter(|attempt| attempt.uid == begin.uid && live(attempt));
        let mut own: Vec<&mut Attempt> = own.collect();
        if own.len() >= self.limits.per_uid {
            // Whoever walked away from a kiosk must not stand in the next person's way.
            own.sort_by_key(|attempt| attempt.began);
            own[0].end(Phase::Replaced, Progress::Failed);
            self.has_ended();
        }
        self.tidy(&mut attempts, now);
        let all = attempts.values().filter(|attempt| live(attempt)).count();
        if all >= self.limits.total {
            return Err(FederationError::TooMany(all));
        }
        let attempt = Attempt {
            uid: begin.uid,
            identity: begin.identity,
            redirect_uri: begin.redirect_uri,
            listens: begin.listens,
            is_fresh: begin.is_fresh,
            nonce: begun.nonce,
            verifier,
            authorize_url: authorize_url.clone(),
            began: now,
            phase: Phase::Away,
            was_sent_again: false,
            progress: watch::channel(Progress::Away).0,
        };
        attempts.insert(begun.state.clone(), attempt);
        Ok((begun.state, authorize_url))
    }

    /// Takes back what could not begin after all.
    pub fn forget(&self, state: &str) {
        self.lock().remove(state);
        self.has_ended();
    }

    /// Moves whenever one ends before its time.
    pub fn ends(&self) -> watch::Receiver<u64> {
        self.ends.subscribe()
    }

    /// The browser came back, and the app caught it: takes the attempt for finishing.
    ///
    /// # Errors
    /// Every way in which it does not belong to an attempt of this uid, and what the page said instead of a code.
    pub fn take_returned(
        &self,
        uid: u32,
        returned: &Returned,
        now: BootInstant,
    ) -> Result<(Finish, SecretString), FederationError> {
        let mut attempts = self.lock();
        let attempt = self.find(&mut attempts, uid, &returned.state, now)?;
        if !returned.is_at(&attempt.redirect_uri) {
            return Err(FederationError::RedirectMismatch(attempt.redirect_uri.clone()));
        }
        if returned.verdict.is_linked_now() && attempt.may_go_again() {
            return Err(FederationError::LinkedNow);
        }
        attempt.take(returned.verdict.clone())
    }

    /// The browser came back to the daemon's own listener at `address` (scheme and authority).
    pub fn arrive(&self, returned: &Returned, now: BootInstant) -> Arrival {
        let mut attempts = self.lock();
        let Some(attempt) = attempts.get_mut(&returned.state) else { return Arrival::Nobody };
        let is_expected = attempt.listens
            && matches!(attempt.phase, Phase::Away)
            && attempt.is_live(now, self.limits.lifetime)
            && returned.is_at(&attempt.redirect_uri);
        if !is_expected {
            return Arrival::Nobody;
        }
        if returned.verdict.is_linked_now() && attempt.may_go_again() {
            return Arrival::Again(attempt.authorize_url.clone());
        }
        attempt.phase = Phase::Back(returned.verdict.clone());
        attempt.progress.send_replace(Progress::Back);
        Arrival::Taken(attempt.progress.subscribe())
    }

    /// Follows an attempt whose redirect the daemon listens for, and how long it lasts still.
    ///
    /// # Errors
    /// As [`Attempts::take_arrived`], and `NotListening`.
    pub fn follow(
        &self,
        uid: u32,
        state: &str,
        now: BootInstant,
    ) -> Result<(watch::Receiver<Progress>, Duration), FederationError> {
        let mut attempts = self.lock();
        let attempt = self.find(&mut attempts, uid, state, now)?;
        if !attempt.listens {
            return Err(FederationError::NotListening(attempt.redirect_uri.clone()));
        }
        let left = self.limits.lifetime.saturating_sub(now.saturating_since(attempt.began));
        Ok((attempt.progress.subscribe(), left))
    }

    /// Takes an attempt whose browser is back for finishing; `None` where it is not back yet.
    ///
    /// # Errors
    /// `StateUnknown`, `StateExpired`, `StateUsed`, `StateReplaced`; what the page said instead of a code.
    pub fn take_arrived(
        &self,
        uid: u32,
        state: &str,
        now: BootInstant,
    ) -> Result<Option<(Finish, SecretString)>, FederationError> {
        let mut attempts = self.lock();
        let attempt = self.find(&mut attempts, uid, state, now)?;
        let Phase::Back(verdict) = &attempt.phase else { return Ok(None) };
        let verdict = verdict.clone();
        attempt.take(verdict).map(Some)
    }

    /// Nothing was sent: the same answer of the page may be tried again.
    pub fn put_back(&self, state: &str, code: SecretString) {
        if let Some(attempt) = self.lock().get_mut(state) {
            attempt.phase = if attempt.listens { Phase::Back(Verdict::Code(code)) } else { Phase::Away };
        }
    }

    /// It is over.
    pub fn finished(&self, state: &str, signed_in: bool) {
        if let Some(attempt) = self.lock().get_mut(state) {
            let progress = if signed_in { Progress::SignedIn } else { Progress::Failed };
            attempt.end(Phase::Used, progress);
        }
        self.has_ended();
    }

    fn has_ended(&self) {
        self.ends.send_modify(|count| *count = count.wrapping_add(1));
    }

    /// When the last attempt ends whose redirect lies at this origin; `None` where none is expected there any more.
    pub fn expected_until(&self, is_there: impl Fn(&str) -> bool, now: BootInstant) -> Option<Duration> {
        let attempts = self.lock();
        let expected = attempts.values().filter(|attempt| {
            attempt.listens && attempt.is_live(now, self.limits.lifetime) && is_there(&attempt.redirect_uri)
        });
        let left = |attempt: &Attempt| self.limits.lifetime.saturating_sub(now.saturating_since(attempt.began));
        expected.map(left).max()
    }

    fn find<'m>(
        &self,
        attempts: &'m mut HashMap<String, Attempt>,
        uid: u32,
        state: &str,
        now: BootInstant,
    ) -> Result<&'m mut Attempt, FederationError> {
        let attempt = attempts.get_mut(state).filter(|attempt| attempt.uid == uid);
        let attempt = attempt.ok_or(FederationError::StateUnknown)?;
        match attempt.phase {
            Phase::Used => Err(FederationError::StateUsed),
            Phase::Replaced => Err(FederationError::StateReplaced),
            Phase::Away | Phase::Back(_) if !attempt.is_live(now, self.limits.lifetime) => {
                attempt.progress.send_replace(Progress::Failed);
                Err(FederationError::StateExpired)
            }
            Phase::Away | Phase::Back(_) => Ok(attempt),
        }
    }

    /// What is over is remembered for as long again, so that its user hears why; but never more than there may be.
    fn tidy(&self, attempts: &mut HashMap<String, Attempt>, now: BootInstant) {
        let kept_for = self.limits.lifetime.saturating_mul(2);
        attempts.retain(|_, attempt| now.saturating_since(attempt.began) < kept_for);
        let over = |attempt: &Attempt| !attempt.is_live(now, self.limits.lifetime);
        let mut ended: Vec<(BootInstant, String)> = attempts
            .iter()
            .filter(|(_, attempt)| over(attempt))
            .map(|(state, attempt)| (attempt.began, state.clone()))
            .collect();
        ended.sort();
        let too_many = ended.len().saturating_sub(self.limits.total);
        for (_, state) in ended.into_iter().take(too_many) {
            attempts.remove(&state);
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Attempt>> {
        self.by_state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for Attempts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Attempts").field("count", &self.lock().len()).finish_non_exhaustive()
    }
}

impl Attempt {
    fn is_live(&self, now: BootInstant, lifetime: Duration) -> bool {
        let is_open = matches!(self.phase, Phase::Away | Phase::Back(_));
        is_open && now.saturating_since(self.began) < lifetime
    }

    /// True once.
    fn may_go_again(&mut self) -> bool {
        !std::mem::replace(&mut self.was_sent_again, true)
    }

    fn take(&mut self, verdict: Verdict) -> Result<(Finish, SecretString), FederationError> {
        match verdict {
            Verdict::Code(code) => {
                self.phase = Phase::Used;
                let finish = Finish {
                    identity: self.identity.clone(),
                    redirect_uri: self.redirect_uri.clone(),
                    verifier: self.verifier.clone(),
                    nonce: self.nonce.clone(),
                    is_fresh: self.is_fresh,
                    began: self.began,
                };
                Ok((finish, code))
            }
            Verdict::Error(said) => {
                self.end(Phase::Used, Progress::Failed);
                Err(said.into_error())
            }
        }
    }

    fn end(&mut self, phase: Phase, progress: Progress) {
        self.phase = phase;
        self.verifier = SecretString::default();
        self.progress.send_replace(progress);
    }
}

impl Finish {
    /// Whether verified claims are those of this attempt.
    ///
    /// # Errors
    /// `NonceMismatch`, `NotFresh`.
    pub fn check(&self, claims: &IdClaims, now: BootInstant) -> Result<(), FederationError> {
        let claims = &claims.sign_in;
        let is_ours = claims.nonce.as_deref().is_some_and(|nonce| {
            aws_lc_rs::constant_time::verify_slices_are_equal(nonce.as_bytes(), self.nonce.as_bytes()).is_ok()
        });
        if !is_ours {
            return Err(FederationError::NonceMismatch);
        }
        // The classic pages of Cognito do not know `prompt`: only the token says whether the person was asked. Both
        // times are the issuer's, so this device's clock does not matter.
        let since_proof = |issued: SystemTime, proven: SystemTime| issued.duration_since(proven).unwrap_or_default();
        let age = claims.issue_time.zip(claims.auth_time).map(|(issued, proven)| since_proof(issued, proven));
        let most = now.saturating_since(self.began) + FRESH_LEEWAY;
        match age {
            Some(age) if self.is_fresh && age > most => Err(FederationError::NotFresh),
            _ => Ok(()),
        }
    }
}

fn random() -> String {
    URL_SAFE_NO_PAD.encode(rand::rng().random::<[u8; SECRET_BYTES]>())
}

#[cfg(test)]
mod tests;
