//! The document's tables, one function each: which keys there are, their ranges, and what fits together.

mod hot_folder;
mod identity;

use std::collections::BTreeMap;
use std::path::PathBuf;

use toml::de::DeTable;

use super::reader::{Problem, Problems, Section};
use super::{Config, DestinationConfig, StoreConfig};
use crate::upload::Priority;
use crate::{api, session, store, telemetry, upload, vend};

const MIB: u64 = 1 << 20;
/// As far as any time goes: 366 days.
const YEAR_MS: u64 = 366 * 24 * 3_600_000;
/// Slower than this, a part would take a quarter of an hour.
const RATE_MIN: u64 = 8_192;
/// S3's limits: <https://docs.aws.amazon.com/AmazonS3/latest/userguide/qfacts.html>.
const PART_MIN_BYTES: u64 = 5 * MIB;
const PUT_MAX_BYTES: u64 = 5 << 30;
/// Linux's IFNAMSIZ, without the NUL.
const INTERFACE_NAME_MAX: usize = 15;
const PRIORITIES: [(&str, Priority); 3] =
    [("interactive", Priority::Interactive), ("normal", Priority::Normal), ("background", Priority::Background)];

/// Reads the whole document.
pub(super) fn read(text: &str) -> Result<Config, Vec<Problem>> {
    let problems = Problems::of(text);
    let (document, syntax) = DeTable::parse_recoverable(text);
    for error in &syntax {
        problems.add(error.span().map_or(0, |span| span.start), "", error.message());
    }
    let config = if syntax.is_empty() { Some(root(Section::root(&problems, &document))) } else { None };
    let found = problems.into_sorted();
    match config {
        Some(config) if found.is_empty() => Ok(config),
        _ => Err(found),
    }
}

/// The keys whose values differ, sorted: `api.max_connections`, `destination[0].bucket`.
pub fn changed_keys(old: &str, new: &str) -> Vec<String> {
    let (old, new) = (flat(old), flat(new));
    let mut keys: Vec<String> = old
        .iter()
        .filter(|(key, value)| new.get(*key) != Some(value))
        .map(|(key, _)| key.clone())
        .chain(new.keys().filter(|key| !old.contains_key(*key)).cloned())
        .collect();
    keys.sort();
    keys
}

fn flat(text: &str) -> BTreeMap<String, String> {
    fn walk(path: &str, value: &toml::Value, into: &mut BTreeMap<String, String>) {
        match value {
            toml::Value::Table(table) => {
                for (key, value) in table {
                    let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                    walk(&path, value, into);
                }
            }
            toml::Value::Array(items) if items.iter().any(toml::Value::is_table) => {
                for (index, item) in items.iter().enumerate() {
                    walk(&format!("{path}[{index}]"), item, into);
                }
            }
            leaf => {
                into.insert(path.to_owned(), leaf.to_string());
            }
        }
    }
    let mut keys = BTreeMap::new();
    if let Ok(table) = text.parse::<toml::Table>() {
        walk("", &toml::Value::Table(table), &mut keys);
    }
    keys
}

fn root(mut root: Section<'_>) -> Config {
    let mut daemon = root.section("daemon");
    let state_dir = daemon.path("state_dir").unwrap_or_else(|| PathBuf::from("/var/lib/tidegate"));
    let drain_timeout_ms = daemon.integer("drain_timeout_ms", 0..=600_000).unwrap_or(10_000);
    daemon.finish();
    let api = read_api(root.section("api"));
    let telemetry = read_telemetry(root.section("telemetry"));
    let mut session = read_session(root.section("session"), &state_dir);
    let upload = read_upload(root.section("upload"));
    let vend = read_vend(root.section("vend"));
    let identities = named(&mut root, "identity", identity::read, |identity| &identity.name);
    let destinations = named(&mut root, "destination", destination, |destination| &destination.name);
    session.services = identity::read_services(&mut root, &identities);
    let hot_folders = hot_folder::read(&mut root, &session.services, &destinations, &state_dir);
    root.finish();
    Config { state_dir, drain_timeout_ms, api, telemetry, session, upload, vend, identities, destinations, hot_folders }
}

/// Reads an array of tables whose names must differ and of which there must be one.
fn named<'a, T>(
    root: &mut Section<'a>,
    key: &'static str,
    read: fn(Section<'a>) -> T,
    name: fn(&T) -> &String,
) -> Vec<T> {
    let sections = root.sections(key);
    if sections.is_empty() {
        root.problem(key, format!("is missing: there must be at least one [[{key}]]"));
    }
    uniquely_named(root, key, sections.into_iter().map(read).collect(), name)
}

fn uniquely_named<T>(root: &Section<'_>, key: &'static str, items: Vec<T>, name: fn(&T) -> &String) -> Vec<T> {
    for (index, item) in items.iter().enumerate() {
        let is_again = items[..index].iter().any(|other| name(other) == name(item));
        if is_again && !name(item).is_empty() {
            root.problem(key, format!("the name {:?} is there more than once", name(item)));
        }
    }
    items
}

fn read_api(mut table: Section<'_>) -> api::Config {
    let mut config = api::Config::default();
    set(&mut config.socket_path, table.path("socket_path"));
    set(&mut config.socket_mode, table.parsed("socket_mode", octal_mode));
    config.socket_group = table.string("socket_group");
    set(&mut config.admin_uids, table.uids("admin_uids"));
    set(&mut config.max_connections, size(table.integer("max_connections", 1..=65_536)));
    set(&mut config.max_connections_per_uid, size(table.integer("max_connections_per_uid", 1..=65_536)));
    set(&mut config.max_streams_per_connection, small(table.integer("max_streams_per_connection", 1..=65_536)));
    set(&mut config.max_streams, size(table.integer("max_streams", 1..=1_000_000)));
    set(&mut config.max_streams_per_uid, size(table.integer("max_streams_per_uid", 1..=1_000_000)));
    set(&mut config.max_message_bytes, size(table.integer("max_message_bytes", 65_536..=64 * MIB)));
    set(&mut config.max_header_bytes, small(table.integer("max_header_bytes", 1_024..=MIB)));
    set(&mut config.max_reset_streams, size(table.integer("max_reset_streams", 1..=10_000)));
    set(&mut config.max_frame_bytes, small(table.integer("max_frame_bytes", 16_384..=16_777_215)));
    set(&mut config.window_bytes, small(table.integer("window_bytes", 65_535..=64 * MIB)));
    set(&mut config.keepalive_interval_ms, table.integer("keepalive_interval_ms", 1_000..=3_600_000));
    set(&mut config.keepalive_timeout_ms, table.integer("keepalive_timeout_ms", 1_000..=3_600_000));
    set(&mut config.max_account_calls_per_minute, small(table.integer("max_account_calls_per_minute", 1..=100_000)));
    table.finish();
    config
}

fn read_telemetry(mut table: Section<'_>) -> telemetry::Config {
    let mut config = telemetry::Config::default();
    set(&mut config.log_format, table.parsed("log_format", str::parse));
    set(&mut config.log_filter, table.string("log_filter"));
    config.otlp_endpoint = table.string("otlp_endpoint");
    set(&mut config.otlp_interval_ms, table.integer("otlp_interval_ms", 1_000..=3_600_000));
    config.prometheus_listen = table.parsed("prometheus_listen", |text| {
        text.parse().map_err(|_| format!("must be ADDRESS:PORT, for example \"127.0.0.1:9464\", is {text:?}"))
    });
    for (key, why) in config.mistakes() {
        table.problem(key, why);
    }
    table.finish();
    config
}

fn read_session(mut table: Section<'_>, state_dir: &std::path::Path) -> session::Config {
    let mut config = session::Config::default();
    set(&mut config.max_sessions, size(table.integer("max_sessions", 1..=100_000)));
    set(&mut config.seal_key_file, table.path("seal_key_file"));
    if config.seal_key_file.starts_with(state_dir) {
        table.problem(
            "seal_key_file",
            "must lie outside daemon.state_dir: a copy of one must be useless without the other",
        );
    }
    set(&mut config.max_upstream_calls_per_s, small(table.integer("max_upstream_calls_per_s", 1..=1_000)));
    set(&mut config.upstream_burst, small(table.integer("upstream_burst", 1..=10_000)));
    set(&mut config.serve_until_before_expiry_ms, table.integer("serve_until_before_expiry_ms", 1_000..=600_000));
    set(&mut config.id_token_refresh_before_ms, table.integer("id_token_refresh_before_ms", 1_000..=3_600_000));
    set(&mut config.backoff_initial_ms, table.integer("backoff_initial_ms", 10..=60_000));
    set(&mut config.backoff_max_ms, table.integer("backoff_max_ms", 10..=3_600_000));
    set(&mut config.backoff_urgent_max_ms, table.integer("backoff_urgent_max_ms", 10..=3_600_000));
    set(&mut config.rotation_grace_ms, table.integer("rotation_grace_ms", 0..=60_000));
    set(&mut config.rotation_retry_max_ms, table.integer("rotation_retry_max_ms", 100..=60_000));
    set(&mut config.configuration_retry_ms, table.integer("configuration_retry_ms", 1_000..=86_400_000));
    set(&mut config.refused_retry_ms, table.integer("refused_retry_ms", 1_000..=86_400_000));
    set(&mut config.refused_wipe_after_ms, table.integer("refused_wipe_after_ms", 1_000..=YEAR_MS));
    set(&mut config.boot_spread_ms, table.integer("boot_spread_ms", 0..=3_600_000));
    set(&mut config.denied_refresh_initial_ms, table.integer("denied_refresh_initial_ms", 100..=3_600_000));
    set(&mut config.denied_refresh_max_ms, table.integer("denied_refresh_max_ms", 100..=86_400_000));
    set(&mut config.drain_max_ms, table.integer("drain_max_ms", 0..=YEAR_MS));
    set(&mut config.sign_in_wait_ms, table.integer("sign_in_wait_ms", 0..=60_000));
    set(&mut config.challenge_lifetime_ms, table.integer("challenge_lifetime_ms", 1_000..=900_000));
    set(&mut config.max_challenges, size(table.integer("max_challenges", 1..=100_000)));
    set(&mut config.max_challenges_per_uid, size(table.integer("max_challenges_per_uid", 1..=100_000)));
    set(&mut config.max_remembered_devices, size(table.integer("max_remembered_devices", 1..=100_000)));
    set(&mut config.max_waiters_per_session, size(table.integer("max_waiters_per_session", 1..=1_000_000)));
    let lifetime = table.integer("federated_sign_in_lifetime_ms", 1_000..=3_600_000);
    set(&mut config.federated_sign_in_lifetime_ms, lifetime);
    set(&mut config.max_federated_sign_ins, size(table.integer("max_federated_sign_ins", 1..=10_000)));
    set(&mut config.max_federated_sign_ins_per_uid, size(table.integer("max_federated_sign_ins_per_uid", 1..=10_000)));
    set(&mut config.connect_timeout_ms, table.integer("connect_timeout_ms", 100..=60_000));
    set(&mut config.guest_hand_over_wait_ms, table.integer("guest_hand_over_wait_ms", 0..=60_000));
    set(&mut config.call_timeout_ms, table.integer("call_timeout_ms", 100..=300_000));
    if config.backoff_initial_ms > config.backoff_max_ms {
        table.problem("backoff_initial_ms", "must not be more than backoff_max_ms");
    }
    table.finish();
    config
}

fn read_upload(mut table: Section<'_>) -> upload::Config {
    let mut config = upload::Config::default();
    set(&mut config.file_roots, table.paths("file_roots"));
    set(&mut config.single_put_max_bytes, table.integer("single_put_max_bytes", PART_MIN_BYTES..=PUT_MAX_BYTES));
    set(&mut config.part_size_bytes, table.integer("part_size_bytes", PART_MIN_BYTES..=PUT_MAX_BYTES));
    set(&mut config.part_size_max_bytes, table.integer("part_size_max_bytes", PART_MIN_BYTES..=PUT_MAX_BYTES));
    set(&mut config.multipart_max_age_s, table.integer("multipart_max_age_s", 3_600..=31_622_400));
    set(&mut config.max_parts_in_flight, size(table.integer("max_parts_in_flight", 1..=256)));
    set(&mut config.transfer_memory_max_bytes, table.integer("transfer_memory_max_bytes", MIB..=1 << 30));
    set(&mut config.max_upload_bytes_per_s, table.integer("max_upload_bytes_per_s", 0..=1 << 40));
    if (1..RATE_MIN).contains(&config.max_upload_bytes_per_s) {
        table.problem("max_upload_bytes_per_s", format!("must be 0 (no limit) or at least {RATE_MIN}"));
    }
    set(&mut config.max_uploads_in_flight, size(table.integer("max_uploads_in_flight", 2..=256)));
    set(&mut config.part_attempts, small(table.integer("part_attempts", 1..=100)));
    set(&mut config.backoff_initial_ms, table.integer("backoff_initial_ms", 10..=60_000));
    set(&mut config.backoff_max_ms, table.integer("backoff_max_ms", 10..=86_400_000));
    set(&mut config.stall_timeout_ms, table.integer("stall_timeout_ms", 100..=600_000));
    set(&mut config.complete_timeout_ms, table.integer("complete_timeout_ms", 1_000..=3_600_000));
    read_metered(&mut table, &mut config);
    set(&mut config.max_failing_s, table.integer("max_failing_s", 60..=316_224_000));
    set(&mut config.receiving_idle_max_s, table.integer("receiving_idle_max_s", 10..=31_622_400));
    set(&mut config.receipt_retention_s, table.integer("receipt_retention_s", 60..=316_224_000));
    set(&mut config.spool_max_bytes, table.integer("spool_max_bytes", MIB..=1 << 50));
    set(&mut config.spool_max_bytes_per_uid, table.integer("spool_max_bytes_per_uid", MIB..=1 << 50));
    set(&mut config.disk_free_floor_bytes, table.integer("disk_free_floor_bytes", 0..=1 << 50));
    set(&mut config.spool_sync_interval_bytes, table.integer("spool_sync_interval_bytes", MIB..=1 << 30));
    if config.backoff_initial_ms > config.backoff_max_ms {
        table.problem("backoff_initial_ms", "must not be more than backoff_max_ms");
    }
    table.finish();
    config
}

fn read_metered(table: &mut Section<'_>, config: &mut upload::Config) {
    if let Some(names) = table.strings("metered_interfaces") {
        let is_odd = |name: &String| {
            let fixed = name.strip_suffix('*').unwrap_or(name);
            name.is_empty() || fixed.len() > INTERFACE_NAME_MAX || fixed.contains(['*', '/', ' '])
        };
        if let Some(name) = names.iter().find(|name| is_odd(name)) {
            let why = format!("{name:?} is neither an interface's name nor the beginning of one with a * behind it");
            table.problem("metered_interfaces", why);
        }
        config.metered_interfaces = names;
    }
    if let Some(names) = table.strings("metered_priorities") {
        config.metered_priorities.clear();
        for name in names {
            match PRIORITIES.iter().find(|(known, _)| *known == name) {
                Some((_, priority)) => config.metered_priorities.push(*priority),
                None => table.problem(
                    "metered_priorities",
                    format!("{name:?} is none of \"interactive\", \"normal\" and \"background\""),
                ),
            }
        }
    }
}

fn read_vend(mut table: Section<'_>) -> vend::Config {
    let listen = table.parsed("listen", |text| match text.parse::<std::net::SocketAddr>() {
        Ok(address) if address.ip().is_loopback() => Ok(address),
        Ok(address) => Err(format!("{address} is not a loopback address: credentials never leave this machine")),
        Err(_) => Err(format!("must be ADDRESS:PORT, for example \"127.0.0.1:9477\", is {text:?}")),
    });
    let mut config = vend::Config { listen, ..vend::Config::default() };
    set(&mut config.max_connections, size(table.integer("max_connections", 1..=4_096)));
    set(&mut config.max_header_bytes, size(table.integer("max_header_bytes", 8_192..=MIB)));
    set(&mut config.connection_timeout_ms, table.integer("connection_timeout_ms", 100..=60_000));
    set(&mut config.answer_timeout_ms, table.integer("answer_timeout_ms", 10..=800));
    if config.answer_timeout_ms >= config.connection_timeout_ms {
        table.problem("answer_timeout_ms", "must be less than connection_timeout_ms");
    }
    table.finish();
    config
}

fn destination(mut table: Section<'_>) -> DestinationConfig {
    let name = table.required_string("name");
    let prefix = table.required_string("prefix");
    if let Err(why) = upload::check_prefix(&prefix)
        && !prefix.is_empty()
    {
        table.problem("prefix", why);
    }
    let is_directory = table.choice("kind", &[("s3", false), ("directory", true)]).unwrap_or(false);
    let store = if is_directory {
        if !table.is_present("path") {
            table.problem("path", "is missing");
        }
        StoreConfig::Directory(store::directory::Config { path: table.path("path").unwrap_or_default() })
    } else {
        StoreConfig::S3(read_s3(&mut table))
    };
    table.finish();
    DestinationConfig { name, prefix, store }
}

fn read_s3(table: &mut Section<'_>) -> store::s3::Config {
    let default = store::s3::Config::default();
    let checksums = [
        ("crc64nvme", store::s3::Checksum::Crc64Nvme),
        ("md5", store::s3::Checksum::Md5),
        ("none", store::s3::Checksum::None),
    ];
    store::s3::Config {
        bucket: table.required_string("bucket"),
        region: table.required_string("region"),
        endpoint_url: table.string("endpoint_url"),
        path_style: table.boolean("path_style").unwrap_or(default.path_style),
        expected_bucket_owner: table.parsed("expected_bucket_owner", account_id),
        checksum: table.choice("checksum", &checksums).unwrap_or(default.checksum),
        conditional_writes: table.boolean("conditional_writes").unwrap_or(default.conditional_writes),
        ca_file: table.path("ca_file"),
        connect_timeout_ms: table.integer("connect_timeout_ms", 100..=60_000).unwrap_or(default.connect_timeout_ms),
    }
}

fn set<T>(field: &mut T, value: Option<T>) {
    if let Some(value) = value {
        *field = value;
    }
}

fn size(number: Option<u64>) -> Option<usize> {
    number.and_then(|number| usize::try_from(number).ok())
}

fn small(number: Option<u64>) -> Option<u32> {
    number.and_then(|number| u32::try_from(number).ok())
}

fn octal_mode(text: &str) -> Result<u32, String> {
    match u32::from_str_radix(text, 8) {
        Ok(mode) if mode <= 0o777 && mode & 0o600 == 0o600 => Ok(mode),
        _ => Err(format!("must be octal and let the owner read and write, for example \"0660\", is {text:?}")),
    }
}

fn account_id(text: &str) -> Result<String, String> {
    if text.len() == 12 && text.bytes().all(|byte| byte.is_ascii_digit()) {
        Ok(text.to_owned())
    } else {
        Err(format!("must be an account id of 12 digits, is {text:?}"))
    }
}
