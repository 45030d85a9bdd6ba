//! Hands one file over by stream. Promises that a broken stream goes on at the last synced byte under the same upload id,
//! so that a photo never becomes two, and that the daemon is told how many bytes there are and their CRC64NVME.

use std::fs::File;
use std::io::Read;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use base64::Engine as _;
use bytes::Bytes;
use crc_fast::{CrcAlgorithm, Digest};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use super::super::client::{Client, unary};
use super::super::exit::{CliError, is_transport_failure};
use super::Job;
use super::progress::Bar;
use crate::api::v1::upload_finish::Checksum;
use crate::api::v1::upload_request::Message;
use crate::api::v1::{GetUploadRequest, Upload, UploadBegin, UploadFinish, UploadRequest, UploadResume, UploadState};

/// One chunk; the API's recommendation.
const CHUNK_BYTES: usize = 256 * 1024;

/// Chunks that wait for the connection.
const CHUNKS_AHEAD: usize = 4;

/// How long to go on trying without a single new byte arriving.
const PATIENCE: Duration = Duration::from_secs(60);

/// The first and the longest wait before the next try.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// Where a stream starts.
#[derive(Debug, Clone, Copy)]
enum Start {
    Begin,
    Resume(u64),
}

/// Why a stream ended without an answer.
enum Broken {
    /// Another try may work.
    Stream(Status),
    /// It may not.
    For(CliError),
}

/// One file on its way to the daemon.
pub(super) struct Sending<'a> {
    client: &'a Client,
    job: &'a Job,
    bar: &'a Bar,
}

impl<'a> Sending<'a> {
    pub(super) fn new(client: &'a Client, job: &'a Job, bar: &'a Bar) -> Self {
        Self { client, job, bar }
    }

    /// Ends when the photo is durable on the device.
    pub(super) async fn run(&self) -> Result<Upload, CliError> {
        // Under an id of the user's own there may be something already.
        let mut start = if self.job.named { None } else { Some(Start::Begin) };
        let (mut last_progress, mut best, mut pause) = (Instant::now(), 0, FIRST_PAUSE);
        loop {
            let attempt = match start {
                Some(start) => self.stream(start).await.map(|upload| Step::Done(Box::new(upload))),
                None => self.look().await,
            };
            let status = match attempt {
                Ok(Step::Done(upload)) => return Ok(*upload),
                Ok(Step::Start(next)) => {
                    if let Start::Resume(received) = next
                        && received > best
                    {
                        (last_progress, best, pause) = (Instant::now(), received, FIRST_PAUSE);
                    }
                    start = Some(next);
                    continue;
                }
                Err(Broken::For(error)) => return Err(error),
                Err(Broken::Stream(status)) => status,
            };
            if last_progress.elapsed() > PATIENCE {
                let again = format!("run it again with --upload-id {} to go on where it stopped", self.job.id);
                return Err(CliError::from_status("upload the file", &status).hint(again));
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
            start = None;
        }
    }

    /// Asks how far the upload got.
    async fn look(&self) -> Result<Step, Broken> {
        let request = GetUploadRequest { name: format!("uploads/{}", self.job.id) };
        match self.client.uploads().get_upload(unary(request)).await {
            Ok(response) => {
                let upload = response.into_inner().upload.unwrap_or_default();
                if upload.state() == UploadState::Receiving {
                    let received = u64::try_from(upload.received_bytes).unwrap_or(0);
                    Ok(Step::Start(Start::Resume(received)))
                } else {
                    Ok(Step::Done(Box::new(upload)))
                }
            }
            Err(status) if status.code() == Code::NotFound => Ok(Step::Start(Start::Begin)),
            Err(status) => Err(self.judge(status)),
        }
    }

    /// One stream from `start` to `finish`.
    async fn stream(&self, start: Start) -> Result<Upload, Broken> {
        let (messages, receiver) = mpsc::channel(CHUNKS_AHEAD);
        let reading = Reading {
            file: self.job.file.clone(),
            shown: self.job.shown.clone(),
            first: self.first(start),
            offset: if let Start::Resume(offset) = start { offset } else { 0 },
            bar: self.bar.clone(),
            messages,
        };
        let reader = tokio::task::spawn_blocking(move || reading.run());
        let answer = self.client.uploads().upload(ReceiverStream::new(receiver)).await;
        // A file that could not be read ends the stream early: its error says more than the daemon's.
        match reader.await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return Err(Broken::For(error)),
            Err(_) => return Err(Broken::For(CliError::failed(format!("{}: reading was aborted", self.job.shown)))),
        }
        match answer {
            Ok(response) => Ok(response.into_inner().upload.unwrap_or_default()),
            Err(status) => Err(self.judge(status)),
        }
    }

    fn first(&self, start: Start) -> UploadRequest {
        let message = match start {
            Start::Begin => {
                Message::Begin(UploadBegin { upload_id: self.job.id.to_string(), spec: Some(self.job.spec.clone()) })
            }
            Start::Resume(offset) => Message::Resume(UploadResume {
                name: format!("uploads/{}", self.job.id),
                offset: i64::try_from(offset).unwrap_or(i64::MAX),
            }),
        };
        UploadRequest { message: Some(message) }
    }

    fn judge(&self, status: Status) -> Broken {
        if is_worth_another_try(&status) {
            Broken::Stream(status)
        } else {
            Broken::For(CliError::from_status("upload the file", &status))
        }
    }
}

/// What looking at an upload says to do.
enum Step {
    Start(Start),
    Done(Box<Upload>),
}

/// The connection broke, the daemon is stopping, or it has not noticed yet that the last stream broke.
fn is_worth_another_try(status: &Status) -> bool {
    match status.get_details_error_info() {
        None => is_transport_failure(status),
        Some(info) => matches!(info.reason.as_str(), "STREAM_BROKEN" | "STOPPING" | "UPLOAD_BUSY" | "OFFSET_MISMATCH"),
    }
}

/// Reads the file on a thread of its own.
struct Reading {
    file: PathBuf,
    shown: String,
    first: UploadRequest,
    offset: u64,
    bar: Bar,
    messages: mpsc::Sender<UploadRequest>,
}

impl Reading {
    /// Ends early and without an error where nobody takes the messages any more: the daemon's answer says why.
    fn run(self) -> Result<(), CliError> {
        let failed = |error: std::io::Error| CliError::failed(format!("{}: cannot read it: {error}", self.shown));
        let mut file = File::open(&self.file).map_err(failed)?;
        let announced = file.metadata().map_err(failed)?.len();
        if self.messages.blocking_send(self.first).is_err() {
            return Ok(());
        }
        let mut crc = Digest::new(CrcAlgorithm::Crc64Nvme);
        let mut position = 0_u64;
        loop {
            // What the daemon has is read too: the checksum is that of the whole file.
            let left_to_skip = usize::try_from(self.offset.saturating_sub(position)).unwrap_or(usize::MAX);
            let wanted = if left_to_skip > 0 { left_to_skip.min(CHUNK_BYTES) } else { CHUNK_BYTES };
            let chunk = read_up_to(&mut file, wanted).map_err(failed)?;
            if chunk.is_empty() {
                break;
            }
            crc.update(&chunk);
            position += chunk.len() as u64;
            if left_to_skip > 0 {
                continue;
            }
            let message = UploadRequest { message: Some(Message::Chunk(Bytes::from(chunk))) };
            if self.messages.blocking_send(message).is_err() {
                return Ok(());
            }
            self.bar.sending(position, announced.max(position));
        }
        if position < self.offset {
            let text = format!("{} has {position} bytes, but {} were taken from it before", self.shown, self.offset);
            return Err(CliError::failed(text).hint("it was changed: upload it again under a new id"));
        }
        let finish = UploadFinish {
            total_bytes: i64::try_from(position).unwrap_or(i64::MAX),
            checksum: Some(Checksum::Crc64nvme(crc64nvme_base64(crc.finalize()))),
        };
        let _ = self.messages.blocking_send(UploadRequest { message: Some(Message::Finish(finish)) });
        Ok(())
    }
}

/// As many bytes as there are, up to `wanted`.
fn read_up_to(source: &mut impl Read, wanted: usize) -> std::io::Result<Vec<u8>> {
    let mut chunk = Vec::with_capacity(wanted);
    source.take(wanted as u64).read_to_end(&mut chunk)?;
    Ok(chunk)
}

/// The form that S3 and the API use.
pub fn crc64nvme_base64(crc: u64) -> String {
    base64::engine::general_purpose::STANDARD.encode(crc.to_be_bytes())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::super::progress::Bars;
    use super::*;

    /// All messages of one stream that starts at `offset`.
    fn read(content: &[u8], offset: u64) -> (Result<(), CliError>, Vec<Message>) {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("photo");
        std::fs::write(&file, content).unwrap();
        let (messages, mut receiver) = mpsc::channel(1024);
        let first = UploadRequest { message: Some(Message::Resume(UploadResume::default())) };
        let bar = Bars::new(false).add("photo");
        let ended = Reading { file, shown: "photo".to_owned(), first, offset, bar, messages }.run();
        let mut all = Vec::new();
        while let Some(request) = receiver.blocking_recv() {
            all.push(request.message.unwrap());
        }
        (ended, all)
    }

    #[test]
    fn a_resumed_stream_sends_the_rest_and_proves_the_whole() {
        let content: Vec<u8> = (0..CHUNK_BYTES * 2 + 17).map(|i| u8::try_from(i % 251).unwrap()).collect();
        for offset in [0, 1, CHUNK_BYTES, CHUNK_BYTES + 5, content.len()] {
            let (ended, messages) = read(&content, offset as u64);
            ended.unwrap();
            assert!(matches!(messages[0], Message::Resume(_)));
            let mut sent = Vec::new();
            for message in &messages[1..messages.len() - 1] {
                let Message::Chunk(chunk) = message else { panic!("not a chunk: {message:?}") };
                sent.extend_from_slice(chunk);
            }
            assert_eq!(sent, content[offset..], "from {offset}");
            let Some(Message::Finish(finish)) = messages.last() else { panic!("no finish") };
            assert_eq!(finish.total_bytes, i64::try_from(content.len()).unwrap());
            let whole = crc64nvme_base64(crc_fast::checksum(CrcAlgorithm::Crc64Nvme, &content));
            assert_eq!(finish.checksum, Some(Checksum::Crc64nvme(whole)));
        }
    }

    #[test]
    fn an_empty_file_is_a_photo_too() {
        let (ended, messages) = read(b"", 0);
        ended.unwrap();
        assert_eq!(messages.len(), 2);
    }

    #[test]
    fn a_file_that_shrank_is_not_finished() {
        let (ended, messages) = read(b"short", 100);
        assert!(ended.unwrap_err().to_text().contains("5 bytes, but 100"));
        assert!(!messages.iter().any(|message| matches!(message, Message::Finish(_))));
    }

    #[test]
    fn crc64nvme_of_the_check_value() {
        let crc = crc_fast::checksum(CrcAlgorithm::Crc64Nvme, b"123456789");
        assert_eq!(crc, 0xae8b_1486_0a79_9888);
        assert_eq!(crc64nvme_base64(crc), "rosUhgp5mIg=");
    }
}
