//! Streams of answers: what is now, then every change. Nothing is queued for a slow reader: it gets the newest state.

use std::pin::Pin;

use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tokio_stream::{Stream, StreamExt as _};
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tracing::Instrument as _;

use super::status;

/// What a streaming method answers with.
pub type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send + 'static>>;

/// What comes after an answer.
#[derive(Debug)]
pub enum Next<T> {
    /// Send it and go on.
    Send(T),
    /// Nothing new.
    Skip,
    /// Send it and end.
    Last(T),
    /// End without an error.
    End,
    /// End with an error.
    Fail(Status),
}

/// Answers with `show(state)` now and after every change, until `show` says so, the channel closes, the client goes
/// away, or `stop` is cancelled (then with STOPPING).
pub fn answers<S, T, F, R>(mut states: watch::Receiver<S>, stop: CancellationToken, mut show: F) -> Answers<T>
where
    S: Clone + Send + Sync + 'static,
    T: Send + 'static,
    F: FnMut(S) -> R + Send + 'static,
    R: Future<Output = Next<T>> + Send,
{
    let (answers, stream) = mpsc::channel(1);
    let watching = async move {
        loop {
            let state = states.borrow_and_update().clone();
            let (answer, is_last) = match show(state).await {
                Next::Send(answer) => (Some(Ok(answer)), false),
                Next::Skip => (None, false),
                Next::Last(answer) => (Some(Ok(answer)), true),
                Next::End => (None, true),
                Next::Fail(status) => (Some(Err(status)), true),
            };
            if let Some(answer) = answer
                && answers.send(answer).await.is_err()
            {
                return;
            }
            if is_last {
                return;
            }
            let changed = tokio::select! {
                changed = states.changed() => changed,
                () = answers.closed() => return,
            };
            if changed.is_err() {
                return;
            }
        }
    };
    until_stopped(watching, stream, stop)
}

/// What `watching` sends to `stream`, until it ends or `stop` is cancelled (then with STOPPING).
pub fn until_stopped<T: Send + 'static>(
    watching: impl Future<Output = ()> + Send + 'static,
    stream: mpsc::Receiver<Result<T, Status>>,
    stop: CancellationToken,
) -> Answers<T> {
    let (stopping, stopped) = mpsc::channel(1);
    let task = async move {
        tokio::select! {
            () = watching => {}
            () = stop.cancelled() => { let _ = stopping.send(Err(status::stopping())).await; }
        }
    };
    tokio::spawn(task.in_current_span());
    // The second channel is empty, or holds the one error that the first may be too full to take.
    Box::pin(ReceiverStream::new(stream).chain(ReceiverStream::new(stopped)))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use tonic::Code;

    use super::*;

    fn numbers(states: &watch::Sender<u32>, stop: &CancellationToken) -> Answers<u32> {
        answers(states.subscribe(), stop.clone(), |number| async move {
            match number {
                0..=9 => Next::Send(number),
                10..=19 => Next::Skip,
                20..=29 => Next::Last(number),
                _ => Next::Fail(Status::internal("too large")),
            }
        })
    }

    #[tokio::test]
    async fn now_and_after_every_change_until_the_last() {
        let (states, _) = watch::channel(1);
        let mut stream = numbers(&states, &CancellationToken::new());
        assert_eq!(stream.next().await.unwrap().unwrap(), 1);
        states.send(2).unwrap();
        assert_eq!(stream.next().await.unwrap().unwrap(), 2);
        states.send(20).unwrap();
        assert_eq!(stream.next().await.unwrap().unwrap(), 20);
        assert!(stream.next().await.is_none());
    }

    #[tokio::test]
    async fn ends_with_the_channel() {
        let (states, _) = watch::channel(1);
        let mut stream = numbers(&states, &CancellationToken::new());
        assert_eq!(stream.next().await.unwrap().unwrap(), 1);
        drop(states);
        assert!(stream.next().await.is_none());
    }

    #[tokio::test]
    async fn a_stop_is_told_even_to_a_slow_reader() {
        let (states, _) = watch::channel(1);
        let stop = CancellationToken::new();
        let mut stream = numbers(&states, &stop);
        states.closed_by(&stop).await;
        assert_eq!(stream.next().await.unwrap().unwrap(), 1);
        assert_eq!(stream.next().await.unwrap().unwrap_err().code(), Code::Unavailable);
        assert!(stream.next().await.is_none());
    }

    #[tokio::test]
    async fn a_client_that_goes_away_ends_the_task() {
        let (states, _) = watch::channel(1);
        let mut stream = numbers(&states, &CancellationToken::new());
        assert_eq!(stream.next().await.unwrap().unwrap(), 1);
        drop(stream);
        states.closed().await;
    }

    trait ClosedBy {
        /// Cancels once the first state was taken, and waits for the task to end.
        async fn closed_by(&self, stop: &CancellationToken);
    }

    impl ClosedBy for watch::Sender<u32> {
        async fn closed_by(&self, stop: &CancellationToken) {
            tokio::task::yield_now().await;
            stop.cancel();
            self.closed().await;
        }
    }
}
