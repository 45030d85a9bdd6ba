//! An HTTP/1.1 proxy in front of an S3 that spoils the requests it is told to spoil: resets, stalls, half-open
//! connections, truncated and lost replies, answers of its own, flipped bits, and a slow or dead link.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use aws_smithy_types::date_time::Format;
use tidegate::local_cloud::s3::operation_of;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

/// How long a stalled connection is held open, unless the client gives up before.
const STALL: Duration = Duration::from_secs(5);
/// The most that a head may have.
const HEAD_MAX: usize = 64 << 10;

/// What happens to one request. A share is of the body (of the head, where there is none), 0 to 1.
#[derive(Debug, Clone)]
pub enum Fault {
    /// So much is passed on, then the connection is reset.
    ResetRequest(f64),
    /// So much is passed on, then nothing moves any more.
    StallRequest(f64),
    /// Everything is taken, nothing passed on, nothing answered: the other side is gone without a word.
    HalfOpen,
    /// Nothing is answered; when the client has given up, the request arrives all the same.
    Late,
    /// Done, and the connection is reset in the place of the answer.
    LoseReply,
    /// Done; so much of the answer comes, then nothing moves any more.
    StallReply(f64),
    /// Done; so much of the answer comes, then the connection ends in order.
    TruncateReply(f64),
    /// Answered by the proxy; `done` says whether the store got it first.
    Answer { answer: Answer, done: bool },
    /// One bit of the request (head and body) is another one.
    FlipRequest(f64),
    /// One bit of the answer is another one.
    FlipReply(f64),
    /// Waits for a permit before anything is passed on.
    Gate(Arc<Semaphore>),
}

/// An error that the proxy answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Answer {
    pub status: u16,
    pub code: &'static str,
    /// How far the `Date` is off.
    pub skew_s: i64,
}

/// For whom a fault is meant.
#[derive(Debug, Clone)]
pub struct Rule {
    /// For example `s3:PutObject`; `*` for all.
    pub operation: &'static str,
    /// A part of the key.
    pub key_part: String,
    /// So many pass first.
    pub skip: u32,
    /// So many are struck.
    pub times: u32,
    pub fault: Fault,
}

/// The proxy; it ends with its last clone.
#[derive(Debug, Clone)]
pub struct Proxy(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    address: SocketAddr,
    upstream: SocketAddr,
    /// Bound and never listening: nobody else is given the port while the proxy is dark.
    _reserved: TcpSocket,
    state: Mutex<State>,
    /// Open connections end when this does.
    up: Mutex<CancellationToken>,
    link: tokio::sync::Mutex<()>,
}

#[derive(Debug, Default)]
struct State {
    rules: Vec<Rule>,
    struck: BTreeMap<String, u32>,
    requests: BTreeMap<&'static str, u64>,
    bytes_per_s: u64,
    /// The S3 refuses requests with headers that begin so.
    refused: Vec<&'static str>,
    /// The S3 does not know these headers, and never answers with them.
    hidden: Vec<&'static str>,
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.up.lock().unwrap_or_else(PoisonError::into_inner).cancel();
    }
}

impl Proxy {
    /// Listens on a free port of loopback.
    pub fn start(upstream: SocketAddr) -> Self {
        let reserved = socket(([127, 0, 0, 1], 0).into());
        let address = reserved.local_addr().unwrap();
        let proxy = Self(Arc::new(Shared {
            address,
            upstream,
            _reserved: reserved,
            state: Mutex::default(),
            up: Mutex::new(CancellationToken::new()),
            link: tokio::sync::Mutex::new(()),
        }));
        proxy.set_dark(false);
        proxy
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.0.address)
    }

    pub fn add(&self, rule: Rule) {
        self.state(|state| state.rules.push(rule));
    }

    pub fn clear(&self) {
        self.state(|state| state.rules.clear());
    }

    /// How many requests for keys with this part were struck.
    pub fn struck(&self, key_part: &str) -> u32 {
        self.state(|state| state.struck.get(key_part).copied().unwrap_or(0))
    }

    /// How many requests of an operation came.
    pub fn requests(&self, operation: &str) -> u64 {
        self.state(|state| state.requests.get(operation).copied().unwrap_or(0))
    }

    /// What all connections together may carry, both ways; zero for no limit.
    pub fn set_bytes_per_s(&self, bytes_per_s: u64) {
        self.state(|state| state.bytes_per_s = bytes_per_s);
    }

    /// From now on an S3 that refuses requests with headers that begin so.
    pub fn refuse_headers(&self, refused: &[&'static str]) {
        self.state(|state| state.refused = refused.to_vec());
    }

    /// From now on an S3 whose answers have no headers that begin so.
    pub fn hide_headers(&self, hidden: &[&'static str]) {
        self.state(|state| state.hidden = hidden.to_vec());
    }

    /// Dark: open connections are reset and new ones refused.
    pub fn set_dark(&self, dark: bool) {
        let mut up = self.0.up.lock().unwrap_or_else(PoisonError::into_inner);
        up.cancel();
        if dark {
            return;
        }
        *up = CancellationToken::new();
        let listener = socket(self.0.address).listen(1_024).unwrap();
        tokio::spawn(accept(listener, Arc::downgrade(&self.0), up.clone()));
    }

    fn state<T>(&self, with: impl FnOnce(&mut State) -> T) -> T {
        self.0.state(with)
    }
}

impl Shared {
    fn state<T>(&self, with: impl FnOnce(&mut State) -> T) -> T {
        with(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn strike(&self, operation: &'static str, key: &str) -> Option<Fault> {
        self.state(|state| {
            *state.requests.entry(operation).or_default() += 1;
            let fits = |rule: &&mut Rule| {
                (rule.operation == "*" || rule.operation == operation) && key.contains(&rule.key_part)
            };
            for rule in state.rules.iter_mut().filter(|rule| rule.times > 0).filter(fits) {
                if rule.skip > 0 {
                    rule.skip -= 1;
                    continue;
                }
                rule.times -= 1;
                *state.struck.entry(rule.key_part.clone()).or_default() += 1;
                return Some(rule.fault.clone());
            }
            None
        })
    }

    fn without_hidden(&self, reply: Vec<u8>) -> Vec<u8> {
        let hidden = self.state(|state| state.hidden.clone());
        let Some(end) = reply.windows(4).position(|four| four == b"\r\n\r\n").filter(|_| !hidden.is_empty()) else {
            return reply;
        };
        let head = String::from_utf8_lossy(&reply[..end]).into_owned();
        let shown = |line: &&str| !hidden.iter().any(|hidden| line.to_ascii_lowercase().starts_with(hidden));
        let mut left = head.split("\r\n").filter(shown).collect::<Vec<_>>().join("\r\n").into_bytes();
        left.extend_from_slice(&reply[end..]);
        left
    }

    /// Takes its time on a slow link, which all connections share.
    async fn carry(&self, bytes: usize) {
        let bytes_per_s = self.state(|state| state.bytes_per_s);
        if bytes_per_s > 0 {
            let _turn = self.link.lock().await;
            tokio::time::sleep(Duration::from_secs_f64(bytes as f64 / bytes_per_s as f64)).await;
        }
    }

    async fn write(&self, to: &mut TcpStream, bytes: &[u8]) -> std::io::Result<()> {
        let piece = if self.state(|state| state.bytes_per_s) > 0 { 512 } else { 64 << 10 };
        for piece in bytes.chunks(piece) {
            self.carry(piece.len()).await;
            to.write_all(piece).await?;
        }
        Ok(())
    }
}

fn socket(address: SocketAddr) -> TcpSocket {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_reuseaddr(true).unwrap();
    socket.set_reuseport(true).unwrap();
    socket.bind(address).unwrap();
    socket
}

async fn accept(listener: TcpListener, shared: std::sync::Weak<Shared>, up: CancellationToken) {
    loop {
        let (client, _) = tokio::select! {
            () = up.cancelled() => return,
            Ok(accepted) = listener.accept() => accepted,
        };
        let Some(shared) = shared.upgrade() else { return };
        let up = up.clone();
        tokio::spawn(async move {
            let _ = client.set_nodelay(true);
            let mut client = Stream { socket: client, ahead: Vec::new() };
            let reset = tokio::select! {
                () = up.cancelled() => true,
                ended = serve(&mut client, &shared) => ended != Ended::InOrder,
            };
            if reset {
                // Closing with this sends a reset.
                let _ = rustix::net::sockopt::set_socket_linger(&client.socket, Some(Duration::ZERO));
            }
        });
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Ended {
    InOrder,
    Reset,
}

/// A connection with what was read ahead of it.
struct Stream {
    socket: TcpStream,
    ahead: Vec<u8>,
}

impl Stream {
    /// Up to and with the empty line; `None` at the end.
    async fn head(&mut self) -> Option<Vec<u8>> {
        loop {
            if let Some(at) = self.ahead.windows(4).position(|four| four == b"\r\n\r\n") {
                return Some(self.ahead.drain(..at + 4).collect());
            }
            if self.ahead.len() > HEAD_MAX || !self.more().await {
                return None;
            }
        }
    }

    /// At least one byte and at most `most`; empty at the end.
    async fn some(&mut self, most: usize) -> Vec<u8> {
        if self.ahead.is_empty() && !self.more().await {
            return Vec::new();
        }
        let count = most.min(self.ahead.len());
        self.ahead.drain(..count).collect()
    }

    async fn exactly(&mut self, count: usize) -> Option<Vec<u8>> {
        let mut all = Vec::new();
        while all.len() < count {
            let some = self.some(count - all.len()).await;
            if some.is_empty() {
                return None;
            }
            all.extend(some);
        }
        Some(all)
    }

    async fn more(&mut self) -> bool {
        self.ahead.reserve(32 << 10);
        matches!(self.socket.read_buf(&mut self.ahead).await, Ok(1..))
    }
}

fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    let lines = head.lines().skip(1).filter_map(|line| line.split_once(':'));
    lines.into_iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim())
}

fn headers(head: &str) -> impl Iterator<Item = String> {
    head.lines().skip(1).filter_map(|line| line.split_once(':')).map(|(name, _)| name.to_ascii_lowercase())
}

fn length(head: &str) -> usize {
    header(head, "content-length").and_then(|text| text.parse().ok()).unwrap_or(0)
}

async fn serve(client: &mut Stream, shared: &Shared) -> Ended {
    let Ok(server) = TcpStream::connect(shared.upstream).await else { return Ended::Reset };
    let _ = server.set_nodelay(true);
    let mut server = Stream { socket: server, ahead: Vec::new() };
    loop {
        let Some(head) = client.head().await else { return Ended::InOrder };
        match exchange(client, &mut server, shared, head).await {
            Some(Ended::InOrder) => {}
            Some(Ended::Reset) | None => return Ended::Reset,
        }
        if !client.ahead.is_empty() {
            // Nobody pipelines; what is left belongs to a request that was spoiled.
            return Ended::Reset;
        }
    }
}

/// One request. `None` where either side went away.
async fn exchange(client: &mut Stream, server: &mut Stream, shared: &Shared, mut head: Vec<u8>) -> Option<Ended> {
    let text = String::from_utf8_lossy(&head).into_owned();
    let mut line = text.split(' ');
    let method: http::Method = line.next()?.parse().ok()?;
    let (path, query) =
        line.next().map(|target| target.split_once('?').map_or((target, None), |(a, b)| (a, Some(b))))?;
    let (operation, target) = operation_of(&method, path, query, false);
    let fault = shared.strike(operation, &target.key);
    let len = length(&text);
    if header(&text, "expect").is_some_and(|expect| expect.eq_ignore_ascii_case("100-continue")) {
        client.socket.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await.ok()?;
    }
    if let Some(Fault::Gate(gate)) = &fault {
        gate.acquire().await.ok()?.forget();
    }
    if shared.state(|state| headers(&text).any(|name| state.refused.iter().any(|refused| name.starts_with(refused)))) {
        client.exactly(len).await?;
        shared.write(&mut client.socket, &Answer::new(501, "NotImplemented").bytes(&method)).await.ok()?;
        return Some(Ended::InOrder);
    }
    let mut flip_at = None;
    match &fault {
        Some(Fault::HalfOpen) => {
            let taken = client.exactly(len);
            let _ = tokio::time::timeout(STALL, taken).await;
            until_closed(client).await;
            return None;
        }
        Some(Fault::Answer { answer, done: false }) => {
            client.exactly(len).await?;
            shared.write(&mut client.socket, &answer.bytes(&method)).await.ok()?;
            return Some(Ended::InOrder);
        }
        Some(Fault::Late) => {
            let body = client.exactly(len).await?;
            until_closed(client).await;
            server.socket.write_all(&head).await.ok()?;
            server.socket.write_all(&body).await.ok()?;
            reply(server, &method).await?;
            return None;
        }
        Some(Fault::FlipRequest(share)) => {
            let bit = (share * ((head.len() + len) * 8) as f64) as usize;
            match bit.checked_sub(head.len() * 8) {
                None => head[bit / 8] ^= 1 << (bit % 8),
                Some(in_body) => flip_at = Some(in_body),
            }
        }
        _ => {}
    }
    let passed = match fault {
        Some(Fault::ResetRequest(share) | Fault::StallRequest(share)) => Some((share * len as f64) as usize),
        _ => None,
    };
    if passed.is_none() || len > 0 {
        shared.write(&mut server.socket, &head).await.ok()?;
    }
    let mut done = 0;
    while done < passed.unwrap_or(len) {
        let mut piece = client.some(passed.unwrap_or(len) - done).await;
        if piece.is_empty() {
            return None;
        }
        if let Some(bit) = flip_at
            && (done * 8..(done + piece.len()) * 8).contains(&bit)
        {
            piece[bit / 8 - done] ^= 1 << (bit % 8);
        }
        done += piece.len();
        // A server that has answered already may read no more.
        if shared.write(&mut server.socket, &piece).await.is_err() {
            client.exactly(len - done).await?;
            break;
        }
    }
    match fault {
        Some(Fault::ResetRequest(_)) => return Some(Ended::Reset),
        Some(Fault::StallRequest(_)) => {
            tokio::time::sleep(STALL).await;
            return Some(Ended::Reset);
        }
        _ => {}
    }
    let mut reply = shared.without_hidden(reply(server, &method).await?);
    match fault {
        Some(Fault::LoseReply) => return Some(Ended::Reset),
        Some(Fault::Answer { answer, .. }) => reply = answer.bytes(&method),
        Some(Fault::FlipReply(share)) => {
            let bit = (share * (reply.len() * 8) as f64) as usize;
            reply[bit / 8] ^= 1 << (bit % 8);
        }
        Some(Fault::StallReply(share)) => {
            let part = (share * reply.len() as f64) as usize;
            client.socket.write_all(&reply[..part]).await.ok()?;
            until_closed(client).await;
            return None;
        }
        Some(Fault::TruncateReply(share)) => {
            let part = (share * reply.len() as f64) as usize;
            client.socket.write_all(&reply[..part]).await.ok()?;
            client.socket.shutdown().await.ok()?;
            until_closed(client).await;
            return None;
        }
        _ => {}
    }
    shared.write(&mut client.socket, &reply).await.ok()?;
    Some(Ended::InOrder)
}

async fn until_closed(client: &mut Stream) {
    let _ = tokio::time::timeout(STALL, async { while !client.some(64 << 10).await.is_empty() {} }).await;
}

/// A whole answer, as it came.
async fn reply(server: &mut Stream, method: &http::Method) -> Option<Vec<u8>> {
    loop {
        let mut whole = server.head().await?;
        let head = String::from_utf8_lossy(&whole).into_owned();
        let status: u16 = head.split(' ').nth(1)?.parse().ok()?;
        if status < 200 {
            continue;
        }
        if *method == http::Method::HEAD || status == 204 || status == 304 {
            return Some(whole);
        }
        if header(&head, "transfer-encoding").is_some_and(|coding| coding.eq_ignore_ascii_case("chunked")) {
            // No trailers come from these servers: the last chunk is empty, and an empty line follows it.
            while !whole.ends_with(b"\r\n0\r\n\r\n") {
                let some = server.some(1).await;
                if some.is_empty() {
                    return None;
                }
                whole.extend(some);
            }
        } else {
            whole.extend(server.exactly(length(&head)).await?);
        }
        return Some(whole);
    }
}

impl Answer {
    pub const fn new(status: u16, code: &'static str) -> Self {
        Self { status, code, skew_s: 0 }
    }

    /// As S3 answers; a 200 begins as a success does, and keeps the connection alive with spaces before it fails.
    fn bytes(self, method: &http::Method) -> Vec<u8> {
        let now = aws_smithy_types::DateTime::from(SystemTime::now()).secs() + self.skew_s;
        let date = aws_smithy_types::DateTime::from_secs(now).fmt(Format::HttpDate).unwrap();
        let body = if *method == http::Method::HEAD {
            String::new()
        } else {
            format!(
                "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n{}<Error><Code>{}</Code><Message>on purpose</Message></Error>",
                if self.status == 200 { "  \n  \n" } else { "" },
                self.code
            )
        };
        format!(
            "HTTP/1.1 {} On Purpose\r\nDate: {date}\r\nContent-Type: application/xml\r\nContent-Length: {}\r\n\r\n{body}",
            self.status,
            body.len()
        )
        .into_bytes()
    }
}
