//! One store call, with everything that may be repeated without asking anybody: fresh credentials, another signature
//! time, the attempts of a part.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tracing::Instrument as _;

use super::unrecorded::Unrecorded;
use super::{Ended, Scope, Transfer, Wait};
use crate::session::SessionError;
use crate::store::{
    ObjectHead, Outcome, PartBody, PartReceipt, Progress, Signer, StoreError, StoreErrorKind as Kind, Stored,
};
use crate::telemetry::metrics::{Outcome as Label, metrics};
use crate::upload::{UploadFailure, WaitReason, failure};

/// What is asked of the store.
#[derive(Debug, Clone, Copy)]
pub(super) enum Request<'a> {
    Put(&'a PartBody),
    Create,
    Part { multipart_id: &'a str, number: u32, body: &'a PartBody },
    Complete { multipart_id: &'a str, parts: &'a [PartReceipt] },
    List { multipart_id: &'a str },
    Head,
}

/// What it answered.
#[derive(Debug)]
pub(super) enum Reply {
    Stored(Stored),
    Created(Box<Unrecorded>),
    Part(PartReceipt),
    Listed(Vec<PartReceipt>),
    Head(Option<ObjectHead>),
}

/// Why a call did not come to an answer.
#[derive(Debug)]
pub(super) enum Stop {
    /// The upload's attempt is over.
    Ended(Ended),
    /// What this means depends on the operation.
    Store(StoreError),
}

/// How long a denial is taken for one of credentials that are too old, where they cannot be renewed yet. A little longer
/// than the shortest time between two renewals, so that an upgrade made just now is seen.
const DENIED_PATIENCE: Duration = Duration::from_secs(40);
const DENIED_RECHECK: Duration = Duration::from_secs(5);
/// Signatures may be 15 minutes off. Less than that is a correction too, and the request is cheap.
const SKEW_MIN_MS: u64 = 60_000;
/// A session that gets other groups wakes whoever waits for them; this is for a change that nobody told of.
const GROUPS_RECHECK: Duration = Duration::from_secs(3_600);
/// After a failure that somebody must mend in the configuration, the session is asked again this late.
const CONFIGURATION_RECHECK: Duration = Duration::from_secs(60);

impl<'a> Request<'a> {
    fn name(self) -> &'static str {
        match self {
            Self::Put(_) => "PutObject",
            Self::Create => "CreateMultipartUpload",
            Self::Part { .. } => "UploadPart",
            Self::Complete { .. } => "CompleteMultipartUpload",
            Self::List { .. } => "ListParts",
            Self::Head => "HeadObject",
        }
    }

    /// Only asks what there is: whoever may not, or cannot, does without.
    fn only_asks(self) -> bool {
        matches!(self, Self::List { .. } | Self::Head)
    }

    /// The object may be visible afterwards.
    fn publishes(self) -> bool {
        matches!(self, Self::Put(_) | Self::Complete { .. })
    }

    fn body(self) -> Option<&'a PartBody> {
        match self {
            Self::Put(body) | Self::Part { body, .. } => Some(body),
            _ => None,
        }
    }
}

impl Transfer {
    /// Makes a call; what comes back as `Stop::Store` is neither the network's nor the credentials' fault.
    pub(super) async fn call(&self, request: Request<'_>) -> Result<Reply, Stop> {
        let mut tries = 0;
        let (mut renewed, mut denied, mut skews) = (false, false, 0);
        loop {
            if self.running.rest.is_cancelled() || self.running.cancel.is_cancelled() {
                return Err(Stop::Ended(Ended::Stopped));
            }
            let signer = self.signer().await?;
            let clock_ms = self.core.clock.offset_ms();
            let error = match self.attempt(request, &signer).await? {
                Ok(reply) => return Ok(reply),
                Err(error) => error,
            };
            tracing::debug!(upload = %self.row.id, %error, kind = ?error.kind, outcome = ?error.outcome, "store call failed");
            if error.outcome == Outcome::Unknown && request.publishes() {
                self.in_doubt.store(true, Ordering::Relaxed);
            }
            match error.kind {
                Kind::Offline => {
                    return Err(wait(WaitReason::Offline, Scope::Destination, failure::OFFLINE, &error, false));
                }
                Kind::Clock => return Err(wait(WaitReason::Clock, Scope::Destination, failure::CLOCK, &error, false)),
                // A denial of HEAD has no body to say that it is about the time.
                Kind::AccessDenied if matches!(request, Request::Head) && skews < 2 && self.clock_moved(clock_ms) => {
                    skews += 1;
                }
                // Whoever may not look does without.
                Kind::AccessDenied if request.only_asks() => return Err(Stop::Store(error)),
                Kind::CredentialsExpired if !renewed => {
                    renewed = true;
                    self.renew(&signer, &error).await?;
                }
                Kind::CredentialsExpired if matches!(request, Request::Head) => return Err(Stop::Store(error)),
                Kind::CredentialsExpired => {
                    let scope = Scope::LaneFor(DENIED_RECHECK);
                    let reason = failure::CREDENTIALS_UNAVAILABLE;
                    return Err(wait(WaitReason::Credentials, scope, reason, &error, false));
                }
                // The answer's date was taken over: another signature is all it needs.
                Kind::ClockSkew if skews < 2 => skews += 1,
                Kind::AccessDenied if !denied => {
                    denied = true;
                    self.renew_denied(&signer, &error).await?;
                }
                Kind::AccessDenied => return Err(Stop::Ended(self.denied(&error))),
                Kind::Source => return Err(Stop::Ended(self.unreadable_body(&error).await)),
                Kind::BadDigest if request.body().is_none() => return Err(Stop::Store(error)),
                Kind::Conflict if matches!(request, Request::Complete { .. }) => return Err(Stop::Store(error)),
                Kind::Interrupted
                | Kind::Throttled
                | Kind::Server
                | Kind::BadDigest
                | Kind::Conflict
                | Kind::ClockSkew => {
                    if let (Kind::BadDigest, Some(body)) = (error.kind, request.body()) {
                        self.check_range(body).await.map_err(Stop::Ended)?;
                    }
                    tries += 1;
                    if tries >= self.core.config().part_attempts {
                        if matches!(request, Request::List { .. }) {
                            return Err(Stop::Store(error));
                        }
                        let reason = failure::STORE_UNAVAILABLE;
                        return Err(wait(WaitReason::Retry, Scope::Upload, reason, &error, true));
                    }
                    self.rest(self.core.backoff(tries - 1)).await?;
                }
                _ => return Err(Stop::Store(error)),
            }
        }
    }

    /// The answer's date has corrected the clock that the request was signed by.
    fn clock_moved(&self, offset_ms: i64) -> bool {
        self.core.clock.offset_ms().abs_diff(offset_ms) >= SKEW_MIN_MS
    }

    /// One request, watched for stalls. The outer error: interrupted from outside.
    async fn attempt(&self, request: Request<'_>, signer: &Signer) -> Result<Result<Reply, StoreError>, Stop> {
        let cancelled = self.running.cancel.cancelled();
        let place = match request.body() {
            Some(_) => Some(tokio::select! {
                place = self.core.wire.take(matches!(request, Request::Put(_))) => place,
                () = self.running.rest.cancelled() => return Err(Stop::Ended(Ended::Stopped)),
                () = self.running.cancel.cancelled() => return Err(Stop::Ended(Ended::Stopped)),
            }),
            None => None,
        };
        let begun = Instant::now();
        let progress = Progress::limited(self.core.rate.clone());
        let span = tracing::debug_span!("store", operation = request.name(), upload = %self.row.id);
        let work = self.perform(request, signer, &progress).instrument(span);
        let stalls = self.core.note(self.row.id).stalls;
        let stall = self.patience(request, stalls);
        let watched = async {
            if request.body().is_some() { progress.stalled(stall).await } else { tokio::time::sleep(stall).await }
        };
        let result = tokio::select! {
            result = work => result,
            () = cancelled => {
                // The request is on its way, and nobody waits for what becomes of it.
                self.in_doubt.fetch_or(request.publishes(), Ordering::Relaxed);
                return Err(Stop::Ended(Ended::Stopped));
            }
            () = watched => {
                // Whatever was on its way together stalls together: that is one stall.
                self.core.amend(self.row.id, |note| note.stalls = note.stalls.max(stalls.saturating_add(1)));
                let why = format!("no byte moved for {} ms", stall.as_millis());
                Err(StoreError::unknown(request.name(), Kind::Interrupted, why))
            }
        };
        if result.as_ref().map_or_else(answers, |_| true) {
            self.core.reached(self.row.id);
        }
        if let Some(place) = place {
            metrics().part_attempt(label(&result), begun.elapsed());
            match &result {
                Ok(_) => {
                    metrics().bytes_stored(progress.bytes());
                    place.delivered(progress.bytes());
                    let needed = doublings(self.core.config().stall_timeout_ms, progress.longest_silence());
                    self.core.amend(self.row.id, |note| note.stalls = note.stalls.min(needed));
                }
                Err(error) => {
                    metrics().bytes_resent(progress.bytes());
                    if matches!(error.kind, Kind::Throttled | Kind::Interrupted) {
                        place.too_much();
                    }
                }
            }
        }
        Ok(result)
    }

    /// What was handed to the kernel may take long on a slow link before it is answered: every stall doubles the time
    /// that the next one has, until something gets through with less.
    fn patience(&self, request: Request<'_>, stalls: u32) -> Duration {
        let config = self.core.config();
        if matches!(request, Request::Complete { .. }) {
            return Duration::from_millis(config.complete_timeout_ms);
        }
        let longest = config.complete_timeout_ms.max(config.stall_timeout_ms);
        Duration::from_millis((config.stall_timeout_ms << stalls.min(10)).min(longest))
    }

    async fn perform(&self, request: Request<'_>, signer: &Signer, progress: &Progress) -> Result<Reply, StoreError> {
        let (store, target) = (&self.store, &self.target);
        let counted = |body: &PartBody| PartBody { progress: progress.clone(), ..body.clone() };
        match request {
            Request::Put(body) => {
                let target = crate::store::Target { crc64nvme: Some(body.crc64nvme), ..target.clone() };
                store.put(signer, &target, &counted(body)).await.map(Reply::Stored)
            }
            Request::Create => self.create_multipart(signer).await.map(|created| Reply::Created(Box::new(created))),
            Request::Part { multipart_id, number, body } => {
                store.upload_part(signer, target, multipart_id, number, &counted(body)).await.map(Reply::Part)
            }
            Request::Complete { multipart_id, parts } => {
                let whole = super::multipart::combined(parts);
                let target = crate::store::Target { crc64nvme: Some(whole), ..target.clone() };
                store.complete(signer, &target, multipart_id, parts).await.map(Reply::Stored)
            }
            Request::List { multipart_id } => store.list_parts(signer, target, multipart_id).await.map(Reply::Listed),
            Request::Head => store.head(signer, target).await.map(Reply::Head),
        }
    }

    async fn signer(&self) -> Result<Signer, Stop> {
        let row = &self.row;
        let signer = self.core.tenants.signer(row.owner_uid, &row.identity, &row.identity_id).await;
        signer.map_err(|why| Stop::Ended(self.unsigned(&why)))
    }

    /// A user may always sign in again; a guest who is gone stays away.
    fn unsigned(&self, error: &SessionError) -> Ended {
        let row = &self.row;
        if row.spec.of_guest && !self.core.tenants.guest_may_sign(row.owner_uid, &row.identity, &row.identity_id) {
            let why = "the guest whose photo this is has gone, and nobody may send it in the guest's place: upload the \
                       file again as a user; retry works only where the guest's identity id has become a user's who is \
                       signed in now";
            return Ended::Failed(failure::failure(failure::GUEST_GONE, why));
        }
        no_credentials(error)
    }

    /// The store says that the credentials are past their time.
    async fn renew(&self, signer: &Signer, error: &StoreError) -> Result<(), Stop> {
        // The session may have newer ones by now.
        if self.signer().await?.access_key_id != signer.access_key_id || self.refresh(signer).await? {
            return Ok(());
        }
        let scope = Scope::LaneFor(DENIED_RECHECK);
        Err(wait(WaitReason::Credentials, scope, failure::CREDENTIALS_UNAVAILABLE, error, false))
    }

    /// The store says no: perhaps the user's groups have changed since these credentials were made.
    async fn renew_denied(&self, signer: &Signer, error: &StoreError) -> Result<(), Stop> {
        if self.refresh(signer).await? {
            return Ok(());
        }
        if self.row.spec.waits_when_denied {
            return Err(Stop::Ended(self.denied(error)));
        }
        let now = self.core.clock.boot();
        let mut since = now;
        self.core.amend(self.row.id, |note| since = *note.denied_since.get_or_insert(now));
        if now.saturating_since(since) >= DENIED_PATIENCE {
            return Err(Stop::Ended(self.denied(error)));
        }
        let scope = Scope::UploadFor(DENIED_RECHECK);
        Err(wait(WaitReason::Denied, scope, failure::ACCESS_DENIED, error, false))
    }

    async fn refresh(&self, signer: &Signer) -> Result<bool, Stop> {
        let row = &self.row;
        let tenants = &self.core.tenants;
        let refreshed =
            tenants.refresh_after_denied(row.owner_uid, &row.identity, &row.identity_id, &signer.access_key_id).await;
        refreshed.map_err(|why| Stop::Ended(self.unsigned(&why)))
    }

    fn denied(&self, error: &StoreError) -> Ended {
        self.core.amend(self.row.id, |note| note.denied_since = None);
        let why =
            format!("the store denies it, also with fresh credentials: {error}: check the user's groups and roles");
        let failure = failure::failure(failure::ACCESS_DENIED, why);
        if self.row.spec.waits_when_denied {
            let scope = Scope::UploadFor(GROUPS_RECHECK);
            return Ended::Wait(Wait { reason: WaitReason::Denied, scope, failure, counts: false });
        }
        Ended::Failed(failure)
    }

    async fn unreadable_body(&self, error: &StoreError) -> Ended {
        let why = std::io::Error::other(error.to_string());
        let length = self.file.metadata().map(|metadata| metadata.len());
        let short = length.is_ok_and(|length| length < self.total_bytes);
        let kind = if short { std::io::ErrorKind::UnexpectedEof } else { std::io::ErrorKind::Other };
        self.unreadable(&std::io::Error::new(kind, why)).await
    }

    /// The store got other bytes than we meant: did they change here, or on the way?
    async fn check_range(&self, body: &PartBody) -> Result<(), Ended> {
        self.check_source().await?;
        if self.crc(body.offset, body.len).await? == body.crc64nvme {
            return Ok(());
        }
        let (reason, why) = match self.fingerprint {
            Some(_) => (failure::SOURCE_CHANGED, "the file changed while it was being sent: upload it again"),
            None => (failure::SPOOL_CORRUPT, "the spooled bytes change from reading to reading: check the disk"),
        };
        Err(Ended::Failed(failure::failure(reason, why)))
    }

    /// Waits before another try.
    async fn rest(&self, duration: Duration) -> Result<(), Stop> {
        tokio::select! {
            () = tokio::time::sleep(duration) => Ok(()),
            () = self.running.rest.cancelled() => Err(Stop::Ended(Ended::Stopped)),
            () = self.running.cancel.cancelled() => Err(Stop::Ended(Ended::Stopped)),
        }
    }
}

fn wait(reason: WaitReason, scope: Scope, name: &'static str, error: &StoreError, counts: bool) -> Stop {
    let failure = failure::failure(name, error.to_string());
    Stop::Ended(Ended::Wait(Wait { reason, scope, failure, counts }))
}

/// What a session's failure means for an upload: it waits, whatever it is.
fn no_credentials(error: &SessionError) -> Ended {
    let message = |reason: &'static str| -> UploadFailure { failure::failure(reason, error.to_string()) };
    let (reason, scope, failure) = match error {
        SessionError::NeedsSignIn(_)
        | SessionError::NotFound(_)
        | SessionError::NoSession
        | SessionError::IdentityNotFound(..)
        | SessionError::IdentityChanged(_) => (WaitReason::SignIn, Scope::Lane, message(failure::SIGN_IN_NEEDED)),
        SessionError::Unavailable { retry_after, .. } => {
            let scope = Scope::LaneFor(*retry_after);
            (WaitReason::Credentials, scope, message(failure::CREDENTIALS_UNAVAILABLE))
        }
        _ => {
            let scope = Scope::LaneFor(CONFIGURATION_RECHECK);
            (WaitReason::Credentials, scope, message(failure::CREDENTIALS_UNAVAILABLE))
        }
    };
    Ended::Wait(Wait { reason, scope, failure, counts: false })
}

/// How many times the timeout must be doubled to be twice the silence of a transfer that got through: the next one on the
/// same link has room to be slower.
fn doublings(stall_timeout_ms: u64, silence: Duration) -> u32 {
    let timeouts = (2 * silence.as_millis()).div_ceil(u128::from(stall_timeout_ms.max(1)));
    timeouts.max(1).next_power_of_two().ilog2()
}

/// The failure is an answer of the store.
fn answers(error: &StoreError) -> bool {
    !matches!(error.kind, Kind::Offline | Kind::Clock | Kind::Interrupted | Kind::Source)
}

fn label(result: &Result<Reply, StoreError>) -> Label {
    match result {
        Ok(_) => Label::Ok,
        Err(error) => match error.kind {
            Kind::AccessDenied | Kind::CredentialsExpired => Label::Denied,
            Kind::Throttled => Label::Throttled,
            Kind::Offline | Kind::Interrupted | Kind::Server | Kind::Clock | Kind::ClockSkew => Label::Transient,
            Kind::Refused | Kind::Unsupported => Label::Configuration,
            _ => Label::Other,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slow_link_keeps_the_patience_that_it_needs_and_a_fast_one_none() {
        let after = |silence_s| doublings(20_000, Duration::from_secs(silence_s));
        assert_eq!([0, 3, 10].map(after), [0; 3]);
        assert_eq!([11, 20, 21, 79, 150, 600].map(after), [1, 1, 2, 3, 4, 6]);
    }
}
