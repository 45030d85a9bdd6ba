//! The order of the messages of one `Upload` stream, without the stream: one `begin` or `resume`, any number of chunks,
//! one `finish`, the end. Does no I/O and knows no upload.

use tonic::Status;

use super::reason::Reason;
use super::status::Failure;

/// The largest chunk.
pub const CHUNK_MAX_BYTES: usize = 1_048_576;

/// What a message is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// `begin`.
    Begin,
    /// `resume`.
    Resume,
    /// `chunk`, of so many bytes.
    Chunk(usize),
    /// `finish`.
    Finish,
    /// A message that is none of these.
    Empty,
}

/// Where the stream is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum UploadStream {
    /// Nothing has come.
    #[default]
    Start,
    /// Bytes may come.
    Receiving,
    /// Nothing more may come.
    Finished,
}

/// What is wrong with the stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// `chunk` or `finish` came first.
    #[error("the first message must be `begin` or `resume`, it is `{0}`")]
    NotBegun(&'static str),
    /// `begin` or `resume` came again.
    #[error("`{0}` came after the stream had begun: one stream carries one upload")]
    BegunAgain(&'static str),
    /// Something came after `finish`.
    #[error("`{0}` came after `finish`: nothing is queued; resume and finish again without it")]
    AfterFinish(&'static str),
    /// A message holds nothing.
    #[error("a message of the stream is empty: it must hold `begin`, `resume`, `chunk` or `finish`")]
    Empty,
    /// A chunk is too large.
    #[error("a chunk has {0} bytes, the most is {CHUNK_MAX_BYTES}: send smaller ones (256 KiB is a good size)")]
    ChunkTooLarge(usize),
    /// The stream ended before anything came.
    #[error("the stream ended without a message: send `begin` (or `resume`), `chunk`s and `finish`")]
    NoMessage,
    /// The stream ended without `finish`.
    #[error("the stream ended without `finish`: the upload stays RECEIVING; resume at received_bytes, or cancel it")]
    Unfinished,
}

impl UploadStream {
    /// Takes the next message.
    ///
    /// # Errors
    /// The fault; the stream is over then.
    pub fn accept(&mut self, kind: Kind) -> Result<(), Fault> {
        let name = kind.name();
        let next = match (*self, kind) {
            (_, Kind::Empty) => return Err(Fault::Empty),
            (Self::Start, Kind::Begin | Kind::Resume) => Self::Receiving,
            (Self::Start, Kind::Chunk(_) | Kind::Finish) => return Err(Fault::NotBegun(name)),
            (Self::Receiving, Kind::Begin | Kind::Resume) => return Err(Fault::BegunAgain(name)),
            (Self::Receiving, Kind::Chunk(bytes)) if bytes > CHUNK_MAX_BYTES => {
                return Err(Fault::ChunkTooLarge(bytes));
            }
            (Self::Receiving, Kind::Chunk(_)) => Self::Receiving,
            (Self::Receiving, Kind::Finish) => Self::Finished,
            (Self::Finished, _) => return Err(Fault::AfterFinish(name)),
        };
        *self = next;
        Ok(())
    }

    /// The stream has ended.
    ///
    /// # Errors
    /// `NoMessage`, `Unfinished`.
    pub fn end(self) -> Result<(), Fault> {
        match self {
            Self::Start => Err(Fault::NoMessage),
            Self::Receiving => Err(Fault::Unfinished),
            Self::Finished => Ok(()),
        }
    }
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Begin => "begin",
            Self::Resume => "resume",
            Self::Chunk(_) => "chunk",
            Self::Finish => "finish",
            Self::Empty => "nothing",
        }
    }
}

impl Fault {
    /// What the caller gets to see; `upload` is the upload's name and what of it is synced, once there is one.
    pub fn into_status(self, upload: Option<(String, u64)>) -> Status {
        let reason = match self {
            Self::ChunkTooLarge(_) => Reason::ChunkTooLarge,
            Self::Unfinished => Reason::StreamUnfinished,
            Self::NotBegun(_) | Self::BegunAgain(_) | Self::AfterFinish(_) | Self::Empty | Self::NoMessage => {
                Reason::StreamOrder
            }
        };
        let failure = Failure::new(reason, self.to_string());
        match upload {
            Some((name, received_bytes)) => failure.with("upload", name).with("received_bytes", received_bytes),
            None => failure,
        }
        .into_status()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn run(kinds: &[Kind]) -> Result<(), Fault> {
        let mut stream = UploadStream::default();
        for kind in kinds {
            stream.accept(*kind)?;
        }
        stream.end()
    }

    #[test]
    fn the_right_order_is_taken() {
        assert_eq!(run(&[Kind::Begin, Kind::Chunk(1), Kind::Chunk(CHUNK_MAX_BYTES), Kind::Finish]), Ok(()));
        assert_eq!(run(&[Kind::Resume, Kind::Finish]), Ok(()));
        assert_eq!(run(&[Kind::Begin, Kind::Finish]), Ok(()));
    }

    #[test]
    fn every_wrong_order_has_its_fault() {
        let cases: &[(&[Kind], Fault)] = &[
            (&[], Fault::NoMessage),
            (&[Kind::Chunk(1)], Fault::NotBegun("chunk")),
            (&[Kind::Finish], Fault::NotBegun("finish")),
            (&[Kind::Empty], Fault::Empty),
            (&[Kind::Begin, Kind::Begin], Fault::BegunAgain("begin")),
            (&[Kind::Begin, Kind::Resume], Fault::BegunAgain("resume")),
            (&[Kind::Resume, Kind::Chunk(1), Kind::Begin], Fault::BegunAgain("begin")),
            (&[Kind::Begin, Kind::Empty], Fault::Empty),
            (&[Kind::Begin, Kind::Chunk(CHUNK_MAX_BYTES + 1)], Fault::ChunkTooLarge(CHUNK_MAX_BYTES + 1)),
            (&[Kind::Begin], Fault::Unfinished),
            (&[Kind::Begin, Kind::Chunk(1)], Fault::Unfinished),
            (&[Kind::Begin, Kind::Finish, Kind::Finish], Fault::AfterFinish("finish")),
            (&[Kind::Begin, Kind::Finish, Kind::Chunk(1)], Fault::AfterFinish("chunk")),
            (&[Kind::Begin, Kind::Finish, Kind::Begin], Fault::AfterFinish("begin")),
        ];
        for (kinds, fault) in cases {
            assert_eq!(run(kinds), Err(*fault), "{kinds:?}");
        }
    }

    proptest! {
        #[test]
        fn only_the_documented_order_ends_well(kinds in proptest::collection::vec(prop_oneof![
            Just(Kind::Begin), Just(Kind::Resume), (0..CHUNK_MAX_BYTES + 9).prop_map(Kind::Chunk), Just(Kind::Finish),
            Just(Kind::Empty),
        ], 0..8)) {
            let middle = kinds.get(1..kinds.len().saturating_sub(1)).unwrap_or(&[]);
            let is_right = kinds.len() >= 2
                && matches!(kinds[0], Kind::Begin | Kind::Resume)
                && kinds[kinds.len() - 1] == Kind::Finish
                && middle.iter().all(|kind| matches!(kind, Kind::Chunk(bytes) if *bytes <= CHUNK_MAX_BYTES));
            prop_assert_eq!(run(&kinds).is_ok(), is_right);
        }
    }
}
