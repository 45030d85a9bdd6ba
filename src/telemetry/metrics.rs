//! Every metric of Tidegate: its name, its labels, and the typed call that records it.
//!
//! Owns the names; promises that a name and its labels stand nowhere else, that label values come from the small closed
//! sets below, and that a call costs one atomic load while nobody reads; must never take a user id, uid, key, bucket or
//! file name. The names are those of the Prometheus page; OTLP pushes the same ones.

use std::sync::OnceLock;
use std::time::Duration;

use opentelemetry::KeyValue;
use opentelemetry::metrics::{Counter, Gauge, Histogram, Meter, MeterProvider as _, UpDownCounter};

/// What kind of number a metric is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Only grows, from zero at the start of the process.
    Counter,
    /// Goes up and down.
    Gauge,
    /// A distribution: `_bucket`, `_sum`, `_count` on the page.
    Histogram,
}

/// One metric.
#[derive(Debug, Clone, Copy)]
pub struct Metric {
    /// Its name, everywhere.
    pub name: &'static str,
    /// What kind of number it is.
    pub kind: Kind,
    /// UCUM: `By` bytes, `s` seconds, `{thing}` a count of things.
    pub unit: &'static str,
    /// The names of its labels.
    pub labels: &'static [&'static str],
    /// What it tells.
    pub help: &'static str,
}

/// Declares the metrics: a constant for each, and the list of all.
macro_rules! metrics_table {
    ($($constant:ident = $name:literal, $kind:ident, $unit:literal, [$($label:literal),*], $help:literal;)+) => {
        $(
            #[doc = $help]
            pub const $constant: Metric =
                Metric { name: $name, kind: Kind::$kind, unit: $unit, labels: &[$($label),*], help: $help };
        )+
        /// Every metric there is.
        pub const ALL: &[Metric] = &[$($constant),+];
    };
}

metrics_table! {
    BUILD_INFO = "tidegate_build_info", Gauge, "{process}", ["version"],
        "Always 1; the label is the version.";
    RPC_DURATION = "tidegate_rpc_duration_seconds", Histogram, "s", ["method", "code"],
        "Time and number of answered RPCs, by method and gRPC code; streams count when they end.";
    CONNECTIONS_OPEN = "tidegate_connections_open", Gauge, "{connection}", [],
        "Open connections on the socket.";
    CONNECTIONS_REFUSED = "tidegate_connections_refused_total", Counter, "{connection}", ["reason"],
        "Connections closed at once, by the limit that they met.";
    SESSIONS = "tidegate_sessions", Gauge, "{session}", ["state"],
        "Sessions on this device, by state.";
    SIGN_INS = "tidegate_session_sign_ins_total", Counter, "{sign_in}", ["outcome"],
        "Answered SignIn and RespondToChallenge calls, by outcome.";
    UPSTREAM_DURATION = "tidegate_credential_upstream_call_duration_seconds", Histogram, "s", ["operation", "outcome"],
        "Time and number of calls to the user pool, the identity pool and STS, by operation and outcome.";
    CREDENTIAL_CACHE = "tidegate_credential_cache_total", Counter, "{read}", ["result"],
        "Reads of session credentials: from memory, stale from memory, or after an upstream call.";
    VEND_REQUESTS = "tidegate_vend_requests_total", Counter, "{request}", ["outcome"],
        "Requests to the credentials endpoint on loopback, by outcome.";
    UPLOAD_TRANSITIONS = "tidegate_upload_transitions_total", Counter, "{transition}", ["state"],
        "Uploads that entered a state.";
    UPLOAD_DURATION = "tidegate_upload_duration_seconds", Histogram, "s", [],
        "From the acceptance of an upload to its being stored.";
    RECEIVED_BYTES = "tidegate_upload_received_bytes_total", Counter, "By", [],
        "Bytes taken over the socket.";
    STORED_BYTES = "tidegate_upload_stored_bytes_total", Counter, "By", [],
        "Bytes that the store has acknowledged.";
    RESENT_BYTES = "tidegate_upload_resent_bytes_total", Counter, "By", [],
        "Bytes sent a second time or more, because an attempt failed or the process was restarted.";
    PART_DURATION = "tidegate_upload_part_duration_seconds", Histogram, "s", ["outcome"],
        "Time and number of attempts to send one part or one whole small object, by outcome.";
    UPLOADS_QUEUED = "tidegate_uploads_queued", Gauge, "{upload}", [],
        "Uploads that are durable here and wait for their turn.";
    UPLOADS_RUNNING = "tidegate_uploads_running", Gauge, "{upload}", [],
        "Uploads that are being sent.";
    SPOOL_BYTES = "tidegate_spool_bytes", Gauge, "By", [],
        "Bytes in the spool.";
    DISK_FREE_BYTES = "tidegate_disk_free_bytes", Gauge, "By", [],
        "Free bytes on the spool's file system.";
    JOURNAL_DURATION = "tidegate_journal_commit_duration_seconds", Histogram, "s", [],
        "Time and number of synced commits to the journal.";
    CONFIG_RELOADS = "tidegate_config_reloads_total", Counter, "{reload}", ["outcome"],
        "Reloads of the configuration, by outcome.";
}

/// Declares a closed set of label values.
macro_rules! label_values {
    ($(#[$about:meta])* $set:ident { $($(#[$meaning:meta])* $value:ident = $text:literal,)+ }) => {
        $(#[$about])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum $set { $($(#[$meaning])* $value,)+ }

        impl $set {
            /// Every value.
            pub const ALL: &'static [Self] = &[$(Self::$value),+];

            /// The value on the page.
            pub const fn label(self) -> &'static str {
                match self { $(Self::$value => $text,)+ }
            }
        }
    };
}

label_values! {
    /// Why a connection was closed at once.
    Refusal {
        /// As many as `max_connections`.
        Total = "total_limit",
        /// As many as `max_connections_per_uid`.
        PerUid = "uid_limit",
        /// The kernel does not say who is calling, or says "nobody in particular".
        NoPeer = "no_peer",
    }
}

label_values! {
    /// What a session can do.
    SessionStateLabel {
        /// Fresh.
        Active = "active",
        /// The last refresh failed.
        Stale = "stale",
        /// The user must sign in again.
        NeedsSignIn = "needs_sign_in",
        /// Only uploads still use it.
        SigningOut = "signing_out",
    }
}

label_values! {
    /// What came of a SignIn, or of the answer to its challenge.
    SignInOutcome {
        /// A session.
        Ok = "ok",
        /// Something is asked first.
        Challenged = "challenged",
        /// Wrong name, password or token.
        Refused = "refused",
        /// Something else.
        Failed = "failed",
    }
}

label_values! {
    /// A call to AWS for tokens or credentials.
    UpstreamOperation {
        /// InitiateAuth by name, with a password or its proof.
        PasswordAuth = "password_auth",
        /// RespondToAuthChallenge, AssociateSoftwareToken or VerifySoftwareToken.
        Challenge = "challenge",
        /// ConfirmDevice or UpdateDeviceStatus.
        Device = "device",
        /// InitiateAuth or GetTokensFromRefreshToken.
        TokenRefresh = "token_refresh",
        /// A hosted page's code for tokens.
        CodeExchange = "code_exchange",
        /// RevokeToken or GlobalSignOut.
        Revoke = "revoke",
        /// The issuer's keys.
        Jwks = "jwks",
        /// Sign-up, codes, passwords.
        Account = "account",
        /// GetId.
        GetId = "get_id",
        /// GetCredentialsForIdentity.
        GetCredentials = "get_credentials",
        /// GetOpenIdToken.
        GetOpenIdToken = "get_open_id_token",
        /// AssumeRoleWithWebIdentity.
        AssumeRole = "assume_role",
        /// AWS's default chain.
        SdkChain = "sdk_chain",
    }
}

label_values! {
    /// What came of a call to AWS, by what it means for us.
    Outcome {
        /// It did what was asked.
        Ok = "ok",
        /// Refused: wrong login, denied.
        Denied = "denied",
        /// Too many calls.
        Throttled = "throttled",
        /// Network, timeout, 5xx: worth another try.
        Transient = "transient",
        /// Somebody must mend something.
        Configuration = "configuration",
        /// Anything else.
        Other = "other",
    }
}

label_values! {
    /// Where credentials came from.
    CacheResult {
        /// From memory.
        Hit = "hit",
        /// From memory, after a refresh that failed.
        Stale = "stale",
        /// After an upstream call.
        Miss = "miss",
    }
}

label_values! {
    /// What came of a request to the credentials endpoint.
    VendOutcome {
        /// Credentials.
        Ok = "ok",
        /// Credentials from before a refresh that failed.
        Stale = "stale",
        /// No token, or not the session's.
        Unauthorized = "unauthorized",
        /// Came through a proxy.
        Forwarded = "forwarded",
        /// Another host's name in the request.
        WrongHost = "wrong_host",
        /// Another method or path, or a body.
        BadRequest = "bad_request",
        /// The user must sign in again.
        NeedsSignIn = "needs_sign_in",
        /// None now.
        Unavailable = "unavailable",
        /// None in time.
        TimedOut = "timed_out",
        /// Somebody must mend the configuration or the disk.
        Broken = "broken",
    }
}

label_values! {
    /// A state that an upload entered.
    UploadStateLabel {
        /// Bytes arrive.
        Receiving = "receiving",
        /// Durable here.
        Queued = "queued",
        /// On its way.
        Running = "running",
        /// Not now.
        Waiting = "waiting",
        /// In the store.
        Succeeded = "succeeded",
        /// Given up, bytes kept.
        Failed = "failed",
        /// Stopped by its owner.
        Cancelled = "cancelled",
    }
}

label_values! {
    /// What came of a reload.
    ReloadOutcome {
        /// The new configuration is in force.
        Applied = "applied",
        /// Nothing had changed.
        Unchanged = "unchanged",
        /// It was wrong; the running one was kept.
        Refused = "refused",
    }
}

/// Seconds: from a cache hit over the socket to a clip over a slow link.
const SECONDS: [f64; 20] = [
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0,
    300.0, 1800.0,
];

static INSTALLED: OnceLock<Metrics> = OnceLock::new();
static SILENT: OnceLock<Metrics> = OnceLock::new();

/// The process's metrics; before [`super::init`], and where nobody reads them, they record nothing.
pub fn metrics() -> &'static Metrics {
    INSTALLED.get().unwrap_or_else(|| SILENT.get_or_init(Metrics::silent))
}

/// Makes `meter` the process's; the first one stays.
pub(super) fn install(meter: &Meter) {
    let metrics = INSTALLED.get_or_init(|| Metrics::new(meter));
    metrics.build_info.record(1, &[KeyValue::new("version", env!("CARGO_PKG_VERSION"))]);
}

/// One typed call per metric.
#[derive(Debug)]
pub struct Metrics {
    recording: bool,
    build_info: Gauge<u64>,
    rpc_duration: Histogram<f64>,
    connections_open: UpDownCounter<i64>,
    connections_refused: Counter<u64>,
    sessions: UpDownCounter<i64>,
    sign_ins: Counter<u64>,
    upstream_duration: Histogram<f64>,
    credential_cache: Counter<u64>,
    vend_requests: Counter<u64>,
    upload_transitions: Counter<u64>,
    upload_duration: Histogram<f64>,
    received_bytes: Counter<u64>,
    stored_bytes: Counter<u64>,
    resent_bytes: Counter<u64>,
    part_duration: Histogram<f64>,
    uploads_queued: Gauge<u64>,
    uploads_running: Gauge<u64>,
    spool_bytes: Gauge<u64>,
    disk_free_bytes: Gauge<u64>,
    journal_duration: Histogram<f64>,
    config_reloads: Counter<u64>,
}

impl Metrics {
    /// Metrics that `meter` records.
    pub fn new(meter: &Meter) -> Self {
        Self::build(meter, true)
    }

    /// Metrics that nobody reads.
    fn silent() -> Self {
        Self::build(&opentelemetry::metrics::noop::NoopMeterProvider::new().meter("tidegate"), false)
    }

    fn build(meter: &Meter, recording: bool) -> Self {
        let counter = |metric: Metric| {
            meter.u64_counter(metric.name).with_unit(metric.unit).with_description(metric.help).build()
        };
        let gauge =
            |metric: Metric| meter.u64_gauge(metric.name).with_unit(metric.unit).with_description(metric.help).build();
        let level = |metric: Metric| {
            meter.i64_up_down_counter(metric.name).with_unit(metric.unit).with_description(metric.help).build()
        };
        let seconds = |metric: Metric| {
            let builder = meter.f64_histogram(metric.name).with_unit(metric.unit).with_description(metric.help);
            builder.with_boundaries(SECONDS.to_vec()).build()
        };
        Self {
            recording,
            build_info: gauge(BUILD_INFO),
            rpc_duration: seconds(RPC_DURATION),
            connections_open: level(CONNECTIONS_OPEN),
            connections_refused: counter(CONNECTIONS_REFUSED),
            sessions: level(SESSIONS),
            sign_ins: counter(SIGN_INS),
            upstream_duration: seconds(UPSTREAM_DURATION),
            credential_cache: counter(CREDENTIAL_CACHE),
            vend_requests: counter(VEND_REQUESTS),
            upload_transitions: counter(UPLOAD_TRANSITIONS),
            upload_duration: seconds(UPLOAD_DURATION),
            received_bytes: counter(RECEIVED_BYTES),
            stored_bytes: counter(STORED_BYTES),
            resent_bytes: counter(RESENT_BYTES),
            part_duration: seconds(PART_DURATION),
            uploads_queued: gauge(UPLOADS_QUEUED),
            uploads_running: gauge(UPLOADS_RUNNING),
            spool_bytes: gauge(SPOOL_BYTES),
            disk_free_bytes: gauge(DISK_FREE_BYTES),
            journal_duration: seconds(JOURNAL_DURATION),
            config_reloads: counter(CONFIG_RELOADS),
        }
    }

    /// An RPC was answered. `method` is one of the API's own ("UploadService/Upload"), never what a caller sent.
    pub fn rpc(&self, method: &'static str, code: tonic::Code, took: Duration) {
        if self.recording {
            let labels = [KeyValue::new("method", method), KeyValue::new("code", code_label(code))];
            self.rpc_duration.record(took.as_secs_f64(), &labels);
        }
    }

    /// A connection was opened; [`Metrics::connection_closed`] must follow.
    pub fn connection_opened(&self) {
        self.connections_open.add(1, &[]);
    }

    /// A connection was closed.
    pub fn connection_closed(&self) {
        self.connections_open.add(-1, &[]);
    }

    /// A connection was closed at once.
    pub fn connection_refused(&self, reason: Refusal) {
        self.connections_refused.add(1, &[KeyValue::new("reason", reason.label())]);
    }

    /// A session went from one state to another; `None` is "not there".
    pub fn session_moved(&self, from: Option<SessionStateLabel>, to: Option<SessionStateLabel>) {
        if !self.recording || from == to {
            return;
        }
        for (state, step) in [(from, -1), (to, 1)] {
            if let Some(state) = state {
                self.sessions.add(step, &[KeyValue::new("state", state.label())]);
            }
        }
    }

    /// A SignIn was answered.
    pub fn sign_in(&self, outcome: SignInOutcome) {
        self.sign_ins.add(1, &[KeyValue::new("outcome", outcome.label())]);
    }

    /// A call for tokens or credentials came back, or was given up.
    pub fn upstream_call(&self, operation: UpstreamOperation, outcome: Outcome, took: Duration) {
        if self.recording {
            let labels = [KeyValue::new("operation", operation.label()), KeyValue::new("outcome", outcome.label())];
            self.upstream_duration.record(took.as_secs_f64(), &labels);
        }
    }

    /// Credentials were read.
    pub fn credential_read(&self, result: CacheResult) {
        if self.recording {
            self.credential_cache.add(1, &[KeyValue::new("result", result.label())]);
        }
    }

    /// A request to the credentials endpoint was answered.
    pub fn vend_request(&self, outcome: VendOutcome) {
        self.vend_requests.add(1, &[KeyValue::new("outcome", outcome.label())]);
    }

    /// An upload entered a state.
    pub fn upload_entered(&self, state: UploadStateLabel) {
        self.upload_transitions.add(1, &[KeyValue::new("state", state.label())]);
    }

    /// An upload is in the store, this long after it was accepted.
    pub fn upload_stored_after(&self, took: Duration) {
        self.upload_duration.record(took.as_secs_f64(), &[]);
    }

    /// Bytes came over the socket.
    pub fn bytes_received(&self, bytes: u64) {
        if self.recording {
            self.received_bytes.add(bytes, &[]);
        }
    }

    /// Bytes were acknowledged by the store.
    pub fn bytes_stored(&self, bytes: u64) {
        self.stored_bytes.add(bytes, &[]);
    }

    /// Bytes are being sent that were sent before.
    pub fn bytes_resent(&self, bytes: u64) {
        self.resent_bytes.add(bytes, &[]);
    }

    /// An attempt to send a part (or a whole small object) ended.
    pub fn part_attempt(&self, outcome: Outcome, took: Duration) {
        self.part_duration.record(took.as_secs_f64(), &[KeyValue::new("outcome", outcome.label())]);
    }

    /// How many uploads wait for their turn and how many are being sent now.
    pub fn uploads_now(&self, queued: u64, running: u64) {
        self.uploads_queued.record(queued, &[]);
        self.uploads_running.record(running, &[]);
    }

    /// How full the spool is, and how much room its file system has.
    pub fn spool_now(&self, spool_bytes: u64, disk_free_bytes: u64) {
        self.spool_bytes.record(spool_bytes, &[]);
        self.disk_free_bytes.record(disk_free_bytes, &[]);
    }

    /// The journal synced a commit.
    pub fn journal_commit(&self, took: Duration) {
        self.journal_duration.record(took.as_secs_f64(), &[]);
    }

    /// The configuration was read again.
    pub fn config_reload(&self, outcome: ReloadOutcome) {
        self.config_reloads.add(1, &[KeyValue::new("outcome", outcome.label())]);
    }

    /// One value for each metric, so that a test finds all of them on the page.
    #[cfg(test)]
    pub(super) fn record_one_of_each(&self) {
        let second = Duration::from_secs(1);
        self.build_info.record(1, &[KeyValue::new("version", "test")]);
        self.rpc("UploadService/Upload", tonic::Code::Ok, second);
        self.connection_opened();
        self.connection_closed();
        self.connection_refused(Refusal::PerUid);
        self.session_moved(None, Some(SessionStateLabel::Active));
        self.sign_in(SignInOutcome::Ok);
        self.upstream_call(UpstreamOperation::GetId, Outcome::Ok, second);
        self.credential_read(CacheResult::Hit);
        self.vend_request(VendOutcome::Ok);
        self.upload_entered(UploadStateLabel::Queued);
        self.upload_stored_after(second);
        self.bytes_received(1);
        self.bytes_stored(1);
        self.bytes_resent(1);
        self.part_attempt(Outcome::Transient, second);
        self.uploads_now(1, 1);
        self.spool_now(1, 1);
        self.journal_commit(second);
        self.config_reload(ReloadOutcome::Applied);
    }
}

/// gRPC's own name of a code.
fn code_label(code: tonic::Code) -> &'static str {
    match code {
        tonic::Code::Ok => "OK",
        tonic::Code::Cancelled => "CANCELLED",
        tonic::Code::Unknown => "UNKNOWN",
        tonic::Code::InvalidArgument => "INVALID_ARGUMENT",
        tonic::Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        tonic::Code::NotFound => "NOT_FOUND",
        tonic::Code::AlreadyExists => "ALREADY_EXISTS",
        tonic::Code::PermissionDenied => "PERMISSION_DENIED",
        tonic::Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        tonic::Code::FailedPrecondition => "FAILED_PRECONDITION",
        tonic::Code::Aborted => "ABORTED",
        tonic::Code::OutOfRange => "OUT_OF_RANGE",
        tonic::Code::Unimplemented => "UNIMPLEMENTED",
        tonic::Code::Internal => "INTERNAL",
        tonic::Code::Unavailable => "UNAVAILABLE",
        tonic::Code::DataLoss => "DATA_LOSS",
        tonic::Code::Unauthenticated => "UNAUTHENTICATED",
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::collections::BTreeSet;

    use super::*;

    /// Every quoted `tidegate_…` in this file.
    fn names_in_this_file() -> Vec<&'static str> {
        let quoted = include_str!("metrics.rs").split('"');
        quoted.filter(|text| text.starts_with("tidegate_") && text.len() > "tidegate_".len()).collect()
    }

    #[test]
    fn a_name_stands_once_and_in_the_list() {
        let names = names_in_this_file();
        let once: BTreeSet<_> = names.iter().copied().collect();
        assert_eq!(names.len(), once.len(), "a metric's name is written twice");
        assert_eq!(once, ALL.iter().map(|metric| metric.name).collect());
    }

    #[test]
    fn names_end_in_their_unit_and_say_what_they_are() {
        for Metric { name, kind, unit, labels, help } in ALL {
            let base = name.strip_suffix("_total").unwrap_or(name);
            assert_eq!(*kind == Kind::Counter, name.ends_with("_total"), "{name}: only counters end in _total");
            assert_eq!(*unit == "By", base.ends_with("_bytes"), "{name}: bytes end in _bytes");
            assert_eq!(*unit == "s", base.ends_with("_seconds"), "{name}: seconds end in _seconds");
            assert!(help.ends_with('.'), "{name}: the help is a sentence");
            for label in *labels {
                let personal = ["user", "uid", "key", "bucket", "session", "file", "path", "subject", "identity"];
                assert!(!personal.contains(label), "{name}: label {label} may name a person or a photo");
            }
        }
    }

    #[test]
    fn no_other_file_names_a_metric() {
        let source = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
        let mut folders = vec![source];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    folders.push(path);
                } else if path.extension().is_some_and(|extension| extension == "rs") && !path.ends_with("metrics.rs") {
                    let text = std::fs::read_to_string(&path).unwrap();
                    for metric in ALL {
                        let quoted = format!("\"{}\"", metric.name);
                        assert!(!text.contains(&quoted), "{}: names the metric {quoted}", path.display());
                    }
                }
            }
        }
    }

    #[test]
    fn metrics_before_the_start_record_nothing() {
        Metrics::silent().record_one_of_each();
    }
}
