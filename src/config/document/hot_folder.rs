//! `[[hot_folder]]`: which folders are watched, and what fits together.

use std::path::Path;

use super::{PRIORITIES, set, size};
use crate::config::reader::Section;
use crate::config::{DestinationConfig, StoreConfig};
use crate::hot_folder::key::KeyTemplate;
use crate::hot_folder::pattern::Patterns;
use crate::hot_folder::{AfterUpload, Config, Settle, check_device};
use crate::session::ServiceConfig;
use crate::store::s3::Checksum;
use crate::upload::{KeyPolicy, OnDenied};

const DAY_MS: u64 = 24 * 3_600_000;

/// Reads every `[[hot_folder]]`.
pub(super) fn read(
    root: &mut Section<'_>,
    services: &[ServiceConfig],
    destinations: &[DestinationConfig],
    state_dir: &Path,
) -> Vec<Config> {
    let sections = root.sections("hot_folder");
    let folders: Vec<Config> =
        sections.into_iter().filter_map(|table| read_one(table, services, destinations, state_dir)).collect();
    for (index, folder) in folders.iter().enumerate() {
        for other in &folders[..index] {
            let (outer, inner) = if folder.path.starts_with(&other.path) { (other, folder) } else { (folder, other) };
            if outer.path == inner.path {
                root.problem("hot_folder", format!("{} is there more than once", folder.path.display()));
            } else if inner.path.starts_with(&outer.path) && outer.recursive {
                let (inner, outer) = (inner.path.display(), outer.path.display());
                root.problem(
                    "hot_folder",
                    format!("{inner} lies in {outer}, which is recursive: its files are there twice"),
                );
            }
        }
    }
    folders
}

/// `None` where something is missing, which was noted.
fn read_one(
    mut table: Section<'_>,
    services: &[ServiceConfig],
    destinations: &[DestinationConfig],
    state_dir: &Path,
) -> Option<Config> {
    if !table.is_present("path") {
        table.problem("path", "is missing");
    }
    let path = table.path("path");
    let path_is_plain = |path: &Path| path.components().all(|part| !matches!(part, std::path::Component::ParentDir));
    if let Some(path) = &path {
        if !path_is_plain(path) {
            table.problem("path", "must not have a .. in it");
        }
        if path.starts_with(state_dir) || state_dir.starts_with(path) {
            table.problem("path", "must lie apart from daemon.state_dir");
        }
    }
    let service = one_of(&mut table, "session", "service_session", services, |service| &service.name);
    let destination = one_of(&mut table, "destination", "destination", destinations, |destination| &destination.name);
    let allowed = service.map(|service| service.allowed_uids.as_slice()).unwrap_or_default();
    let owner = table.integer("owner_uid", 0..=u64::from(u32::MAX)).and_then(|uid| u32::try_from(uid).ok());
    if let Some(owner) = owner
        && service.is_some()
        && !allowed.contains(&owner)
    {
        table.problem("owner_uid", format!("must be one of the session's allowed_uids: {allowed:?}"));
    }
    let made = Config::of(
        path.clone().unwrap_or_default(),
        service.map(|service| service.name.clone()).unwrap_or_default(),
        owner.or_else(|| allowed.first().copied()).unwrap_or(0),
        destination.map(|destination| destination.name.clone()).unwrap_or_default(),
    );
    let mut config = made.inspect_err(|why| table.problem("", why.clone())).ok()?;
    read_keys(&mut table, &mut config);
    read_rules(&mut table, &mut config, destination);
    table.finish();
    path.is_some().then_some(config)
}

fn read_keys(table: &mut Section<'_>, config: &mut Config) {
    let policies = [("unique", KeyPolicy::Unique), ("exact", KeyPolicy::Exact)];
    set(&mut config.key, table.parsed("key", KeyTemplate::parse));
    set(&mut config.key_policy, table.choice("key_policy", &policies));
    set(&mut config.overwrite, table.boolean("overwrite"));
    set(&mut config.priority, table.choice("priority", &PRIORITIES));
    set(&mut config.on_denied, table.choice("on_denied", &[("wait", OnDenied::Wait), ("fail", OnDenied::Fail)]));
    config.device = table.parsed("device", |text| check_device(text).map(|()| text.to_owned()));
    if config.overwrite && config.key_policy == KeyPolicy::Unique {
        table.problem("overwrite", "works with key_policy = \"exact\" only: a unique key overwrites nothing");
    }
    if config.key_policy == KeyPolicy::Exact && !config.key.tells_files_apart() {
        table.problem("key", "must have {name} (or {stem} and {ext}) in it where key_policy is \"exact\"");
    }
}

fn read_rules(table: &mut Section<'_>, config: &mut Config, destination: Option<&DestinationConfig>) {
    let mut patterns = |key: &'static str| {
        let texts = table.strings(key)?;
        Patterns::parse(&texts).inspect_err(|why| table.problem(key, why.clone())).ok()
    };
    let (include, exclude) = (patterns("include"), patterns("exclude"));
    set(&mut config.include, include);
    set(&mut config.exclude, exclude);
    set(&mut config.settle, table.choice("settle", &[("close_write", Settle::CloseWrite), ("quiet", Settle::Quiet)]));
    set(&mut config.quiet_ms, table.integer("quiet_ms", 10..=DAY_MS));
    set(&mut config.hidden, table.boolean("hidden"));
    set(&mut config.recursive, table.boolean("recursive"));
    set(&mut config.rescan_interval_ms, table.integer("rescan_interval_ms", 1_000..=DAY_MS));
    set(&mut config.check_interval_ms, table.integer("check_interval_ms", 100..=3_600_000));
    set(&mut config.retry_interval_ms, table.integer("retry_interval_ms", 100..=3_600_000));
    set(&mut config.max_tracked_files, size(table.integer("max_tracked_files", 2..=1_000_000)));
    set(&mut config.max_imports_in_flight, size(table.integer("max_imports_in_flight", 1..=256)));
    set(&mut config.max_queued_uploads, table.integer("max_queued_uploads", 1..=1_000_000));
    let words = [("keep", 0), ("delete", 1), ("move", 2)];
    let target = table.path("move_to");
    config.after_upload = match (table.choice("after_upload", &words).unwrap_or(0), target) {
        (0, None) => AfterUpload::Keep,
        (1, None) => AfterUpload::Delete,
        (2, Some(target)) => {
            if config.path.starts_with(&target) {
                table.problem("move_to", "must be another folder");
            }
            AfterUpload::Move(target)
        }
        (2, None) => {
            table.problem("move_to", "is missing: the folder that uploaded files are moved to");
            AfterUpload::Keep
        }
        (_, Some(_)) => {
            table.problem("move_to", "must be left out: only after_upload = \"move\" has it");
            AfterUpload::Keep
        }
        (_, None) => AfterUpload::Keep,
    };
    let proves = match destination.map(|destination| &destination.store) {
        Some(StoreConfig::S3(s3)) => s3.checksum != Checksum::None,
        Some(StoreConfig::Directory(_)) | None => true,
    };
    if config.after_upload == AfterUpload::Delete && !proves {
        let why = "must not be \"delete\": with checksum = \"none\" the destination does not prove that it has the bytes; \
                   use \"move\" or \"keep\"";
        table.problem("after_upload", why);
    }
}

/// The thing that `key` names, or the only one.
fn one_of<'a, T>(
    table: &mut Section<'_>,
    key: &'static str,
    kind: &str,
    all: &'a [T],
    name: fn(&T) -> &String,
) -> Option<&'a T> {
    let given = table.string(key);
    let found = match &given {
        Some(given) => all.iter().find(|one| name(one) == given),
        None => all.first().filter(|_| all.len() == 1),
    };
    if found.is_none() {
        let names: Vec<_> = all.iter().map(|one| name(one).as_str()).collect();
        let which = if names.is_empty() { "there is none".to_owned() } else { names.join(", ") };
        table.problem(key, format!("must be the name of a [[{kind}]]: {which}"));
    }
    found
}
