//! Service sessions: device accounts of the configuration. Owns how one signs itself in; promises that a refresh token
//! that is refused is replaced by a sign-in, and that a password is read only when it is needed; must never be signed in
//! or out by a caller.

use std::sync::Arc;

use super::actor::Start;
use super::files::{Contents, Found, NO_OWNER, Place};
use super::registry::Shared;
use super::sessions::Sessions;
use super::{
    Identity, RefreshGrant, ServiceConfig, ServiceLogin, SessionError, SessionId, SessionKind, SignInStep, TokenError,
    TokenSet, TokenSource,
};
use crate::caller::Caller;
use crate::clock::unix_ms;

/// The service sessions of the configuration, each with what was kept of it.
pub(super) struct Services(Vec<(Arc<ServiceConfig>, Identity, Option<Found>)>, Vec<Found>);

impl Services {
    /// Takes what belongs to service sessions out of what was found.
    ///
    /// # Errors
    /// `Configuration` where an account names no identity, or one whose source cannot sign it in.
    pub(super) fn sort(shared: &Shared, found: Vec<Found>) -> Result<(Self, Vec<Found>), SessionError> {
        let (mut kept, others): (Vec<_>, Vec<_>) =
            found.into_iter().partition(|session| session.place.kind == SessionKind::Service);
        let mut services = Vec::new();
        for account in &shared.config.services {
            let identity = shared.identity(Some(&account.identity))?;
            let own = account.login == ServiceLogin::Source;
            if own != identity.tokens.needs_no_user() {
                return Err(SessionError::Configuration(format!(
                    "service session {:?}: the tokens of identity {:?} {}",
                    account.name,
                    account.identity,
                    if own {
                        "come from a sign-in: give a username and a password_file or password_credential"
                    } else {
                        "come from a file or a command: leave out username and password"
                    }
                )));
            }
            let at = kept.iter().position(|session| account.is(session));
            services.push((Arc::new(account.clone()), identity, at.map(|at| kept.remove(at))));
        }
        Ok((Self(services, kept), others))
    }

    /// Starts every service session's task, and ends what the configuration has no more.
    ///
    /// # Errors
    /// `Storage` where a new session cannot be kept.
    pub(super) async fn start(self, shared: &Arc<Shared>) -> Result<(), SessionError> {
        let Self(services, left) = self;
        for (account, identity, found) in services {
            let (place, mut contents) = match found {
                Some(Found { place, contents }) => (place, contents.unwrap_or_else(|| account.nothing_kept())),
                None => account.begin(shared).await?,
            };
            if contents.allowed_uids != account.allowed_uids {
                account.allow_anew(&mut contents);
                // What cannot be written is compared again at the next start.
                if let Err(error) = shared.files.save(place.clone(), contents.clone()).await {
                    tracing::error!(session = %place.id, %error, "who may use a service session could not be kept");
                }
            }
            tracing::info!(session = %place.id, service = %account.name, "service session started");
            let (contents, service) = (Some(contents), Some(account));
            shared.spawn(Start { place, contents, tokens: None, identity, offer: None, service });
        }
        for Found { place, contents } in left {
            let (session, service) = (&place.id, &place.service);
            tracing::warn!(%session, %service, "this service session is not in the configuration any more: it ends");
            let identity = shared.identity(Some(&place.identity)).ok();
            if let (Some(identity), Some(contents)) = (identity, contents)
                && contents.refresh_token.is_some()
            {
                let grant = RefreshGrant { refresh_token: contents.refresh_token, device: contents.device };
                shared.revoke_later(identity.tokens, grant, None, false);
            }
            shared.files.remove(session).await?;
        }
        Ok(())
    }
}

impl Sessions {
    /// The service session of that name in the configuration, which the caller must be allowed to use.
    ///
    /// # Errors
    /// `Configuration`.
    pub fn service(&self, caller: &Caller, name: &str) -> Result<SessionId, SessionError> {
        let registry = self.shared().read();
        let mut allowed = registry.by_uid.get(&caller.uid).into_iter().flatten();
        let found = allowed.find(|handle| handle.place.kind == SessionKind::Service && handle.place.service == name);
        found.map(|handle| SessionId(handle.place.id.clone())).ok_or_else(|| {
            SessionError::Configuration(format!(
                "no service session {name:?} that uid {} may use is running: restart the daemon where it is new in the \
                 configuration",
                caller.uid
            ))
        })
    }
}

impl ServiceConfig {
    /// Tokens for the account: renewed where that works, else by signing it in.
    ///
    /// # Errors
    /// By what to do about it: see [`TokenError`]. Never `Terminal`: there is always another sign-in to try.
    pub(super) async fn tokens(&self, source: &dyn TokenSource, grant: &RefreshGrant) -> Result<TokenSet, TokenError> {
        let tokens = match &self.login {
            ServiceLogin::Source => source.refresh(&RefreshGrant::default()).await,
            ServiceLogin::Password { .. } if grant.refresh_token.is_some() => match source.refresh(grant).await {
                Err(TokenError::NotAuthorized(why) | TokenError::Terminal(why)) => {
                    tracing::info!(service = %self.name, why, "the refresh token is refused: signing in again");
                    self.sign_in(source, grant).await
                }
                other => other,
            },
            ServiceLogin::Password { .. } => self.sign_in(source, grant).await,
        };
        tokens.map_err(|error| match error {
            TokenError::Terminal(why) => TokenError::NotAuthorized(why),
            other => other,
        })
    }

    async fn sign_in(&self, source: &dyn TokenSource, grant: &RefreshGrant) -> Result<TokenSet, TokenError> {
        let ServiceLogin::Password { username, password } = &self.login else {
            return Err(TokenError::Configuration("this service session has no password".to_owned()));
        };
        let password = password.read().await;
        let password = password.map_err(|why| {
            TokenError::Configuration(format!("the password of service session {:?}: {why}", self.name))
        })?;
        match source.sign_in(username, &password, grant.device.as_ref()).await? {
            SignInStep::Tokens(tokens) => {
                tracing::info!(service = %self.name, "the device account signed itself in");
                Ok(*tokens)
            }
            SignInStep::Challenge(challenge) => Err(TokenError::ChallengeRequired {
                why: format!(
                    "the user pool asks the device account for {}: nobody is there to answer, so it must be able to sign \
                     in by its password alone",
                    challenge.name
                ),
                name: challenge.name,
            }),
        }
    }

    /// Whether what was kept is this account's.
    fn is(&self, session: &Found) -> bool {
        let same_user = match (self.username(), &session.contents) {
            (Some(username), Some(contents)) => contents.username == username,
            _ => true,
        };
        session.place.service == self.name && session.place.identity == self.identity && same_user
    }

    /// Takes the uids that may use the session from now on. Where one of them is there no more, the credentials
    /// endpoint's token, which it may have, is over.
    fn allow_anew(&self, contents: &mut Contents) {
        if contents.allowed_uids.iter().any(|uid| !self.allowed_uids.contains(uid)) {
            tracing::info!(service = %self.name, "a uid was taken out: programs must take a new credentials endpoint");
            contents.endpoint_token = None;
        }
        contents.allowed_uids.clone_from(&self.allowed_uids);
    }

    /// A new session, kept before its first sign-in: its id is the same in every start.
    async fn begin(&self, shared: &Shared) -> Result<(Place, Contents), SessionError> {
        let place = Place {
            id: ulid::Ulid::generate().to_string(),
            identity: self.identity.clone(),
            subject: String::new(),
            owner_uid: NO_OWNER,
            kind: SessionKind::Service,
            service: self.name.clone(),
            create_time_unix_ms: unix_ms(shared.clock.wall()),
        };
        let contents = self.nothing_kept();
        shared.files.save(place.clone(), contents.clone()).await?;
        Ok((place, contents))
    }

    fn nothing_kept(&self) -> Contents {
        Contents {
            username: self.username().unwrap_or_default().to_owned(),
            allowed_uids: self.allowed_uids.clone(),
            ..Contents::default()
        }
    }

    /// The name that the account signs in with, where the configuration says it.
    pub(super) fn username(&self) -> Option<&str> {
        match &self.login {
            ServiceLogin::Password { username, .. } => Some(username),
            ServiceLogin::Source => None,
        }
    }
}
