//! `UploadService`: takes photos and shows what became of them. The order of a stream's messages is `upload_stream`'s
//! to judge; bytes are passed on as they came, without a copy.

use std::path::Path;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tonic::{Code, Request, Response, Status, Streaming};

use super::reason::Reason;
use super::server::{Lifecycle, caller};
use super::status::{Failure, of_transport, of_upload, of_upload_spec, require, stopping};
use super::upload_stream::{Fault, Kind, UploadStream};
use super::v1::upload_request::Message;
use super::v1::upload_service_server::UploadService;
use super::watch::{Answers, Next, answers};
use super::{convert, ends, names, v1};
use crate::caller::Caller;
use crate::upload::{Ingest, ListFilter, Ulid, UploadError, UploadView, Uploads};

/// See the module.
#[derive(Debug)]
pub struct UploadApi {
    uploads: Uploads,
    lifecycle: Lifecycle,
    max_message_bytes: usize,
}

impl UploadApi {
    /// Serves `uploads`.
    pub fn new(uploads: Uploads, lifecycle: Lifecycle, max_message_bytes: usize) -> Self {
        Self { uploads, lifecycle, max_message_bytes }
    }
}

/// A stream that takes bytes for an upload which takes no more.
const NO_MORE_BYTES: Reason = Reason::UploadComplete;
/// After a broken stream.
const RECONNECT_RETRY: Duration = Duration::from_secs(1);

#[tonic::async_trait]
impl UploadService for UploadApi {
    type WatchUploadStream = Answers<v1::WatchUploadResponse>;
    type WatchUploadsStream = Answers<v1::WatchUploadsResponse>;

    async fn upload(
        &self,
        request: Request<Streaming<v1::UploadRequest>>,
    ) -> Result<Response<v1::UploadResponse>, Status> {
        let caller = caller(&request)?;
        let mut messages = Messages {
            stream: request.into_inner(),
            order: UploadStream::default(),
            cut: self.lifecycle.cut.clone(),
            max_message_bytes: self.max_message_bytes,
        };
        let first = messages.next().await.map_err(|broken| broken.into_status(None))?;
        let (mut ingest, waits) = match first {
            Some(Message::Begin(begin)) => self.begin(&caller, begin).await?,
            Some(Message::Resume(resume)) => (self.resume(&caller, &resume).await?, false),
            Some(Message::Chunk(_) | Message::Finish(_)) | None => {
                unreachable!("the order of messages lets nothing else come first")
            }
        };
        let id = ingest.view().id;
        trace_upload(id);
        let finish = match take_bytes(&mut messages, &mut ingest).await {
            Ok(finish) => finish,
            Err(broken) => {
                // What has come by now is kept, and the next stream can go on with it.
                ingest.leave().await;
                let received = self.uploads.get(&caller, id).await.map_or(0, |view| view.received_bytes);
                return Err(broken.into_status(Some((names::of_upload(id), received))));
            }
        };
        let total_bytes = convert::size("finish.total_bytes", finish.total_bytes)?;
        let expected = convert::expected_checksum(finish.checksum)?;
        let finished = ingest.finish(total_bytes, expected).await;
        let view = finished.map_err(|error| of_upload(&error, NO_MORE_BYTES))?;
        let view = if waits { self.wait_until_ended(&caller, id).await? } else { view };
        Ok(Response::new(v1::UploadResponse { upload: Some(convert::upload(view)) }))
    }

    async fn create_upload(
        &self,
        request: Request<v1::CreateUploadRequest>,
    ) -> Result<Response<v1::CreateUploadResponse>, Status> {
        let caller = caller(&request)?;
        let request = request.into_inner();
        require(&[("path", !request.path.is_empty()), ("spec", request.spec.is_some())])?;
        let id = names::upload_id("upload_id", &request.upload_id)?;
        let (spec, waits) = convert::upload_spec("spec", request.spec)?;
        let created = self.uploads.create_from_file(&caller, id, spec, Path::new(&request.path)).await;
        let view = created.map_err(|error| of_upload(&error, NO_MORE_BYTES))?;
        trace_upload(view.id);
        let view = if waits { self.wait_until_ended(&caller, view.id).await? } else { view };
        Ok(Response::new(v1::CreateUploadResponse { upload: Some(convert::upload(view)) }))
    }

    async fn get_upload(
        &self,
        request: Request<v1::GetUploadRequest>,
    ) -> Result<Response<v1::GetUploadResponse>, Status> {
        let caller = caller(&request)?;
        let id = names::upload("name", &request.get_ref().name)?;
        let view = self.uploads.get(&caller, id).await.map_err(|error| of_upload(&error, NO_MORE_BYTES))?;
        Ok(Response::new(v1::GetUploadResponse { upload: Some(convert::upload(view)) }))
    }

    async fn list_uploads(
        &self,
        request: Request<v1::ListUploadsRequest>,
    ) -> Result<Response<v1::ListUploadsResponse>, Status> {
        let caller = caller(&request)?;
        let request = request.into_inner();
        let page_size = names::page_size(request.page_size)?;
        let states = convert::listed_states(&request.states)?;
        let filter = ListFilter { states, session: names::session("session", &request.session)? };
        let listing = names::Listing::new("ListUploads", caller.uid, &filter);
        let before = listing.cursor(&request.page_token)?;
        let listed = self.uploads.list(&caller, &filter, page_size, before).await;
        let (page, next) = listed.map_err(|error| of_upload(&error, NO_MORE_BYTES))?;
        Ok(Response::new(v1::ListUploadsResponse {
            uploads: page.into_iter().map(convert::upload).collect(),
            next_page_token: listing.token(next),
        }))
    }

    async fn watch_upload(
        &self,
        request: Request<v1::WatchUploadRequest>,
    ) -> Result<Response<Self::WatchUploadStream>, Status> {
        let caller = caller(&request)?;
        let id = names::upload("name", &request.get_ref().name)?;
        let states = self.uploads.watch(&caller, id).await.map_err(|error| of_upload(&error, NO_MORE_BYTES))?;
        let show = |view: UploadView| async {
            let is_last = view.state.has_ended();
            let answer = v1::WatchUploadResponse { upload: Some(convert::upload(view)) };
            if is_last { Next::Last(answer) } else { Next::Send(answer) }
        };
        Ok(Response::new(answers(states, self.lifecycle.stop.clone(), show)))
    }

    async fn watch_uploads(
        &self,
        request: Request<v1::WatchUploadsRequest>,
    ) -> Result<Response<Self::WatchUploadsStream>, Status> {
        let caller = caller(&request)?;
        ends::watch(&self.uploads, caller, request.into_inner(), self.lifecycle.stop.clone()).await.map(Response::new)
    }

    async fn cancel_upload(
        &self,
        request: Request<v1::CancelUploadRequest>,
    ) -> Result<Response<v1::CancelUploadResponse>, Status> {
        let caller = caller(&request)?;
        let id = names::upload("name", &request.get_ref().name)?;
        let cancelled = self.uploads.cancel(&caller, id).await;
        let view = cancelled.map_err(|error| of_upload(&error, Reason::UploadEnded))?;
        Ok(Response::new(v1::CancelUploadResponse { upload: Some(convert::upload(view)) }))
    }

    async fn retry_upload(
        &self,
        request: Request<v1::RetryUploadRequest>,
    ) -> Result<Response<v1::RetryUploadResponse>, Status> {
        let caller = caller(&request)?;
        let id = names::upload("name", &request.get_ref().name)?;
        trace_upload(id);
        let retried = self.uploads.retry(&caller, id).await;
        let view = retried.map_err(|error| of_upload(&error, Reason::UploadNotFailed))?;
        Ok(Response::new(v1::RetryUploadResponse { upload: Some(convert::upload(view)) }))
    }
}

/// The spans of the sending carry the same id: the trace of a call leads to the traces of every attempt.
fn trace_upload(id: Ulid) {
    tracing::Span::current().record("upload", tracing::field::display(id));
}

impl UploadApi {
    async fn begin(&self, caller: &Caller, begin: v1::UploadBegin) -> Result<(Ingest, bool), Status> {
        require(&[("begin.upload_id", !begin.upload_id.is_empty()), ("begin.spec", begin.spec.is_some())])?;
        let id = names::upload_id("begin.upload_id", &begin.upload_id)?;
        let id = id.expect("it was required above");
        let (spec, waits) = convert::upload_spec("begin.spec", begin.spec)?;
        let begun = self.uploads.begin(caller, id, spec).await;
        let ingest = begun.map_err(|error| of_upload_spec(&error, NO_MORE_BYTES, "begin.spec"))?;
        Ok((ingest, waits))
    }

    async fn resume(&self, caller: &Caller, resume: &v1::UploadResume) -> Result<Ingest, Status> {
        let id = names::upload("resume.name", &resume.name)?;
        let offset = convert::size("resume.offset", resume.offset)?;
        self.uploads.resume(caller, id, offset).await.map_err(|error| of_upload(&error, NO_MORE_BYTES))
    }

    /// The upload as it ended; STOPPING where the daemon stops first (the upload goes on at the next start).
    async fn wait_until_ended(&self, caller: &Caller, id: Ulid) -> Result<UploadView, Status> {
        let watched = self.uploads.watch(caller, id).await;
        let mut states = watched.map_err(|error| of_upload(&error, NO_MORE_BYTES))?;
        tokio::select! {
            ended = states.wait_for(|view| view.state.has_ended()) => {
                if let Ok(view) = ended {
                    return Ok(view.clone());
                }
            }
            () = self.lifecycle.stop.cancelled() => return Err(stopping()),
        }
        // The channel closed: whatever came last is how it ended.
        let view = states.borrow().clone();
        Ok(view)
    }
}

/// Why a stream was left before its end.
enum Broken {
    /// The upload refuses to go on.
    Upload(UploadError),
    /// The messages came in the wrong order, or ended too early.
    Order(Fault),
    /// The transport lost the stream.
    Lost(String),
    /// A message was refused before it was looked at, or the daemon stops.
    Refused(Status),
}

impl Broken {
    /// What the caller gets to see; `upload` is the upload's name and what of it is synced, once there is one.
    fn into_status(self, upload: Option<(String, u64)>) -> Status {
        match self {
            Self::Upload(error) => of_upload(&error, NO_MORE_BYTES),
            Self::Order(fault) => fault.into_status(upload),
            Self::Refused(status) => status,
            Self::Lost(why) => {
                let message = format!("the stream broke before `finish` ({why}): resume at received_bytes");
                let failure = Failure::new(Reason::StreamBroken, message).retry_after(RECONNECT_RETRY);
                match upload {
                    Some((name, received)) => failure.with("upload", name).with("received_bytes", received),
                    None => failure,
                }
                .into_status()
            }
        }
    }
}

/// Passes the chunks on, up to `finish` and the stream's end.
async fn take_bytes(messages: &mut Messages, ingest: &mut Ingest) -> Result<v1::UploadFinish, Broken> {
    let mut finish = None;
    let (id, cancellation) = (ingest.view().id, ingest.cancellation());
    loop {
        let message = tokio::select! {
            biased;
            () = cancellation.cancelled() => return Err(Broken::Upload(UploadError::WrongState(id, "CANCELLED"))),
            message = messages.next() => message?,
        };
        match message {
            Some(Message::Chunk(bytes)) => ingest.write(bytes).await.map_err(Broken::Upload)?,
            Some(Message::Finish(last)) => finish = Some(last),
            Some(Message::Begin(_) | Message::Resume(_)) => unreachable!("the order of messages refuses a second one"),
            None => return Ok(finish.expect("the order of messages has seen a finish")),
        }
    }
}

/// The messages of one stream, in the right order.
struct Messages {
    stream: Streaming<v1::UploadRequest>,
    order: UploadStream,
    cut: CancellationToken,
    max_message_bytes: usize,
}

impl Messages {
    /// The next message; `None` at the end.
    async fn next(&mut self) -> Result<Option<Message>, Broken> {
        let message = tokio::select! {
            biased;
            () = self.cut.cancelled() => return Err(Broken::Refused(stopping())),
            message = self.stream.message() => message.map_err(|status| self.broken(status))?,
        };
        let Some(message) = message else {
            self.order.end().map_err(Broken::Order)?;
            return Ok(None);
        };
        let kind = match &message.message {
            Some(Message::Begin(_)) => Kind::Begin,
            Some(Message::Resume(_)) => Kind::Resume,
            Some(Message::Chunk(bytes)) => Kind::Chunk(bytes.len()),
            Some(Message::Finish(_)) => Kind::Finish,
            None => Kind::Empty,
        };
        self.order.accept(kind).map_err(Broken::Order)?;
        Ok(message.message)
    }

    fn broken(&self, status: Status) -> Broken {
        if !status.details().is_empty() {
            return Broken::Refused(status);
        }
        match status.code() {
            Code::OutOfRange | Code::ResourceExhausted | Code::Unimplemented => {
                Broken::Refused(of_transport(&status, self.max_message_bytes))
            }
            _ => Broken::Lost(status.message().to_owned()),
        }
    }
}
