//! The world around a device: a user pool and an identity pool with a clock of their own, weather between them and the
//! device, and a record of every call. It judges what it sees by its own time and never asks the daemon.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, SystemTime};

use secrecy::{ExposeSecret as _, SecretString};
use tokio::time::Instant;

use super::super::schedule::Jitter;
use super::super::{
    Challenge, IdClaims, Identity, RefreshGrant, RememberedDevice, SignInStep, TokenError, TokenSet, TokenSource,
};
use crate::clock::{Clock, from_unix_ms};
use crate::credential::{CredentialError, CredentialErrorKind, CredentialSource, Credentials, Login};

/// When the first history begins, by the world's own clock.
const EPOCH_MS: i64 = 1_800_000_000_000;
/// What an SDK's own time limits make of a server that says nothing, and of none.
const SILENCE: Duration = Duration::from_secs(10);
const NO_CONNECTION: Duration = Duration::from_secs(3);

/// What lies between device and cloud.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Weather {
    Fine,
    /// Nothing gets through, and that is known at once.
    Unreachable,
    /// Nothing gets through, and that is known after a while.
    Silent,
    /// Requests arrive, answers do not.
    LosesReplies,
    Throttled,
    Broken,
    /// Token refreshes are refused, as a wrong client would be.
    Refusing,
    Misconfigured,
    /// The identity pool does not like the ID token.
    LoginRefused,
    /// The identity pool says that the identity id is not this login's.
    Conflicting,
    /// What comes has ended already.
    Ended,
    /// Every call has its own.
    Mixed,
}

/// What came of a call, by what it means for the next one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    Open,
    Good,
    Transient,
    Throttled,
    Refused,
    Configuration,
    Other,
}

/// One call that arrived at the limiter's other end.
#[derive(Debug, Clone)]
pub struct Call {
    pub name: &'static str,
    pub subject: String,
    pub began: Duration,
    pub ended: Duration,
    pub answer: Answer,
}

/// Credentials or an ID token, as the world knows them.
#[derive(Debug, Clone)]
pub struct Issued {
    pub subject: String,
    /// When they really end.
    pub end: Duration,
    /// When they end for a device that counts from when it asked.
    pub end_from_sent: Duration,
    pub lifetime: Duration,
}

#[derive(Debug, Default)]
pub struct User {
    current: String,
    retired: Vec<(String, Duration)>,
    serial: u64,
    pub groups: Vec<String>,
    pub deleted: bool,
    /// The pool refused the refresh token, or ended it: who is asked to sign in again has a reason.
    pub refused: bool,
    pub ended: bool,
    /// An answer was about somebody else.
    pub crossed: bool,
}

#[derive(Debug)]
pub struct State {
    pub weather: Weather,
    dice: Jitter,
    pub rotation_grace: Option<Duration>,
    pub token_lifetime: Duration,
    pub credential_lifetime: Duration,
    pub users: HashMap<String, User>,
    pub calls: Vec<Call>,
    pub issued: HashMap<String, Issued>,
    in_flight: BTreeMap<String, u32>,
    /// Since when the device runs in fine weather, for the judgement on rotations.
    fine_since: Option<Duration>,
    pub violations: Vec<String>,
    serial: u64,
}

/// The world; it outlives the device's processes.
#[derive(Debug)]
pub struct World {
    state: Mutex<State>,
    /// The present process: when it began, and its clock.
    life: Mutex<(Duration, Instant, Clock)>,
}

struct InFlight<'a>(&'a World, String, usize);

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        let now = self.0.now();
        let mut state = self.0.state();
        *state.in_flight.entry(self.1.clone()).or_default() -= 1;
        let call = &mut state.calls[self.2];
        call.ended = now;
        if call.answer == Answer::Open {
            // Nobody waited for the end.
            call.answer = Answer::Transient;
        }
    }
}

impl World {
    pub fn new(seed: u64, wall_ms: i64) -> Arc<Self> {
        let state = State {
            weather: Weather::Fine,
            dice: Jitter::new(seed),
            rotation_grace: None,
            token_lifetime: Duration::from_secs(3_600),
            credential_lifetime: Duration::from_secs(3_600),
            users: HashMap::new(),
            calls: Vec::new(),
            issued: HashMap::new(),
            in_flight: BTreeMap::new(),
            fine_since: None,
            violations: Vec::new(),
            serial: 0,
        };
        let clock = Clock::simulated(from_unix_ms(EPOCH_MS + wall_ms));
        Arc::new(Self { state: Mutex::new(state), life: Mutex::new((Duration::ZERO, Instant::now(), clock)) })
    }

    /// The device's next process begins `down` after the last one ended, on a machine whose clock is off by `wall_ms`.
    pub fn next_life(&self, ended: Duration, down: Duration, wall_ms: i64) {
        let now = ended + down;
        let wall = from_unix_ms(EPOCH_MS + wall_ms) + now;
        *self.life.lock().expect("no test panics with it") = (now, Instant::now(), Clock::simulated(wall));
        let mut state = self.state();
        state.in_flight.clear();
        state.fine_since = (state.weather == Weather::Fine).then_some(now);
        for call in &mut state.calls {
            if call.answer == Answer::Open {
                (call.answer, call.ended) = (Answer::Other, ended);
            }
        }
    }

    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no test panics with it")
    }

    /// The device's clock.
    pub fn clock(&self) -> Clock {
        self.life.lock().expect("no test panics with it").2.clone()
    }

    /// True time since the world began.
    pub fn now(&self) -> Duration {
        let life = self.life.lock().expect("no test panics with it");
        life.0 + life.1.elapsed()
    }

    pub fn set_weather(&self, weather: Weather) {
        let now = self.now();
        let mut state = self.state();
        state.weather = weather;
        state.fine_since = (weather == Weather::Fine).then_some(now);
    }

    pub fn violation(&self, what: &str) {
        let now = self.now();
        self.state().violations.push(format!("at {now:?}: {what}"));
    }

    pub fn identity(self: &Arc<Self>) -> Identity {
        Identity {
            name: "app".to_owned(),
            tiered: true,
            tokens: Arc::new(Pool(Arc::clone(self))),
            credentials: Arc::new(IdentityPool(Arc::clone(self))),
            federation: None,
            allow_client_role_choice: false,
            guests: false,
        }
    }

    fn date(&self, at: Duration) -> SystemTime {
        from_unix_ms(EPOCH_MS) + at
    }

    /// The `Date` of a reply: whole seconds.
    fn stamp(&self) -> Duration {
        Duration::from_secs(self.now().as_secs())
    }

    fn answered(&self) {
        self.clock().observe_server_date(self.date(self.stamp()));
    }

    fn enter(&self, name: &'static str, subject: &str) -> (InFlight<'_>, Weather, Duration) {
        let now = self.now();
        let mut state = self.state();
        let flying = state.in_flight.entry(subject.to_owned()).or_default();
        *flying += 1;
        if *flying > 1 {
            state.violations.push(format!("at {now:?}: {name}: two calls in flight for {subject}"));
        }
        let call = Call { name, subject: subject.to_owned(), began: now, ended: now, answer: Answer::Open };
        state.calls.push(call);
        let guard = InFlight(self, subject.to_owned(), state.calls.len() - 1);
        let weather = match state.weather {
            Weather::Mixed => {
                let all = [
                    Weather::Fine,
                    Weather::Fine,
                    Weather::Fine,
                    Weather::Unreachable,
                    Weather::Silent,
                    Weather::LosesReplies,
                    Weather::Throttled,
                    Weather::Broken,
                    Weather::LoginRefused,
                    Weather::Conflicting,
                    Weather::Ended,
                ];
                all[pick(&mut state.dice, all.len())]
            }
            set => set,
        };
        let latency = Duration::from_millis(20) + Duration::from_secs(2).mul_f64(state.dice.unit().powi(4));
        (guard, weather, latency)
    }

    fn mark(&self, guard: &InFlight<'_>, answer: Answer) {
        self.state().calls[guard.2].answer = answer;
    }

    fn next_serial(&self) -> u64 {
        let mut state = self.state();
        state.serial += 1;
        state.serial
    }

    fn tokens(&self, subject: &str, sent: Duration, refresh_token: Option<String>, ended: bool) -> TokenSet {
        let (serial, now) = (self.next_serial(), self.now());
        let mut state = self.state();
        let lifetime = if ended { Duration::ZERO } else { state.token_lifetime };
        let issued =
            Issued { subject: subject.to_owned(), end: now + lifetime, end_from_sent: sent + lifetime, lifetime };
        let id_token = format!("id.{subject}.{serial}");
        state.issued.insert(id_token.clone(), issued);
        let expire_time = self.date(Duration::from_secs((now + lifetime).as_secs()));
        TokenSet {
            id_token: id_token.into(),
            access_token: Some(format!("access.{subject}.{serial}").into()),
            access_token_expire_time: Some(expire_time),
            refresh_token: refresh_token.map(SecretString::from),
            device: None,
            claims: IdClaims {
                issuer: "https://issuer".into(),
                subject: subject.to_owned(),
                audience: "client".into(),
                username: subject.to_owned(),
                groups: state.users.get(subject).map(|user| user.groups.clone()).unwrap_or_default(),
                expire_time,
                sign_in: Box::default(),
            },
        }
    }

    /// The pool looks at a refresh token and, where it rotates, replaces it.
    fn redeem(&self, token: &str) -> Result<(String, Option<String>), (Answer, TokenError)> {
        let now = self.now();
        let subject = token.split('.').nth(1).unwrap_or_default().to_owned();
        let mut state = self.state();
        let (grace, fine_since) = (state.rotation_grace, state.fine_since);
        let user = state.users.entry(subject.clone()).or_default();
        if user.deleted {
            user.ended = true;
            return Err((Answer::Other, TokenError::Terminal("UserNotFoundException".into())));
        }
        let good_until = user.retired.iter().find(|(retired, _)| retired == token).map(|(_, until)| *until);
        if good_until.is_some_and(|until| now >= until) {
            user.ended = true;
            // A device that does its work needs one back-off, after a call that took its time.
            let since = good_until.unwrap_or_default().saturating_sub(grace.unwrap_or_default());
            let held = state.calls.iter().any(|call| {
                let holds = matches!(call.answer, Answer::Throttled | Answer::Refused | Answer::Configuration);
                call.subject == subject && call.ended >= since && holds
            });
            let chance = fine_since.zip(good_until).map(|(fine, until)| until.saturating_sub(fine.max(since)));
            if chance.is_some_and(|chance| chance > Duration::from_secs(30)) && !held {
                let text = format!("at {now:?}: {subject} was signed out by a lost rotation in spite of {chance:?}");
                state.violations.push(text);
            }
            return Err((Answer::Other, TokenError::Terminal("RefreshTokenReuseException".into())));
        }
        if good_until.is_none() && user.current != token {
            user.refused = true;
            return Err((Answer::Refused, TokenError::NotAuthorized("Invalid Refresh Token".into())));
        }
        let Some(grace) = grace else { return Ok((subject, None)) };
        user.serial += 1;
        let new = format!("refresh.{subject}.{}", user.serial);
        let old = std::mem::replace(&mut user.current, new.clone());
        user.retired.push((old, now + grace));
        Ok((subject, Some(new)))
    }
}

fn pick(dice: &mut Jitter, n: usize) -> usize {
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss)]
    let picked = (dice.unit() * n as f64) as usize;
    picked
}

/// What the weather does to a call before it is looked at.
async fn weathered(weather: Weather) -> Option<(Answer, &'static str)> {
    match weather {
        Weather::Unreachable => Some((Answer::Transient, "no route")),
        Weather::Silent => {
            tokio::time::sleep(NO_CONNECTION).await;
            Some((Answer::Transient, "no connection in time"))
        }
        _ => None,
    }
}

#[derive(Debug)]
struct Pool(Arc<World>);

#[async_trait::async_trait]
impl TokenSource for Pool {
    fn provider(&self) -> &'static str {
        "cognito-idp.us-east-1.amazonaws.com/pool"
    }

    async fn sign_in(
        &self,
        username: &str,
        _: &SecretString,
        _: Option<&RememberedDevice>,
    ) -> Result<SignInStep, TokenError> {
        let world = &self.0;
        let (sent, now) = (world.now(), world.now());
        // Signing in is the user's own call, beside the session's.
        let call = Call { name: "sign_in", subject: String::new(), began: now, ended: now, answer: Answer::Good };
        world.state().calls.push(call);
        if world.state().weather != Weather::Fine {
            return Err(TokenError::Transient("no sign-in in this weather".into()));
        }
        let token = {
            let mut state = world.state();
            let user = state.users.entry(username.to_owned()).or_default();
            user.serial += 1;
            (user.refused, user.ended, user.crossed, user.deleted) = (false, false, false, false);
            user.current = format!("refresh.{username}.{}", user.serial);
            user.retired.clear();
            user.current.clone()
        };
        world.answered();
        Ok(SignInStep::Tokens(Box::new(world.tokens(username, sent, Some(token), false))))
    }

    async fn answer(
        &self,
        _: &Challenge,
        _: &BTreeMap<String, SecretString>,
        _: Option<&RememberedDevice>,
    ) -> Result<SignInStep, TokenError> {
        Err(TokenError::TokenInvalid("no history asks back".into()))
    }

    async fn verify(
        &self,
        _: SecretString,
        _: Option<SecretString>,
        _: Option<SecretString>,
    ) -> Result<TokenSet, TokenError> {
        Err(TokenError::TokenInvalid("no history hands tokens in".into()))
    }

    async fn refresh(&self, grant: &RefreshGrant) -> Result<TokenSet, TokenError> {
        let world = &self.0;
        let token = grant.refresh_token.as_ref().map_or("", |token| token.expose_secret()).to_owned();
        let subject = token.split('.').nth(1).unwrap_or_default().to_owned();
        let sent = world.now();
        let (guard, weather, latency) = world.enter("refresh", &subject);
        if let Some((answer, text)) = weathered(weather).await {
            world.mark(&guard, answer);
            return Err(TokenError::Transient(text.into()));
        }
        tokio::time::sleep(latency).await;
        let refused = match weather {
            Weather::Throttled => Some((Answer::Throttled, TokenError::Throttled("TooManyRequestsException".into()))),
            Weather::Broken => Some((Answer::Transient, TokenError::Transient("InternalErrorException".into()))),
            Weather::Refusing => {
                world.state().users.entry(subject).or_default().refused = true;
                Some((Answer::Refused, TokenError::NotAuthorized("Invalid Refresh Token".into())))
            }
            Weather::Misconfigured => {
                Some((Answer::Configuration, TokenError::Configuration("InvalidParameterException".into())))
            }
            _ => None,
        };
        if let Some((answer, error)) = refused {
            world.answered();
            world.mark(&guard, answer);
            return Err(error);
        }
        let redeemed = world.redeem(&token);
        if weather == Weather::LosesReplies {
            tokio::time::sleep(SILENCE).await;
            world.mark(&guard, Answer::Transient);
            return Err(TokenError::ReplyLost("no answer in time".into()));
        }
        world.answered();
        match redeemed {
            Ok((subject, new)) => {
                world.mark(&guard, if weather == Weather::Ended { Answer::Transient } else { Answer::Good });
                if weather != Weather::Ended && world.state().dice.unit() < 0.002 {
                    world.state().users.entry(subject).or_default().crossed = true;
                    return Ok(world.tokens("eve", sent, new, false));
                }
                Ok(world.tokens(&subject, sent, new, weather == Weather::Ended))
            }
            Err((answer, error)) => {
                world.mark(&guard, answer);
                Err(error)
            }
        }
    }

    async fn revoke(&self, _: &RefreshGrant, _: Option<&SecretString>, _: bool) -> Result<(), TokenError> {
        let now = self.0.now();
        let call = Call { name: "revoke", subject: String::new(), began: now, ended: now, answer: Answer::Good };
        self.0.state().calls.push(call);
        Ok(())
    }
}

#[derive(Debug)]
struct IdentityPool(Arc<World>);

impl IdentityPool {
    /// Both calls of the identity pool until the point where it would answer well.
    async fn call(
        &self,
        name: &'static str,
        login: Option<&Login>,
    ) -> Result<(InFlight<'_>, Weather, String), CredentialError> {
        let world = &self.0;
        let fail = |kind, text: &str| Err(CredentialError { kind, message: text.to_owned() });
        let subject = login.map(|login| login.subject.clone()).unwrap_or_default();
        let (guard, weather, latency) = world.enter(name, &subject);
        let id_token = login.map(|login| login.id_token.expose_secret().to_owned()).unwrap_or_default();
        match world.state().issued.get(&id_token).cloned() {
            Some(issued) if issued.subject != subject => {
                world.violation(&format!("{name}: {subject} came with the ID token of {}", issued.subject));
            }
            Some(issued) if world.now() >= issued.end => {
                world.violation(&format!("{name}: {subject} came with an ID token that ended at {:?}", issued.end));
            }
            Some(_) => {}
            None => world.violation(&format!("{name}: {subject} came without an ID token")),
        }
        if let Some((answer, text)) = weathered(weather).await {
            world.mark(&guard, answer);
            return fail(CredentialErrorKind::Transient, text);
        }
        tokio::time::sleep(latency).await;
        let refused = match weather {
            Weather::Throttled => Some((Answer::Throttled, CredentialErrorKind::Throttled)),
            Weather::Broken => Some((Answer::Transient, CredentialErrorKind::Transient)),
            Weather::Misconfigured => Some((Answer::Configuration, CredentialErrorKind::Configuration)),
            Weather::LoginRefused => Some((Answer::Other, CredentialErrorKind::NotAuthorized)),
            Weather::Conflicting if name == "credentials" => Some((Answer::Other, CredentialErrorKind::IdentityMoved)),
            _ => None,
        };
        if let Some((answer, kind)) = refused {
            world.answered();
            world.mark(&guard, answer);
            return fail(kind, "as the weather is");
        }
        if weather == Weather::LosesReplies {
            tokio::time::sleep(SILENCE).await;
            world.mark(&guard, Answer::Transient);
            return fail(CredentialErrorKind::Transient, "connection reset");
        }
        world.answered();
        Ok((guard, weather, subject))
    }
}

#[async_trait::async_trait]
impl CredentialSource for IdentityPool {
    async fn identity_id(&self, login: Option<&Login>) -> Result<String, CredentialError> {
        let (guard, _, subject) = self.call("identity_id", login).await?;
        self.0.mark(&guard, Answer::Good);
        Ok(format!("us-east-1:{subject}"))
    }

    async fn credentials(&self, identity_id: &str, login: Option<&Login>) -> Result<Credentials, CredentialError> {
        let world = &self.0;
        let (sent, sent_boot) = (world.now(), world.clock().boot());
        let (guard, weather, subject) = self.call("credentials", login).await?;
        if identity_id != format!("us-east-1:{subject}") {
            world.violation(&format!("{subject} asked for the credentials of {identity_id}"));
        }
        let ended = weather == Weather::Ended;
        world.mark(&guard, if ended { Answer::Transient } else { Answer::Good });
        let (serial, now) = (world.next_serial(), world.now());
        let lifetime = if ended { Duration::ZERO } else { world.state().credential_lifetime };
        // `Expiration` has whole seconds, and so has `Date`.
        let end = Duration::from_secs((now + lifetime).as_secs());
        let counted = end.saturating_sub(world.stamp());
        let access_key_id = format!("ASIA{serial}");
        let issued = Issued { subject, end, end_from_sent: sent + counted, lifetime: counted };
        world.state().issued.insert(access_key_id.clone(), issued);
        Ok(Credentials {
            access_key_id,
            secret_access_key: "secret".into(),
            session_token: Some(identity_id.into()),
            expire_time: world.date(end),
            deadline: sent_boot + counted,
            received: sent_boot,
        })
    }

    fn client_names_role(&self) -> bool {
        false
    }
}
