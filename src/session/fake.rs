//! A user pool and an identity pool in memory, for the tests of sessions: counts its calls, fails as told, and can be
//! held so that a test sees what happens while a call is in flight.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use secrecy::{ExposeSecret as _, SecretString};
use tokio::sync::watch;

use super::{
    Challenge, IdClaims, Identity, RefreshGrant, RememberedDevice, SignInStep, TokenError, TokenSet, TokenSource,
};
use crate::clock::Clock;
use crate::credential::{CredentialError, CredentialErrorKind, CredentialSource, Credentials, Login};

pub const LIFETIME: Duration = Duration::from_secs(3_600);

/// What the pools hold.
#[derive(Debug, Default)]
pub struct Pools {
    /// How often each call was made.
    pub calls: BTreeMap<&'static str, u64>,
    /// Calls in flight now, and the most that were at once.
    pub in_flight: (u64, u64),
    /// Groups by `sub`.
    pub groups: HashMap<String, Vec<String>>,
    /// Identity ids by `sub`, where they are not the usual ones.
    pub identity_ids: HashMap<String, String>,
    /// The `sub` that the next refresh answers with, where it is another user's.
    pub wrong_subject: Option<String>,
    /// Errors of the next sign-ins.
    pub sign_in_errors: VecDeque<TokenError>,
    /// Errors of the next token refreshes.
    pub token_errors: VecDeque<TokenError>,
    /// Errors of the next credential calls.
    pub credential_errors: VecDeque<CredentialErrorKind>,
    /// Every refresh gives a new refresh token, and only the newest is good.
    pub rotate: bool,
    /// The code that is asked for at a sign-in, by `sub`.
    pub factors: HashMap<String, String>,
    /// Errors of the next answers.
    pub answer_errors: VecDeque<TokenError>,
    /// Sign-ins give a device, and one that is known here needs no code.
    pub tracks_devices: bool,
    /// The devices' keys.
    pub devices: HashSet<String>,
    /// How long everything lasts from now on, where it is not [`LIFETIME`].
    pub lifetime: Option<Duration>,
    /// Why the ID token of the next refresh cannot be verified.
    pub unverified: Option<Box<TokenError>>,
    /// The refresh token that is good, by `sub`.
    pub refresh_tokens: HashMap<String, String>,
    /// The identity pool takes guests.
    pub takes_guests: bool,
    /// Errors of the next offers of a guest's identity id.
    pub link_errors: VecDeque<CredentialErrorKind>,
    /// What was revoked: the refresh token (empty where there was none), and whether everywhere.
    pub revoked: Vec<(String, bool)>,
    serial: u64,
}

/// The pools, the clock they stamp with, and the gate that holds every call.
#[derive(Debug)]
pub struct FakeCloud {
    pools: Mutex<Pools>,
    clock: Clock,
    open: watch::Sender<bool>,
}

impl FakeCloud {
    pub fn new(clock: &Clock) -> Arc<Self> {
        let pools = Mutex::new(Pools { takes_guests: true, ..Pools::default() });
        Arc::new(Self { pools, clock: clock.clone(), open: watch::channel(true).0 })
    }

    pub fn pools(&self) -> MutexGuard<'_, Pools> {
        self.pools.lock().expect("no test panics with it")
    }

    pub fn count(&self, call: &str) -> u64 {
        self.pools().calls.get(call).copied().unwrap_or(0)
    }

    /// Holds every call, or lets them go on.
    pub fn set_open(&self, open: bool) {
        self.open.send_replace(open);
    }

    pub fn identity(self: &Arc<Self>, name: &str) -> Identity {
        Identity {
            name: name.to_owned(),
            tiered: true,
            tokens: Arc::new(FakeTokens(Arc::clone(self))),
            credentials: Arc::new(FakeCredentials { cloud: Arc::clone(self), names_role: false }),
            federation: None,
            allow_client_role_choice: false,
            guests: true,
        }
    }

    /// The tokens at the end of a sign-in.
    fn signed_in(&self, subject: &str, device: Option<&RememberedDevice>) -> SignInStep {
        let mut set = self.tokens(subject, true);
        let mut pools = self.pools();
        if pools.tracks_devices {
            set.device = device.filter(|device| pools.devices.contains(&device.key)).cloned();
            if set.device.is_none() {
                let key = format!("device.{}", pools.serial);
                pools.devices.insert(key.clone());
                let password = Some(SecretString::from(format!("password of {key}")));
                set.device = Some(RememberedDevice { key, group_key: "group".into(), password });
            }
        }
        SignInStep::Tokens(Box::new(set))
    }

    async fn call(&self, name: &'static str) {
        {
            let mut pools = self.pools();
            *pools.calls.entry(name).or_default() += 1;
            pools.in_flight.0 += 1;
            pools.in_flight.1 = pools.in_flight.1.max(pools.in_flight.0);
        }
        let _ = self.open.subscribe().wait_for(|open| *open).await;
        self.pools().in_flight.0 -= 1;
    }

    fn tokens(&self, subject: &str, with_refresh: bool) -> TokenSet {
        let mut pools = self.pools();
        pools.serial += 1;
        let serial = pools.serial;
        let groups = pools.groups.get(subject).cloned().unwrap_or_default();
        let refresh = with_refresh.then(|| {
            let token = format!("refresh.{subject}.{serial}");
            pools.refresh_tokens.insert(subject.to_owned(), token.clone());
            SecretString::from(token)
        });
        let expire_time = self.clock.wall() + pools.lifetime.unwrap_or(LIFETIME);
        TokenSet {
            id_token: format!("id.{subject}.{serial}").into(),
            access_token: Some(format!("access.{subject}.{serial}").into()),
            access_token_expire_time: Some(expire_time),
            refresh_token: refresh,
            device: None,
            claims: IdClaims {
                issuer: "https://issuer".into(),
                subject: subject.to_owned(),
                audience: "client".into(),
                username: subject.to_owned(),
                groups,
                expire_time,
                sign_in: Box::default(),
            },
        }
    }
}

/// The user pool: every name is its own `sub`, every password but "wrong" is right.
#[derive(Debug)]
pub struct FakeTokens(Arc<FakeCloud>);

#[async_trait::async_trait]
impl TokenSource for FakeTokens {
    fn provider(&self) -> &'static str {
        "cognito-idp.us-east-1.amazonaws.com/pool"
    }

    async fn sign_in(
        &self,
        username: &str,
        password: &SecretString,
        device: Option<&RememberedDevice>,
    ) -> Result<SignInStep, TokenError> {
        self.0.call("sign_in").await;
        if let Some(error) = self.0.pools().sign_in_errors.pop_front() {
            return Err(error);
        }
        if username.is_empty() || ["wrong", "", "Canary-password-9"].contains(&password.expose_secret()) {
            return Err(TokenError::BadCredentials("Incorrect username or password.".into()));
        }
        let known = device.is_some_and(|device| self.0.pools().devices.contains(&device.key));
        if !known && self.0.pools().factors.contains_key(username) {
            return Ok(SignInStep::Challenge(Box::new(Challenge {
                name: "SMS_MFA".into(),
                parameters: [("CODE_DELIVERY_DESTINATION".to_owned(), "+***1".to_owned())].into(),
                answers: vec!["SMS_MFA_CODE".into()],
                username: username.into(),
                handle: format!("handle of {username}").into(),
            })));
        }
        Ok(self.0.signed_in(username, device))
    }

    async fn answer(
        &self,
        challenge: &Challenge,
        answers: &BTreeMap<String, SecretString>,
        device: Option<&RememberedDevice>,
    ) -> Result<SignInStep, TokenError> {
        self.0.call("answer").await;
        if challenge.handle.expose_secret() != format!("handle of {}", challenge.username) {
            return Err(TokenError::BadCredentials("not this pool's challenge".into()));
        }
        if let Some(error) = self.0.pools().answer_errors.pop_front() {
            return Err(error);
        }
        let code = answers.get("SMS_MFA_CODE").map(|code| code.expose_secret().to_owned());
        if code != self.0.pools().factors.get(&challenge.username).cloned() {
            return Err(TokenError::CodeMismatch("Invalid code".into()));
        }
        Ok(self.0.signed_in(&challenge.username, device))
    }

    async fn verify(
        &self,
        id_token: SecretString,
        _: Option<SecretString>,
        refresh_token: Option<SecretString>,
    ) -> Result<TokenSet, TokenError> {
        self.0.call("verify").await;
        let said = id_token.expose_secret();
        let mut set = self.0.tokens(said.split('.').nth(1).unwrap_or(said), false);
        set.id_token = id_token;
        set.refresh_token = refresh_token;
        Ok(set)
    }

    async fn refresh(&self, grant: &RefreshGrant) -> Result<TokenSet, TokenError> {
        self.0.call("refresh").await;
        let (subject, rotate) = {
            let mut pools = self.0.pools();
            if let Some(error) = pools.token_errors.pop_front() {
                return Err(error);
            }
            let known = |device: &RememberedDevice| pools.devices.contains(&device.key);
            if pools.tracks_devices && !grant.device.as_ref().is_some_and(known) {
                return Err(TokenError::NotAuthorized("Invalid Refresh Token.".into()));
            }
            let token = grant.refresh_token.as_ref().map_or("", |token| token.expose_secret());
            let subject = token.split('.').nth(1).unwrap_or_default().to_owned();
            if pools.refresh_tokens.get(&subject).map(String::as_str) != Some(token) {
                return Err(TokenError::Terminal("refresh token reuse".into()));
            }
            (pools.wrong_subject.take().unwrap_or(subject), pools.rotate)
        };
        let mut set = self.0.tokens(&subject, rotate);
        set.device.clone_from(&grant.device);
        match (self.0.pools().unverified.take(), set.refresh_token.clone()) {
            (Some(why), Some(refresh_token)) => Err(TokenError::Unverified { refresh_token, why }),
            (Some(why), None) => Err(*why),
            (None, _) => Ok(set),
        }
    }

    async fn revoke(&self, grant: &RefreshGrant, _: Option<&SecretString>, everywhere: bool) -> Result<(), TokenError> {
        self.0.call("revoke").await;
        let given = grant.refresh_token.as_ref().map_or("", |token| token.expose_secret());
        let mut pools = self.0.pools();
        let whose = given.split('.').nth(1).filter(|_| everywhere);
        pools.refresh_tokens.retain(|subject, token| token != given && whose != Some(subject));
        pools.revoked.push((given.to_owned(), everywhere));
        Ok(())
    }
}

/// The identity pool.
#[derive(Debug)]
pub struct FakeCredentials {
    pub cloud: Arc<FakeCloud>,
    pub names_role: bool,
}

#[async_trait::async_trait]
impl CredentialSource for FakeCredentials {
    async fn identity_id(&self, login: Option<&Login>) -> Result<String, CredentialError> {
        self.cloud.call("identity_id").await;
        let mut pools = self.cloud.pools();
        let Some(login) = login else {
            if !pools.takes_guests {
                let message = "Unauthenticated access is not supported for this identity pool.".to_owned();
                return Err(CredentialError { kind: CredentialErrorKind::NotAuthorized, message });
            }
            // Every guest is another one.
            pools.serial += 1;
            return Ok(format!("us-east-1:guest-{}", pools.serial));
        };
        let usual = || format!("us-east-1:{}", login.subject);
        Ok(pools.identity_ids.entry(login.subject.clone()).or_insert_with(usual).clone())
    }

    async fn link(&self, guest_identity_id: &str, login: &Login) -> Result<String, CredentialError> {
        self.cloud.call("link").await;
        if let Some(kind) = self.cloud.pools().link_errors.pop_front() {
            return Err(CredentialError { kind, message: format!("{kind:?} as told") });
        }
        let mut pools = self.cloud.pools();
        Ok(pools.identity_ids.entry(login.subject.clone()).or_insert_with(|| guest_identity_id.to_owned()).clone())
    }

    async fn credentials(&self, identity_id: &str, login: Option<&Login>) -> Result<Credentials, CredentialError> {
        self.cloud.call("credentials").await;
        let mut pools = self.cloud.pools();
        let own = login.and_then(|login| pools.identity_ids.get(&login.subject));
        if own.is_some_and(|own| own != identity_id) {
            let message = "the credentials are for another identity id".to_owned();
            return Err(CredentialError { kind: CredentialErrorKind::IdentityMoved, message });
        }
        if let Some(kind) = pools.credential_errors.pop_front() {
            return Err(CredentialError { kind, message: format!("{kind:?} as told") });
        }
        pools.serial += 1;
        Ok(Credentials {
            access_key_id: format!("ASIA{}", pools.serial),
            secret_access_key: "canary-of-the-fake".into(),
            session_token: Some(identity_id.into()),
            expire_time: self.cloud.clock.wall() + pools.lifetime.unwrap_or(LIFETIME),
            deadline: self.cloud.clock.boot() + pools.lifetime.unwrap_or(LIFETIME),
            received: self.cloud.clock.boot(),
        })
    }

    fn client_names_role(&self) -> bool {
        self.names_role
    }
}
