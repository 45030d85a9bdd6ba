//! A sign-in that may take several steps: by name and password, then by the answers to what the token source asks.
//! Promises that a step which has begun ends by itself (its caller may go away), and that the device which the source
//! remembers is kept sealed and used at the next sign-in.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;

use secrecy::SecretString;

use super::challenges::Pending;
use super::files::DevicePlace;
use super::registry::{SigningIn, stopping};
use super::sessions::Sessions;
use super::{ChallengeView, Identity, RememberedDevice, SessionError, SignInProgress, SignInStep, TokenError};
use crate::caller::Caller;

impl Sessions {
    /// Answers a challenge of [`Sessions::sign_in`]; the names are those of the challenge. An answer that the source has
    /// not taken (a wrong code) leaves the challenge open for another one.
    ///
    /// # Errors
    /// `ChallengeNotFound` (also for another uid's), `ChallengeAnswered`, `ChallengeExpired`, `ChallengeBusy`; else see
    /// [`SessionError`].
    pub async fn respond_to_challenge(
        &self,
        caller: &Caller,
        challenge_id: &str,
        answers: BTreeMap<String, SecretString>,
    ) -> Result<SignInProgress, SessionError> {
        let result = self.respond_and_wait(*caller, challenge_id.to_owned(), answers).await;
        super::sessions::count_sign_in(&result);
        result
    }

    /// The first step. `turn` is one of the few that a uid may have at a time.
    pub(super) async fn sign_in_by_password(
        &self,
        caller: Caller,
        identity: Identity,
        username: String,
        password: SecretString,
        turn: SigningIn,
    ) -> Result<SignInProgress, SessionError> {
        let sessions = self.clone();
        self.apart(async move {
            let _turn = turn;
            let device = sessions.shared().files.device(place(&caller, &identity, &username)).await;
            let step = identity.tokens.sign_in(&username, &password, device.as_ref());
            let step = sessions.in_time("the sign-in", step).await?;
            sessions.stepped(caller, identity, username, device, step).await
        })
        .await
    }

    async fn respond_and_wait(
        &self,
        caller: Caller,
        id: String,
        answers: BTreeMap<String, SecretString>,
    ) -> Result<SignInProgress, SessionError> {
        let turn = SigningIn::new(self.shared(), caller.uid)?;
        let pending = self.shared().challenges.take(self.shared().clock.boot(), caller.uid, &id)?;
        let sessions = self.clone();
        self.apart(async move {
            let _turn = turn;
            let shared = sessions.shared();
            shared.limiter.acquire_urgent().await;
            let source = Arc::clone(&pending.identity.tokens);
            let answered = source.answer(&pending.challenge, &answers, pending.device.as_ref());
            match sessions.in_time("the answer", answered).await {
                Ok(step) => {
                    shared.challenges.answered(&id);
                    let Pending { identity, challenge, device, .. } = *pending;
                    sessions.stepped(caller, identity, challenge.username, device, step).await
                }
                Err(error) if error.keeps_challenge() => {
                    shared.challenges.put_back(shared.clock.boot(), &id, pending);
                    Err(error.into())
                }
                Err(error) => {
                    shared.challenges.ended(&id);
                    if matches!(error, TokenError::DeviceUnknown(_)) {
                        let place = place(&caller, &pending.identity, &pending.challenge.username);
                        shared.files.forget_device(place).await;
                    }
                    Err(error.into())
                }
            }
        })
        .await
    }

    async fn stepped(
        &self,
        caller: Caller,
        identity: Identity,
        username: String,
        device: Option<RememberedDevice>,
        step: SignInStep,
    ) -> Result<SignInProgress, SessionError> {
        match step {
            SignInStep::Tokens(tokens) => {
                let place = place(&caller, &identity, &username);
                self.note_device(place, device.as_ref(), tokens.device.as_ref()).await;
                self.take_in(&caller, identity, *tokens, username, true).await
            }
            SignInStep::Challenge(challenge) => {
                let shared = self.shared();
                let mut challenge = *challenge;
                let (name, answers) = (challenge.name.clone(), challenge.answers.clone());
                // Shown once: they may hold a secret.
                let parameters = std::mem::take(&mut challenge.parameters);
                let lifetime = shared.challenges.lifetime();
                let expire_time = shared.clock.wall() + lifetime;
                let pending = Pending { uid: caller.uid, identity, challenge, device };
                let id = shared.challenges.open(shared.clock.boot(), pending);
                tracing::info!(challenge = %name, "a sign-in waits for an answer");
                self.tidy_behind(lifetime);
                Ok(SignInProgress::Challenged(ChallengeView { id, name, parameters, answers, expire_time }))
            }
        }
    }

    /// Keeps what the pool remembers from now on, or forgets what it does not know any more.
    async fn note_device(&self, place: DevicePlace, before: Option<&RememberedDevice>, now: Option<&RememberedDevice>) {
        let files = &self.shared().files;
        match (before, now.filter(|device| device.password.is_some())) {
            (Some(before), Some(now)) if before.key == now.key => {}
            (_, Some(now)) => {
                let most = self.shared().config.max_remembered_devices;
                if let Err(error) = files.save_device(place, now.clone(), most).await {
                    tracing::error!(%error, "the remembered device could not be kept: the next sign-in is a new device's");
                }
            }
            (Some(_), None) => files.forget_device(place).await,
            (None, None) => {}
        }
    }

    /// The secrets of a challenge go when its time is over, also where nobody asks for it again.
    fn tidy_behind(&self, lifetime: std::time::Duration) {
        let shared = Arc::clone(self.shared());
        self.shared().tasks.spawn(async move {
            tokio::select! {
                () = shared.stop.cancelled() => {}
                () = tokio::time::sleep(lifetime) => shared.challenges.tidy(shared.clock.boot()),
            }
        });
    }

    /// In a task of its own: a caller that goes away leaves no half of a sign-in.
    async fn apart(
        &self,
        work: impl Future<Output = Result<SignInProgress, SessionError>> + Send + 'static,
    ) -> Result<SignInProgress, SessionError> {
        let stop = self.shared().stop.clone();
        let work = self.shared().tasks.spawn(async move {
            tokio::select! {
                () = stop.cancelled() => Err(stopping()),
                done = work => done,
            }
        });
        work.await.unwrap_or_else(|_| Err(stopping()))
    }

    async fn in_time<T>(&self, what: &str, step: impl Future<Output = Result<T, TokenError>>) -> Result<T, TokenError> {
        let limit = self.shared().give_up_after;
        let late = || TokenError::Transient(format!("{what} took longer than {} s", limit.as_secs()));
        tokio::time::timeout(limit, step).await.unwrap_or_else(|_| Err(late()))
    }
}

fn place(caller: &Caller, identity: &Identity, username: &str) -> DevicePlace {
    DevicePlace { identity: identity.name.clone(), username: username.to_owned(), owner_uid: caller.uid }
}
