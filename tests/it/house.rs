//! The invariants of src/ARCHITECTURE.md, checked by reading the sources: who may import whom, where foreign types may
//! appear, which files are pure, how long a file may grow.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Rooms that everything may use.
const LEAVES: [&str; 6] = ["clock", "caller", "telemetry", "loopback", "failpoint", "media_type"];

/// Which room may import which others, besides the leaves.
fn allowed_imports() -> BTreeMap<&'static str, Vec<&'static str>> {
    BTreeMap::from([
        ("main", vec!["cli", "daemon"]),
        ("cli", vec!["api", "config", "daemon", "local_cloud"]),
        (
            "daemon",
            vec!["account", "api", "config", "credential", "session", "store", "upload", "vend", "hot_folder", "link"],
        ),
        ("config", vec!["account", "api", "credential", "session", "store", "upload", "vend", "hot_folder"]),
        ("api", vec!["account", "credential", "session", "upload"]),
        ("vend", vec!["session"]),
        ("hot_folder", vec!["upload"]),
        ("upload", vec!["session", "store"]),
        ("session", vec!["credential", "srp"]),
        ("account", vec!["credential"]),
        ("credential", vec![]),
        ("store", vec!["credential"]),
        ("srp", vec![]),
        ("local_cloud", vec!["pre_sign_up", "srp"]),
        ("pre_sign_up", vec![]),
        ("telemetry", vec![]),
        ("clock", vec![]),
        ("caller", vec![]),
        ("link", vec![]),
        ("loopback", vec![]),
        ("failpoint", vec![]),
        ("media_type", vec![]),
        ("lib", vec![]),
    ])
}

/// Files that implement a trait for AWS: the only ones where its SDK may be named.
const AWS_SDK_FILES: [&str; 4] = ["account/cognito", "credential/", "session/cognito", "store/s3"];

/// Files (by their last name) that do no I/O and read no clock.
const PURE_FILES: [&str; 9] =
    ["state.rs", "plan.rs", "pace.rs", "schedule.rs", "scheduler.rs", "room.rs", "lifetime.rs", "key.rs", "pattern.rs"];

const MOST_LINES: usize = 600;

struct Source {
    path: String,
    room: String,
    /// The code without comments and without its test module.
    code: String,
    lines: usize,
}

fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    collect(&root, &mut files);
    files.sort();
    assert!(files.len() > 10, "the sources were not found");
    files
        .into_iter()
        .map(|file| {
            let text = std::fs::read_to_string(&file).expect("a source file is text");
            let path = file.strip_prefix(&root).expect("is below src").display().to_string();
            let room = path.split(['/', '.']).next().expect("has a first part").to_owned();
            let product = text.split("\n#[cfg(test)]\nmod tests {").next().unwrap_or_default();
            let code = product
                .lines()
                .filter(|line| !line.trim_start().starts_with("//"))
                .map(|line| format!("{line}\n"))
                .collect();
            Source { path, room, code, lines: text.lines().count() }
        })
        .collect()
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).expect("src can be read") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            collect(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}

/// The rooms that a source names by `crate::ROOM` or `tidegate::ROOM`, groups in braces included.
fn imported_rooms(code: &str) -> Vec<String> {
    let mut rooms = Vec::new();
    for root in ["crate::", "tidegate::"] {
        for (at, _) in code.match_indices(root) {
            let rest = &code[at + root.len()..];
            if let Some(group) = rest.strip_prefix('{') {
                let mut depth = 0_i32;
                let mut word = String::new();
                for character in group.chars() {
                    match character {
                        '{' => depth += 1,
                        '}' if depth == 0 => break,
                        '}' => depth -= 1,
                        ',' if depth == 0 => rooms.push(std::mem::take(&mut word)),
                        other if depth == 0 => word.push(other),
                        _ => {}
                    }
                }
                rooms.push(word);
            } else {
                rooms.push(rest.to_owned());
            }
        }
    }
    rooms
        .into_iter()
        .map(|room| {
            room.trim()
                .chars()
                .take_while(|letter| letter.is_ascii_lowercase() || *letter == '_' || letter.is_ascii_digit())
                .collect()
        })
        .filter(|room: &String| !room.is_empty())
        .collect()
}

#[test]
fn imports_go_one_way_through_the_house() {
    let allowed = allowed_imports();
    let mut wrong = Vec::new();
    for source in sources() {
        let may = allowed.get(source.room.as_str());
        let Some(may) = may else {
            wrong.push(format!("{}: room {:?} is not in the table", source.path, source.room));
            continue;
        };
        for room in imported_rooms(&source.code) {
            let known = allowed.contains_key(room.as_str());
            if known && room != source.room && !LEAVES.contains(&room.as_str()) && !may.contains(&room.as_str()) {
                wrong.push(format!("{}: {} may not import {room}", source.path, source.room));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_import_reader_sees_groups_and_paths() {
    let code = "use crate::{api::v1, session::{A, b::C}};\nlet x = crate::upload::Uploads;";
    assert_eq!(imported_rooms(code), ["api", "session", "upload"]);
}

#[test]
fn protobuf_types_stay_at_the_api() {
    let mut wrong = Vec::new();
    for source in sources() {
        let uses = source.code.contains("api::v1") || source.code.contains("prost");
        if uses && !["api", "cli"].contains(&source.room.as_str()) {
            wrong.push(source.path);
        }
    }
    assert!(wrong.is_empty(), "protobuf types outside api and cli: {wrong:?}");
}

#[test]
fn aws_sdk_types_stay_in_the_plug_ins() {
    let mut wrong = Vec::new();
    for source in sources() {
        let uses = ["aws_sdk_", "aws_smithy_", "aws_config", "aws_credential_types"]
            .iter()
            .any(|name| source.code.contains(name));
        // The demo plays an app that uses the vended credentials with AWS's own SDK.
        let is_guest = source.room == "local_cloud" || source.path.starts_with("cli/demo");
        if uses && !is_guest && !AWS_SDK_FILES.iter().any(|file| source.path.starts_with(file)) {
            wrong.push(source.path);
        }
    }
    assert!(wrong.is_empty(), "AWS SDK types outside the plug-ins: {wrong:?}");
}

#[test]
fn pure_files_do_no_input_output_and_read_no_clock() {
    let forbidden = [
        "std::fs",
        "std::net",
        "tokio::",
        "rusqlite",
        "SystemTime::now",
        "Instant::now",
        "clock.boot()",
        "clock.wall()",
        ".await",
    ];
    let mut wrong = Vec::new();
    for source in sources() {
        let name = source.path.rsplit('/').next().unwrap_or_default();
        if ["session", "upload", "hot_folder"].contains(&source.room.as_str()) && PURE_FILES.contains(&name) {
            for word in forbidden {
                if source.code.contains(word) {
                    wrong.push(format!("{}: {word}", source.path));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn files_have_walls_and_names_that_say_something() {
    let mut wrong = Vec::new();
    for source in sources() {
        if source.lines > MOST_LINES {
            wrong.push(format!("{}: {} lines, at most {MOST_LINES}", source.path, source.lines));
        }
        for part in source.path.trim_end_matches(".rs").split('/') {
            if ["utils", "util", "common", "helpers", "helper", "misc", "mod"].contains(&part) {
                wrong.push(format!("{}: {part} says nothing", source.path));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_file_says_what_it_is() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    // A test module's head stands where it is declared: in the file that it tests.
    for source in sources().into_iter().filter(|source| !source.path.contains("tests")) {
        let text = std::fs::read_to_string(root.join(&source.path)).expect("was read before");
        assert!(text.starts_with("//!"), "{} has no head", source.path);
    }
}
