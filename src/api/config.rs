//! `[api]` of the configuration.

use std::path::PathBuf;

/// The socket, who may do what, and how much. Every limit refuses with a typed error; none of them queues.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Where the socket is made; at most 107 bytes. Not used where systemd hands one in.
    pub socket_path: PathBuf,
    /// The socket's mode, as for chmod.
    pub socket_mode: u32,
    /// The name or number of the group that owns the socket; `None`: the daemon's own.
    pub socket_group: Option<String>,
    /// uids besides root that may pause, resume, reload and count everything.
    pub admin_uids: Vec<u32>,
    /// Open connections in total; one more is closed at once.
    pub max_connections: usize,
    /// Open connections of one uid; one more is closed at once.
    pub max_connections_per_uid: usize,
    /// Calls that run at the same time on one connection (HTTP/2 streams); more wait at the client.
    pub max_streams_per_connection: u32,
    /// Calls that run at the same time in total.
    pub max_streams: usize,
    /// Calls of one uid that run at the same time, over all its connections.
    pub max_streams_per_uid: usize,
    /// The largest message.
    pub max_message_bytes: usize,
    /// The largest header list of one call.
    pub max_header_bytes: u32,
    /// Calls that a client has reset before they were looked at; one more ends the connection.
    pub max_reset_streams: usize,
    /// Flow-control window of one call and of one connection, each.
    pub window_bytes: u32,
    /// The largest HTTP/2 frame that a client may send, 16,384 to 16,777,215 (RFC 9113, 6.5.2). Each one costs two system
    /// calls, and a chunk of 256 KiB is sixteen of the smallest.
    pub max_frame_bytes: u32,
    /// A ping goes out on a connection that is silent for this long.
    pub keepalive_interval_ms: u64,
    /// A connection whose ping stays without an answer for this long is closed.
    pub keepalive_timeout_ms: u64,
    /// AccountService calls of one uid in any 60 seconds.
    pub max_account_calls_per_minute: u32,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            socket_path: PathBuf::from("/run/tidegate/tidegate.sock"),
            socket_mode: 0o660,
            socket_group: None,
            admin_uids: Vec::new(),
            max_connections: 256,
            max_connections_per_uid: 64,
            max_streams_per_connection: 128,
            max_streams: 4_096,
            max_streams_per_uid: 2_048,
            max_message_bytes: 1_114_112,
            max_header_bytes: 16_384,
            max_reset_streams: 20,
            window_bytes: 1_048_576,
            max_frame_bytes: 131_072,
            keepalive_interval_ms: 30_000,
            keepalive_timeout_ms: 20_000,
            max_account_calls_per_minute: 30,
        }
    }
}
