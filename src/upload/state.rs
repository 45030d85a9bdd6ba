//! The life of an upload: pure. Only the phases are durable; running and waiting are shown over them and start anew after
//! a restart, so that an attempt costs the disk nothing.

use super::{UploadState, WaitReason};

/// How far an upload got, as the journal keeps it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Phase {
    /// Bytes still arrive.
    Receiving,
    /// Durable here, to be sent.
    Pending,
    /// In the store.
    Succeeded,
    /// Given up; bytes kept.
    Failed,
    /// Stopped by its owner, or dropped because its stream never went on.
    Cancelled,
}

/// What can happen to an upload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Event {
    /// The last byte is here, checked and synced.
    Finish,
    /// The store has confirmed the object.
    Store,
    /// Trying again makes no sense.
    Fail,
    /// The owner wants it stopped, or the stream was idle for too long.
    Cancel,
    /// The owner wants a failed one tried again.
    Retry,
}

impl Phase {
    /// Every phase.
    pub const ALL: [Self; 5] = [Self::Receiving, Self::Pending, Self::Succeeded, Self::Failed, Self::Cancelled];

    /// The phase after `event`; `None` where it cannot happen now.
    #[must_use]
    pub fn after(self, event: Event) -> Option<Self> {
        match (self, event) {
            (Self::Receiving, Event::Finish) | (Self::Failed, Event::Retry) => Some(Self::Pending),
            (Self::Pending, Event::Store) => Some(Self::Succeeded),
            // Bytes that cannot be trusted any more fail while they still arrive.
            (Self::Receiving | Self::Pending, Event::Fail) => Some(Self::Failed),
            // A failed upload is cancelled to give its bytes back; a cancelled one stays what it is.
            (Self::Receiving | Self::Pending | Self::Failed | Self::Cancelled, Event::Cancel) => Some(Self::Cancelled),
            _ => None,
        }
    }

    /// True where the spool must keep the bytes.
    pub fn keeps_bytes(self) -> bool {
        matches!(self, Self::Receiving | Self::Pending | Self::Failed)
    }

    /// True where nothing happens by itself any more.
    pub fn has_ended(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed | Self::Cancelled)
    }

    /// The number in the journal; never changes its meaning.
    pub fn code(self) -> u8 {
        match self {
            Self::Receiving => 0,
            Self::Pending => 1,
            Self::Succeeded => 2,
            Self::Failed => 3,
            Self::Cancelled => 4,
        }
    }

    /// The phase of a number in the journal.
    pub fn from_code(code: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|phase| phase.code() == code)
    }

    /// What is shown, where nothing more is known than the journal says.
    pub fn shown(self) -> UploadState {
        match self {
            Self::Receiving => UploadState::Receiving,
            Self::Pending => UploadState::Queued,
            Self::Succeeded => UploadState::Succeeded,
            Self::Failed => UploadState::Failed,
            Self::Cancelled => UploadState::Cancelled,
        }
    }
}

/// The name of a state, as the API spells it.
pub fn name(state: UploadState) -> &'static str {
    match state {
        UploadState::Receiving => "RECEIVING",
        UploadState::Queued => "QUEUED",
        UploadState::Running => "RUNNING",
        UploadState::Waiting(_) => "WAITING",
        UploadState::Succeeded => "SUCCEEDED",
        UploadState::Failed => "FAILED",
        UploadState::Cancelled => "CANCELLED",
    }
}

/// The name of a reason, as the API spells it.
pub fn reason_name(reason: WaitReason) -> &'static str {
    match reason {
        WaitReason::Offline => "OFFLINE",
        WaitReason::Retry => "RETRY",
        WaitReason::Credentials => "CREDENTIALS",
        WaitReason::SignIn => "SIGN_IN",
        WaitReason::Paused => "PAUSED",
        WaitReason::Clock => "CLOCK",
        WaitReason::Denied => "DENIED",
        WaitReason::Metered => "METERED",
    }
}

/// True where `filter` asks for `state`; a `Waiting` asks for every reason.
pub fn matches(filter: &[UploadState], state: UploadState) -> bool {
    filter.is_empty() || filter.iter().any(|wanted| name(*wanted) == name(state))
}

/// The phases that a filter can match, so that the journal is asked for no others.
pub fn phases(filter: &[UploadState]) -> Vec<Phase> {
    let shows = |phase: Phase| match phase {
        Phase::Pending => [UploadState::Queued, UploadState::Running, UploadState::Waiting(WaitReason::Retry)]
            .into_iter()
            .any(|state| matches(filter, state)),
        other => matches(filter, other.shown()),
    };
    Phase::ALL.into_iter().filter(|phase| shows(*phase)).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn event() -> impl Strategy<Value = Event> {
        prop_oneof![Just(Event::Finish), Just(Event::Store), Just(Event::Fail), Just(Event::Cancel), Just(Event::Retry)]
    }

    proptest! {
        #[test]
        fn bytes_go_only_after_an_end_and_ends_stay(events in proptest::collection::vec(event(), 0..40)) {
            let mut phase = Phase::Receiving;
            let mut finished = false;
            for event in events {
                let Some(next) = phase.after(event) else { continue };
                prop_assert!(phase != Phase::Succeeded, "success is final");
                prop_assert!(phase != Phase::Cancelled || next == Phase::Cancelled, "cancelled is final");
                finished |= event == Event::Finish;
                if next == Phase::Succeeded {
                    prop_assert!(finished || phase == Phase::Pending);
                    prop_assert_eq!(event, Event::Store);
                }
                if !next.keeps_bytes() {
                    prop_assert!(matches!(event, Event::Store | Event::Cancel));
                }
                phase = next;
            }
        }
    }

    #[test]
    fn codes_are_stable() {
        let codes: Vec<u8> = Phase::ALL.into_iter().map(Phase::code).collect();
        assert_eq!(codes, [0, 1, 2, 3, 4]);
        for phase in Phase::ALL {
            assert_eq!(Phase::from_code(phase.code()), Some(phase));
        }
        assert_eq!(Phase::from_code(9), None);
    }

    #[test]
    fn filters() {
        assert_eq!(phases(&[]), Phase::ALL);
        assert_eq!(phases(&[UploadState::Waiting(WaitReason::Offline)]), [Phase::Pending]);
        assert!(matches(&[UploadState::Waiting(WaitReason::Offline)], UploadState::Waiting(WaitReason::Retry)));
        assert!(!matches(&[UploadState::Failed], UploadState::Queued));
    }
}
