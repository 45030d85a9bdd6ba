//! A small HTTP server for this machine only: one request per connection. Owns how listeners are opened and what bounds
//! those who connect; promises no more connections, no longer ones and no longer heads than it is told; must never listen
//! on an address that other machines reach.

use std::convert::Infallible;
use std::io::{Error, ErrorKind};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

/// What bounds those who connect.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Open connections; one more waits in the kernel's backlog.
    pub max_connections: usize,
    /// How long a connection may last, answer included.
    pub connection_timeout: Duration,
    /// The longest head of a request; at least 8 KiB.
    pub max_header_bytes: usize,
}

/// Listens at once; port 0 takes a free one. Must be called inside a tokio runtime.
///
/// # Errors
/// `InvalidInput` for an address that is not loopback; else the system's.
pub fn listen(address: SocketAddr) -> std::io::Result<TcpListener> {
    if !address.ip().is_loopback() {
        return Err(Error::new(ErrorKind::InvalidInput, "it is not a loopback address"));
    }
    let listener = std::net::TcpListener::bind(address)?;
    listener.set_nonblocking(true)?;
    TcpListener::from_std(listener)
}

/// Answers every request with `answer` until `stop` is cancelled, which breaks off what is open.
pub async fn serve<A, R>(listener: TcpListener, limits: Limits, stop: CancellationToken, answer: A)
where
    A: Fn(Request<Incoming>) -> R + Clone + Send + 'static,
    R: Future<Output = Response<String>> + Send + 'static,
{
    let seats = Arc::new(Semaphore::new(limits.max_connections));
    loop {
        let accept = async {
            let seat = Arc::clone(&seats).acquire_owned().await.expect("the semaphore is never closed");
            (listener.accept().await, seat)
        };
        let (accepted, seat) = tokio::select! {
            accepted = accept => accepted,
            () = stop.cancelled() => return,
        };
        let Ok((stream, _)) = accepted else {
            // Out of descriptors: give the others time to close theirs.
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let (answer, stop) = (answer.clone(), stop.clone());
        tokio::spawn(async move {
            let _seat = seat;
            let service = service_fn(move |request| {
                let answered = answer(request);
                async move { Ok::<_, Infallible>(answered.await) }
            });
            let connection = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(limits.connection_timeout)
                .max_buf_size(limits.max_header_bytes)
                .keep_alive(false)
                .serve_connection(TokioIo::new(stream), service);
            tokio::select! {
                _ = tokio::time::timeout(limits.connection_timeout, connection) => {}
                () = stop.cancelled() => {}
            }
        });
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpStream;

    use super::*;

    const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n";

    fn start(limits: Limits) -> (SocketAddr, CancellationToken) {
        let listener = listen("127.0.0.1:0".parse().unwrap()).unwrap();
        let (address, stop) = (listener.local_addr().unwrap(), CancellationToken::new());
        let answer = |_| async { Response::new("hello".to_owned()) };
        tokio::spawn(serve(listener, limits, stop.clone(), answer));
        (address, stop)
    }

    async fn read(mut stream: TcpStream) -> String {
        let mut answer = String::new();
        let _ = stream.read_to_string(&mut answer).await;
        answer
    }

    #[tokio::test]
    async fn other_machines_addresses_are_refused() {
        for address in ["0.0.0.0:0", "[::]:0", "192.0.2.1:0"] {
            let error = listen(address.parse().unwrap()).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidInput, "{address}");
        }
    }

    #[tokio::test]
    async fn the_silent_make_room_in_time_and_long_heads_are_refused() {
        let limits =
            Limits { max_connections: 2, connection_timeout: Duration::from_millis(300), max_header_bytes: 8 * 1024 };
        let (address, stop) = start(limits);
        let silent = [TcpStream::connect(address).await.unwrap(), TcpStream::connect(address).await.unwrap()];
        let mut next = TcpStream::connect(address).await.unwrap();
        next.write_all(GET).await.unwrap();
        assert!(read(next).await.ends_with("hello"), "answered once the silent ones were closed");
        for stream in silent {
            assert_eq!(read(stream).await, "", "closed without a word");
        }
        let mut long = TcpStream::connect(address).await.unwrap();
        let head = [b"GET / HTTP/1.1\r\nHost: localhost\r\nX: ", &[b'x'; 20_000][..], b"\r\n\r\n"].concat();
        let _ = long.write_all(&head).await;
        assert!(!read(long).await.contains("hello"));
        let mut two = TcpStream::connect(address).await.unwrap();
        two.write_all(&[GET, GET].concat()).await.unwrap();
        assert_eq!(read(two).await.matches("hello").count(), 1, "one request per connection");
        stop.cancel();
    }
}
