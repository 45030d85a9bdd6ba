//! Every reason that the API can answer with, in one table: name, gRPC code, and what the caller can do. The names are
//! part of the API: they never change their meaning and are never removed. `reasons.md` is this table for people; a
//! test compares them.

use tonic::Code;

macro_rules! reasons {
    ($($variant:ident = $name:literal, $code:ident, $advice:literal;)+) => {
        /// Why a call failed: the `reason` of the status's `google.rpc.ErrorInfo`, in the domain `tidegate`.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Reason {
            $(#[doc = $advice] $variant,)+
        }

        impl Reason {
            /// Every reason, in the order of the table.
            pub const ALL: &[Self] = &[$(Self::$variant,)+];

            /// The stable UPPER_SNAKE name.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)+ }
            }

            /// The gRPC code that it always comes with.
            pub const fn code(self) -> Code {
                match self { $(Self::$variant => Code::$code,)+ }
            }

            /// What it means and what to do.
            pub const fn advice(self) -> &'static str {
                match self { $(Self::$variant => $advice,)+ }
            }
        }
    };
}

reasons! {
    // The request itself.
    MissingField = "MISSING_FIELD", InvalidArgument, "A field that the call needs is empty; the violation names it.";
    InvalidField = "INVALID_FIELD", InvalidArgument, "A field has a value that cannot be used; the violation says why.";
    InvalidName = "INVALID_NAME", InvalidArgument, "A name is not `sessions/{id}` or `uploads/{id}` with a ULID.";
    InvalidPageSize = "INVALID_PAGE_SIZE", InvalidArgument, "`page_size` is negative; 0 means 100, the most is 1,000.";
    InvalidPageToken = "INVALID_PAGE_TOKEN", InvalidArgument, "The page token is not from an answer to this caller and this filter; start again without it.";
    UnknownEnumValue = "UNKNOWN_ENUM_VALUE", InvalidArgument, "An enum has a number that this version does not know.";
    UnknownField = "UNKNOWN_FIELD", InvalidArgument, "A message has a field that this version does not know, so it could not be honoured; update the daemon or leave the field out.";
    MalformedMessage = "MALFORMED_MESSAGE", InvalidArgument, "The bytes are not the message that the method takes.";
    MessageTooLarge = "MESSAGE_TOO_LARGE", ResourceExhausted, "A message is larger than `max_message_bytes`; send smaller chunks.";
    UnsupportedEncoding = "UNSUPPORTED_ENCODING", Unimplemented, "The message is compressed; send it uncompressed.";
    UnknownMethod = "UNKNOWN_METHOD", Unimplemented, "No such service or method; list them by reflection.";
    UnimplementedInThisVersion = "UNIMPLEMENTED_IN_THIS_VERSION", Unimplemented, "The method is defined but not built in this version of the daemon.";
    NotAdmin = "NOT_ADMIN", PermissionDenied, "Only root and `admin_uids` may call this.";
    StreamLimitReached = "STREAM_LIMIT_REACHED", ResourceExhausted, "As many calls are running (in total, or of this uid) as the daemon allows; try again when some have ended.";
    Stopping = "STOPPING", Unavailable, "The daemon is stopping; try again when it is back.";
    Internal = "INTERNAL", Internal, "A fault of the daemon; see its log.";

    // Accounts.
    AccountRateLimited = "ACCOUNT_RATE_LIMITED", ResourceExhausted, "This uid has made as many AccountService calls in the last minute as the daemon allows.";
    IdentityNotFound = "IDENTITY_NOT_FOUND", NotFound, "No such identity in the configuration.";
    IdentityAmbiguous = "IDENTITY_AMBIGUOUS", InvalidArgument, "The configuration has several identities; say which one.";
    IdentityHasNoDirectory = "IDENTITY_HAS_NO_DIRECTORY", FailedPrecondition, "The identity's users are managed elsewhere; there is no directory to sign up with.";
    UserExists = "USER_EXISTS", AlreadyExists, "The name or the e-mail address is taken.";
    AliasExists = "ALIAS_EXISTS", AlreadyExists, "The address or number belongs to another account.";
    InvalidPassword = "INVALID_PASSWORD", InvalidArgument, "The password does not meet the pool's policy, which the text names.";
    InvalidParameter = "INVALID_PARAMETER", InvalidArgument, "The directory refuses an input; the text says which.";
    CodeMismatch = "CODE_MISMATCH", InvalidArgument, "The code is wrong.";
    CodeExpired = "CODE_EXPIRED", FailedPrecondition, "The code is too old; ask for a new one.";
    CodeDeliveryFailed = "CODE_DELIVERY_FAILED", Unavailable, "The directory could not send the code; try again after the delay, or another way.";
    RefusedByPool = "REFUSED_BY_POOL", PermissionDenied, "A rule of the user pool (one of its triggers) refuses this; the text is the pool's.";
    LimitExceeded = "LIMIT_EXCEEDED", ResourceExhausted, "The directory has seen too many tries for this account.";
    UserNotFound = "USER_NOT_FOUND", NotFound, "No such user, where the directory tells.";
    AccountStateConflict = "ACCOUNT_STATE_CONFLICT", FailedPrecondition, "The account's state does not allow it, for example it is confirmed already.";

    // Signing in, sessions, credentials.
    BadCredentials = "BAD_CREDENTIALS", Unauthenticated, "Wrong name or password.";
    UserNotConfirmed = "USER_NOT_CONFIRMED", FailedPrecondition, "The account waits for its confirmation code; call ConfirmSignUp.";
    PasswordResetRequired = "PASSWORD_RESET_REQUIRED", FailedPrecondition, "The user must reset the password first; call ForgotPassword.";
    ChallengeRequired = "CHALLENGE_REQUIRED", FailedPrecondition, "The directory asks for something more (for example a second factor) that this version cannot answer.";
    ChallengeNotFound = "CHALLENGE_NOT_FOUND", NotFound, "No open challenge of this uid has this id; sign in again.";
    ChallengeAnswered = "CHALLENGE_ANSWERED", FailedPrecondition, "The challenge was answered already; go on with the one that followed, or sign in again.";
    ChallengeExpired = "CHALLENGE_EXPIRED", FailedPrecondition, "The challenge was not answered in time, or the directory has ended it; sign in again.";
    ChallengeBusy = "CHALLENGE_BUSY", Aborted, "Another answer to the challenge is on its way.";
    TokenInvalid = "TOKEN_INVALID", Unauthenticated, "The token is forged, malformed, or not an ID token.";
    TokenExpired = "TOKEN_EXPIRED", Unauthenticated, "The token has expired; get a new one.";
    TokenWrongAudience = "TOKEN_WRONG_AUDIENCE", Unauthenticated, "The token is for another client or another pool.";
    SessionNotFound = "SESSION_NOT_FOUND", NotFound, "No such session of this uid.";
    NoSession = "NO_SESSION", NotFound, "The session was left out and this uid has none; sign in.";
    SessionAmbiguous = "SESSION_AMBIGUOUS", InvalidArgument, "The session was left out and this uid has several; say which one.";
    SessionLimitReached = "SESSION_LIMIT_REACHED", ResourceExhausted, "The device holds `max_sessions` sessions; sign one out.";
    NeedsSignIn = "NEEDS_SIGN_IN", Unauthenticated, "The session has ended upstream; the user must sign in again. Uploads wait.";
    CredentialsUnavailable = "CREDENTIALS_UNAVAILABLE", Unavailable, "No valid credentials now; try again after the delay.";
    VendingDisabled = "VENDING_DISABLED", FailedPrecondition, "The daemon serves no credentials endpoint; the administrator sets `vend.listen`, or programs use `tidegate credentials` as `credential_process`.";
    IdentityChanged = "IDENTITY_CHANGED", FailedPrecondition, "The refresh gave another user, issuer, client or identity id; the session is parked. Sign in again.";
    SignInMethodUnsupported = "SIGN_IN_METHOD_UNSUPPORTED", FailedPrecondition, "The identity signs nobody in that way; the text says how it does.";
    GuestsNotAllowed = "GUESTS_NOT_ALLOWED", FailedPrecondition, "The identity, or its identity pool, takes no guests; sign a user in, or let the administrator allow them.";
    GuestHasNoTokens = "GUEST_HAS_NO_TOKENS", FailedPrecondition, "A guest has no JWTs; sign a user in.";
    ServiceSessionStays = "SERVICE_SESSION_STAYS", PermissionDenied, "The session is a device account of the configuration; only the administrator ends it, there.";
    UpstreamUnavailable = "UPSTREAM_UNAVAILABLE", Unavailable, "The directory or token service cannot be reached; try again after the delay.";
    UpstreamThrottled = "UPSTREAM_THROTTLED", Unavailable, "The directory or token service is throttling; try again after the delay.";
    UpstreamMisconfigured = "UPSTREAM_MISCONFIGURED", FailedPrecondition, "Pool, client, role or configuration cannot work together; the administrator must mend it.";

    // Signing in by a page in the browser.
    FederationNotConfigured = "FEDERATION_NOT_CONFIGURED", FailedPrecondition, "The identity has no hosted sign-in page; the administrator must add `[identity.hosted_ui]`.";
    FederationLimitReached = "FEDERATION_LIMIT_REACHED", ResourceExhausted, "As many sign-ins by the page are under way as `max_federated_sign_ins` allows; try again later.";
    ProviderNotFound = "PROVIDER_NOT_FOUND", NotFound, "The provider is not one of `identity.hosted_ui.providers`.";
    RedirectUriNotAllowed = "REDIRECT_URI_NOT_ALLOWED", InvalidArgument, "The redirect URI is not one of `identity.hosted_ui.redirect_uris`.";
    RedirectPortBusy = "REDIRECT_PORT_BUSY", Unavailable, "Another program uses the port of the loopback redirect; end it, or use another redirect URI.";
    RedirectMismatch = "REDIRECT_MISMATCH", InvalidArgument, "The redirect URL is from another place than this sign-in's redirect URI; nothing was sent.";
    FederationStateUnknown = "FEDERATION_STATE_UNKNOWN", NotFound, "No sign-in of this uid has this state; begin again.";
    FederationStateExpired = "FEDERATION_STATE_EXPIRED", FailedPrecondition, "The sign-in was begun too long ago, or made way for newer ones; begin again.";
    FederationStateUsed = "FEDERATION_STATE_USED", FailedPrecondition, "The sign-in was finished already; begin again.";
    FederationCancelled = "FEDERATION_CANCELLED", Unauthenticated, "The user cancelled at the provider.";
    FederationRefused = "FEDERATION_REFUSED", FailedPrecondition, "The page or the provider refused; `error` and the text say why.";
    FederationLinkedNow = "FEDERATION_LINKED_NOW", Aborted, "The user pool has just linked the provider's account to the user and ended this attempt; open the same `authorize_url` once more.";
    FederationCodeRefused = "FEDERATION_CODE_REFUSED", Unauthenticated, "The page does not take the code: used, too old, or another sign-in's; begin again.";
    FederationNonceMismatch = "FEDERATION_NONCE_MISMATCH", Unauthenticated, "The ID token is another sign-in's; begin again.";
    FederationNotFresh = "FEDERATION_NOT_FRESH", Unauthenticated, "The page took whoever had signed in with the browser before; open the sign-out URL in it and begin again.";

    // Uploads.
    InvalidKey = "INVALID_KEY", InvalidArgument, "The key cannot be used; the violation says why.";
    DestinationNotFound = "DESTINATION_NOT_FOUND", NotFound, "No such destination in the configuration.";
    DestinationAmbiguous = "DESTINATION_AMBIGUOUS", InvalidArgument, "The configuration has several destinations; say which one.";
    UploadNotFound = "UPLOAD_NOT_FOUND", NotFound, "No such upload of this uid.";
    UploadIdReused = "UPLOAD_ID_REUSED", AlreadyExists, "The upload id was used with another spec; make a new ULID.";
    UploadBusy = "UPLOAD_BUSY", Aborted, "Another stream is sending this upload now.";
    UploadComplete = "UPLOAD_COMPLETE", FailedPrecondition, "The upload takes no more bytes: it is complete here, or has ended.";
    UploadEnded = "UPLOAD_ENDED", FailedPrecondition, "The upload has ended; there is nothing to cancel.";
    UploadNotFailed = "UPLOAD_NOT_FAILED", FailedPrecondition, "Only a FAILED upload can be queued again.";
    OffsetMismatch = "OFFSET_MISMATCH", FailedPrecondition, "The stream goes on at the wrong place; resume at `received_bytes`.";
    StreamOrder = "STREAM_ORDER", InvalidArgument, "The stream's messages are not: one `begin` or `resume`, `chunk`s, one `finish`, nothing more.";
    StreamUnfinished = "STREAM_UNFINISHED", InvalidArgument, "The stream ended without `finish`; the upload stays RECEIVING. Resume at `received_bytes`, or cancel it.";
    StreamBroken = "STREAM_BROKEN", Unavailable, "The stream broke before `finish`; the upload stays RECEIVING. Resume at `received_bytes`.";
    ChunkTooLarge = "CHUNK_TOO_LARGE", InvalidArgument, "A chunk is larger than 1 MiB; 256 KiB is a good size.";
    SizeMismatch = "SIZE_MISMATCH", InvalidArgument, "More or fewer bytes arrived than `finish` says; nothing is sent.";
    ChecksumMismatch = "CHECKSUM_MISMATCH", InvalidArgument, "The bytes that arrived are not the ones that `finish` names; nothing is sent.";
    ObjectTooLarge = "OBJECT_TOO_LARGE", InvalidArgument, "The object is larger than the store takes.";
    FileNotFound = "FILE_NOT_FOUND", NotFound, "No such file on the device.";
    NotARegularFile = "NOT_A_REGULAR_FILE", InvalidArgument, "The path is a directory, a FIFO, a symbolic link or the like.";
    FileNotReadableByCaller = "FILE_NOT_READABLE_BY_CALLER", PermissionDenied, "The caller could not read the file itself; make it the caller's, or world-readable.";
    PathOutsideRoots = "PATH_OUTSIDE_ROOTS", PermissionDenied, "The path is not beneath one of `upload.file_roots`.";
    SpoolQuotaExceeded = "SPOOL_QUOTA_EXCEEDED", ResourceExhausted, "The spool is full; try again when uploads have ended.";
    DiskFloorReached = "DISK_FLOOR_REACHED", ResourceExhausted, "The disk has too little room; make some.";
    StorageFailed = "STORAGE_FAILED", Internal, "The state directory failed; nothing more is accepted until the disk is mended and the daemon restarted.";

    // The daemon.
    InvalidConfig = "INVALID_CONFIG", FailedPrecondition, "The configuration file has mistakes, all of them in the text; the running configuration is kept.";
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::fmt::Write as _;

    use super::*;

    #[test]
    fn names_are_unique_and_upper_snake() {
        let names: BTreeSet<_> = Reason::ALL.iter().map(|reason| reason.name()).collect();
        assert_eq!(names.len(), Reason::ALL.len());
        for name in names {
            assert!(name.chars().all(|c| c.is_ascii_uppercase() || c == '_'), "{name}");
        }
    }

    #[test]
    fn the_documentation_is_this_table() {
        let mut expected = String::from(
            "# Reasons\n\nEvery error status of the API carries one `google.rpc.ErrorInfo` with the domain `tidegate` and one of \
             these reasons.\nA reason always comes with the same gRPC code. Names never change their meaning.\n\n\
             | Reason | Code | Meaning |\n|---|---|---|\n",
        );
        for reason in Reason::ALL {
            let code = upper_snake(&format!("{:?}", reason.code()));
            writeln!(expected, "| `{}` | {code} | {} |", reason.name(), reason.advice()).expect("a String takes all");
        }
        assert!(expected == include_str!("reasons.md"), "src/api/reasons.md should be:\n{expected}");
    }

    #[test]
    fn reasons_that_the_proto_comments_name_exist() {
        let files = [
            include_str!("../../proto/tidegate/v1/account.proto"),
            include_str!("../../proto/tidegate/v1/credential.proto"),
            include_str!("../../proto/tidegate/v1/gateway.proto"),
            include_str!("../../proto/tidegate/v1/session.proto"),
            include_str!("../../proto/tidegate/v1/upload.proto"),
        ];
        let mut named = BTreeSet::new();
        for text in files {
            let comments = text.lines().filter_map(|line| line.trim().strip_prefix("//").map(str::trim));
            let comments = comments.collect::<Vec<_>>().join(" ");
            // "CODE (REASON, REASON)": what stands in the brackets behind a gRPC code.
            for (code, behind) in comments.match_indices(" (").map(|(at, _)| comments.split_at(at)) {
                let code = code.rsplit([' ', '\n']).next().unwrap_or_default();
                if Reason::ALL.iter().any(|reason| upper_snake(&format!("{:?}", reason.code())) == code) {
                    let inside = behind.trim_start_matches(" (").split(')').next().unwrap_or_default();
                    let words = inside
                        .split([',', ' ', ';'])
                        .filter(|word| word.len() > 2 && word.chars().all(|c| c.is_ascii_uppercase() || c == '_'));
                    named.extend(words.map(|word| (code.to_owned(), word.to_owned())));
                }
            }
        }
        for (code, name) in &named {
            let reason = Reason::ALL.iter().find(|reason| reason.name() == name);
            let reason = reason.unwrap_or_else(|| panic!("{name} is in no table"));
            assert_eq!(&upper_snake(&format!("{:?}", reason.code())), code, "{name}");
        }
        let unnamed = Reason::ALL.iter().filter(|reason| !named.iter().any(|(_, name)| name == reason.name()));
        let unnamed: Vec<_> = unnamed.map(|reason| reason.name()).collect();
        // What no RPC answers by itself, or not in this version.
        let of_the_transport = ["UNSUPPORTED_ENCODING", "UNKNOWN_METHOD", "UNIMPLEMENTED_IN_THIS_VERSION", "INTERNAL"];
        assert_eq!(unnamed, of_the_transport, "every other reason stands in a proto comment");
    }

    fn upper_snake(camel: &str) -> String {
        let mut out = String::new();
        for c in camel.chars() {
            if c.is_uppercase() && !out.is_empty() {
                out.push('_');
            }
            out.extend(c.to_uppercase());
        }
        out
    }
}
