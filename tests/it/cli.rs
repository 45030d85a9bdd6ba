//! The command line as people and scripts use it: the real binary, its output, its exit codes.

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::process::{Output, Stdio};

use serde_json::{Value, json};

use crate::challenges::totp;
use crate::rig::{self, Rig, tidegate};

/// Runs a command that needs no daemon.
fn run(arguments: &[&str]) -> Output {
    tidegate().args(arguments).stdin(Stdio::null()).output().unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

#[test]
fn help_names_every_command_and_every_exit_code() {
    let help = run(&["--help"]);
    assert_eq!(help.status.code(), Some(0));
    let text = stdout(&help);
    for command in [
        "serve",
        "sign-up",
        "confirm",
        "sign-in",
        "respond",
        "upload",
        "uploads",
        "watch",
        "credentials",
        "status",
        "completions",
    ] {
        assert!(text.contains(&format!("\n  {command} ")), "{command} is not in:\n{text}");
    }
    for exit in tidegate::cli::exit::Exit::ALL {
        assert!(text.contains(&format!("{:>3}  {}", exit.code(), exit.meaning())), "{exit:?} is not in:\n{text}");
        let row = format!("\n| {} | {} |", exit.code(), exit.meaning());
        assert!(include_str!("../../README.md").contains(&row), "README.md lacks{row}");
    }
    assert_eq!(run(&["--version"]).status.code(), Some(0));
}

#[test]
fn wrong_arguments_are_exit_code_2_and_nothing_on_stdout() {
    for arguments in [
        &["no-such-command"][..],
        &["upload"],
        &["sign-in"],
        &["sign-in", "ada@example.com", "--password", "x"],
        &["upload", "--overwrite", "photo.jpg"],
        &["uploads", "--state", "lost"],
    ] {
        let output = run(arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {}", stderr(&output));
        assert!(output.stdout.is_empty() && !output.stderr.is_empty(), "{arguments:?}");
    }
}

#[test]
fn a_missing_daemon_is_named_with_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("none.sock");
    let output = tidegate().arg("--socket").arg(&socket).arg("status").output().unwrap();
    assert_eq!(output.status.code(), Some(3));
    let text = stderr(&output);
    assert!(text.contains("no such socket") && text.contains("tidegate serve"), "{text}");

    // A socket that nobody listens at is told apart, and programs get it as one line of JSON.
    drop(std::os::unix::net::UnixListener::bind(&socket).unwrap());
    let output = tidegate().env("TIDEGATE_SOCKET", &socket).args(["sessions", "--json"]).output().unwrap();
    assert_eq!(output.status.code(), Some(3));
    let error: Value = serde_json::from_slice(&output.stderr).unwrap();
    assert_eq!(error["error"]["exit_code"], 3);
    assert!(error["error"]["message"].as_str().unwrap().contains("nobody listens"), "{error}");
    assert!(output.stdout.is_empty());
}

#[test]
fn completions_are_printed_for_every_shell() {
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let output = run(&["completions", shell]);
        assert_eq!(output.status.code(), Some(0), "{shell}");
        assert!(stdout(&output).contains("sign-in"), "{shell}");
    }
}

#[test]
fn a_reader_that_has_gone_away_is_no_error() {
    let mut child = tidegate().args(["completions", "bash"]).stdout(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    assert!(child.wait().unwrap().success());
}

#[test]
fn a_full_disk_behind_stdout_is_an_error() {
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let output = tidegate().args(["completions", "bash"]).stdout(full).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("stdout"), "{}", stderr(&output));
}

#[test]
fn every_mistake_of_a_configuration_is_named_with_its_place() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("tidegate.toml");
    let minimal = include_str!("../../config/minimal.toml");
    std::fs::write(&file, minimal).unwrap();
    let check = || tidegate().arg("check-config").arg("--config").arg(&file).output().unwrap();
    let valid = check();
    assert_eq!(valid.status.code(), Some(0), "{}", stderr(&valid));
    assert!(stdout(&valid).contains("valid"));

    std::fs::write(&file, format!("{minimal}\n[upload]\nno_such = 1\npart_size_bytes = 3\n")).unwrap();
    let invalid = check();
    assert_eq!(invalid.status.code(), Some(2));
    let text = stderr(&invalid);
    assert!(text.contains("no_such") && text.contains("part_size_bytes") && text.contains("tidegate.toml:"), "{text}");

    std::fs::remove_file(&file).unwrap();
    assert_eq!(check().status.code(), Some(5));
    assert_eq!(tidegate().arg("serve").arg("--config").arg(&file).output().unwrap().status.code(), Some(1));
}

#[test]
fn a_password_never_comes_without_a_terminal_or_stdin() {
    let rig = Rig::start();
    let output = rig.command(&["sign-in", "ada@example.com"]).stdin(Stdio::null()).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("--password-stdin"), "{}", stderr(&output));
    let output = rig.with_stdin(&["sign-in", "ada@example.com", "--password-stdin"], "\n");
    assert_eq!(output.status.code(), Some(2), "an empty password: {}", stderr(&output));
}

#[test]
fn an_account_from_sign_up_to_sign_out() {
    let rig = Rig::start();
    let ada = "ada@example.com";
    let password = "Correct-horse-7";

    let output = rig.with_stdin(&["sign-up", ada, "--password-stdin", "--json"], "short\n");
    assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
    let error: Value = serde_json::from_slice(&output.stderr).unwrap();
    assert_eq!(error["error"]["reason"], "INVALID_PASSWORD");

    let signed_up = rig.json_with_stdin(&["sign-up", ada, "--password-stdin"], password);
    assert_eq!(signed_up["confirmed"], false);
    assert_eq!(signed_up["code_delivery"]["medium"], "EMAIL");

    let early = rig.with_stdin(&["sign-in", ada, "--password-stdin"], password);
    assert_eq!(early.status.code(), Some(7), "{}", stderr(&early));
    assert!(stderr(&early).contains("tidegate confirm"), "{}", stderr(&early));

    let wrong = rig.run(&["confirm", ada, "000000"]);
    assert_eq!(wrong.status.code(), Some(2), "{}", stderr(&wrong));
    rig.json(&["resend-code", ada]);
    assert_eq!(rig.json(&["confirm", ada, &rig.newest_code(ada)])["confirmed"], true);

    let refused = rig.with_stdin(&["sign-in", ada, "--password-stdin"], "Wrong-horse-7");
    assert_eq!(refused.status.code(), Some(4), "{}", stderr(&refused));
    assert!(!stderr(&refused).contains("Wrong-horse-7"));

    let session = rig.json_with_stdin(&["sign-in", ada, "--password-stdin"], password);
    assert_eq!(session["state"], "ACTIVE");
    let name = session["name"].as_str().unwrap().to_owned();
    assert_eq!(rig.json(&["sessions"])["sessions"][0]["name"], name.as_str());
    assert!(stdout(&rig.run(&["sessions"])).contains(ada));
    assert_eq!(rig.json(&["refresh"])["name"], name.as_str());
    // A JWT has three parts; the text form is the token alone.
    assert_eq!(stdout(&rig.run(&["tokens"])).trim().split('.').count(), 3);
    assert!(rig.json(&["tokens", "--access-token"])["access_token"].is_string());

    assert_eq!(rig.json(&["forgot-password", ada])["code_delivery"]["medium"], "EMAIL");
    let code = rig.newest_code(ada);
    rig.json_with_stdin(&["reset-password", ada, &code, "--password-stdin"], "Another-horse-8");
    rig.json_with_stdin(&["sign-in", ada, "--password-stdin"], "Another-horse-8");

    assert_eq!(rig.json(&["sign-out", &name])["unfinished_upload_count"], 0);
    let gone = rig.run(&["tokens", &name]);
    assert_eq!(gone.status.code(), Some(5), "{}", stderr(&gone));
    assert!(stdout(&rig.run(&["sessions"])).contains("no session"));
    rig.nothing_logged_contains(&[password, "Another-horse-8", "Wrong-horse-7"]);
}

#[test]
fn photos_from_the_command_line_into_the_bucket() {
    let rig = Rig::start();
    rig.sign_in("ada@example.com");
    let folder = rig.photos();
    let (cat, dog) = (folder.join("cat.jpg"), folder.join("dog.jpg"));
    std::fs::write(&cat, vec![7_u8; 600_000]).unwrap();
    std::fs::write(&dog, b"dog").unwrap();
    let (cat, dog) = (cat.to_str().unwrap(), dog.to_str().unwrap());

    // One file: one document.
    let stored = rig.json(&["upload", "--wait", "--exact", "--key", "free/cat.jpg", cat]);
    assert_eq!(stored["upload"]["state"], "SUCCEEDED");
    assert_eq!(stored["upload"]["stored_bytes"], 600_000);
    let key = stored["upload"]["object"]["key"].as_str().unwrap();
    assert!(key.starts_with("users/") && key.ends_with("/free/cat.jpg"), "{key}");

    // Nothing is overwritten by accident; with --overwrite it is.
    let taken = rig.run(&["upload", "--wait", "--exact", "--key", "free/cat.jpg", dog]);
    assert_eq!(taken.status.code(), Some(1), "{}", stderr(&taken));
    assert!(stderr(&taken).contains("OBJECT_EXISTS"), "{}", stderr(&taken));
    let replaced = rig.json(&["upload", "--wait", "--exact", "--overwrite", "--key", "free/cat.jpg", dog]);
    assert_eq!(replaced["upload"]["total_bytes"], 3);

    // Several files: one line each, under their own names with the upload's id in them.
    let output = rig.run(&["upload", "--wait", "--json", cat, dog]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let lines: Vec<Value> = stdout(&output).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 2);
    for line in &lines {
        let (key, name) = (&line["upload"]["object"]["key"], line["upload"]["name"].as_str().unwrap());
        assert!(key.as_str().unwrap().contains(name.trim_start_matches("uploads/")), "{key} {name}");
    }

    // By its path the daemon reads the file itself.
    let by_path = rig.json(&["upload", "--wait", "--by-path", cat]);
    assert_eq!(by_path["upload"]["state"], "SUCCEEDED");
    let outside = rig.state_file("tidegate.toml");
    let refused = rig.run(&["upload", "--by-path", outside.to_str().unwrap()]);
    assert_eq!(refused.status.code(), Some(4), "{}", stderr(&refused));
    assert!(stderr(&refused).contains("PATH_OUTSIDE_ROOTS"), "{}", stderr(&refused));

    // The tier is S3's business, the shape of a key the daemon's.
    let denied = rig.run(&["upload", "--wait", "--key", "premium/cat.jpg", cat]);
    assert_eq!(denied.status.code(), Some(4), "{}", stderr(&denied));
    assert!(stderr(&denied).contains("ACCESS_DENIED"), "{}", stderr(&denied));
    let forged = rig.run(&["upload", "--key", "free/../premium/x", cat]);
    assert_eq!(forged.status.code(), Some(2), "{}", stderr(&forged));
    assert!(stderr(&forged).contains("INVALID_KEY"), "{}", stderr(&forged));

    let failed = rig.json(&["uploads", "--state", "failed"]);
    assert_eq!(failed["uploads"].as_array().unwrap().len(), 2, "{failed}");
    let succeeded = rig.json(&["uploads", "--state", "succeeded", "--limit", "2"]);
    assert_eq!(succeeded["uploads"].as_array().unwrap().len(), 2);
    assert_eq!(succeeded["more"], true);
    assert!(stdout(&rig.run(&["uploads"])).contains("FAILED (ACCESS_DENIED)"));
}

#[test]
fn the_same_upload_id_never_makes_a_second_object() {
    let rig = Rig::start();
    rig.sign_in("ada@example.com");
    let photo = rig.photos().join("one.jpg");
    std::fs::write(&photo, b"one photo").unwrap();
    let id = ulid::Ulid::generate().to_string();
    let again = ["upload", "--wait", "--upload-id", &id, photo.to_str().unwrap()];
    let first = rig.json(&again);
    let second = rig.json(&again);
    assert_eq!(first["upload"]["object"], second["upload"]["object"]);
    assert_eq!(rig.json(&["uploads"])["uploads"].as_array().unwrap().len(), 1);
}

#[test]
fn uploads_wait_while_paused_and_can_be_watched_and_cancelled() {
    let rig = Rig::start();
    rig.sign_in("ada@example.com");
    let photo = rig.photos().join("one.jpg");
    std::fs::write(&photo, b"one photo").unwrap();
    let photo = photo.to_str().unwrap();

    assert_eq!(rig.json(&["pause"])["paused"], true);
    assert_eq!(rig.json(&["status"])["paused"], true);
    let held = rig.json(&["upload", photo])["upload"]["name"].as_str().unwrap().to_owned();
    let stopped = rig.json(&["upload", photo])["upload"]["name"].as_str().unwrap().to_owned();
    assert_eq!(rig.json(&["cancel", &stopped])["state"], "CANCELLED");

    let watcher = rig.command(&["watch", &held, "--json"]).stdout(Stdio::piped()).spawn().unwrap();
    assert_eq!(rig.json(&["resume"])["paused"], false);
    let watched = watcher.wait_with_output().unwrap();
    assert_eq!(watched.status.code(), Some(0));
    let last = stdout(&watched).lines().last().map(|line| serde_json::from_str::<Value>(line).unwrap());
    assert_eq!(last.unwrap()["state"], "SUCCEEDED");

    let ended = rig.run(&["cancel", &held]);
    assert_eq!(ended.status.code(), Some(7), "{}", stderr(&ended));
    assert!(stderr(&ended).contains("UPLOAD_ENDED"), "{}", stderr(&ended));

    let status = stdout(&rig.run(&["status"]));
    assert!(status.contains("1 SUCCEEDED") && status.contains("1 CANCELLED"), "{status}");
    assert_eq!(rig.json(&["reload"])["applied_keys"].as_array().unwrap().len(), 0);
    let unknown = rig.run(&["watch", &ulid::Ulid::generate().to_string()]);
    assert_eq!(unknown.status.code(), Some(5), "{}", stderr(&unknown));
}

#[test]
fn a_name_that_is_not_utf8_is_uploaded_under_a_key_of_its_own() {
    let rig = Rig::start();
    rig.sign_in("ada@example.com");
    let photo = rig.photos().join(std::ffi::OsStr::from_bytes(b"caf\xe9.jpg"));
    std::fs::File::create(&photo).unwrap().write_all(b"a photo").unwrap();
    let refused = rig.command(&["upload"]).arg(&photo).output().unwrap();
    assert_eq!(refused.status.code(), Some(2));
    assert!(stderr(&refused).contains("not UTF-8"), "{}", stderr(&refused));
    let taken = rig.command(&["upload", "--wait", "--key", "free/cafe.jpg"]).arg(&photo).output().unwrap();
    assert_eq!(taken.status.code(), Some(0), "{}", stderr(&taken));
    let by_path = rig.command(&["upload", "--by-path", "--key", "free/cafe.jpg"]).arg(&photo).output().unwrap();
    assert_eq!(by_path.status.code(), Some(2), "{}", stderr(&by_path));
}

#[test]
fn an_upload_goes_on_after_the_daemon_was_restarted() {
    let mut rig = Rig::start();
    rig.sign_in("ada@example.com");
    rig.json(&["pause"]);
    let photo = rig.photos().join("one.jpg");
    std::fs::write(&photo, b"one photo").unwrap();
    let name = rig.json(&["upload", photo.to_str().unwrap()])["upload"]["name"].as_str().unwrap().to_owned();
    rig.restart_daemon();
    rig.json(&["resume"]);
    let watched = rig.run(&["watch", &name]);
    assert_eq!(watched.status.code(), Some(0), "{}", stderr(&watched));
}

#[test]
fn a_broken_stream_goes_on_where_it_stopped() {
    const PHOTO_BYTES: usize = 24 << 20;
    const BREAK_AT: usize = 16 << 20;
    let rig = Rig::start();
    rig.sign_in("ada@example.com");
    let photo = rig.photos().join("big.jpg");
    std::fs::write(&photo, vec![3_u8; PHOTO_BYTES]).unwrap();
    let proxy = rig.breaking_socket(BREAK_AT);
    let mut command = tidegate();
    command.arg("--socket").arg(proxy.path()).args(["upload", "--wait", "--json"]).arg(&photo);
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let stored: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(stored["upload"]["stored_bytes"], PHOTO_BYTES);
    assert_eq!(rig.json(&["uploads"])["uploads"].as_array().unwrap().len(), 1);
    let carried = proxy.carried_bytes();
    assert!(proxy.connections() > 1, "nothing broke");
    assert!(carried < PHOTO_BYTES + BREAK_AT, "{carried} bytes: it began again at zero");
}

#[test]
fn an_interrupted_upload_leaves_nothing_behind() {
    let rig = Rig::start();
    rig.sign_in("ada@example.com");
    let clip = rig.photos().join("clip.mp4");
    // Sparse: it takes no room, and long enough to be interrupted.
    std::fs::File::create(&clip).unwrap().set_len(4 << 30).unwrap();
    let mut child = rig.command(&["upload", clip.to_str().unwrap()]).stderr(Stdio::null()).spawn().unwrap();
    let receiving = || rig.json(&["uploads", "--state", "receiving"])["uploads"].as_array().unwrap().len();
    while receiving() == 0 {
        assert!(child.try_wait().unwrap().is_none(), "it ended before it could be interrupted");
    }
    rig::interrupt(&child);
    assert_eq!(child.wait().unwrap().code(), Some(130));
    let left = rig.json(&["uploads"])["uploads"][0]["state"].clone();
    assert_eq!(left, "CANCELLED");
    assert_eq!(rig.json(&["status"])["spool_bytes"], 0);
}

#[test]
fn the_demo_passes_and_leaves_nothing_behind() {
    let folder = tempfile::tempdir().unwrap();
    let output = tidegate().arg("demo").env("TMPDIR", folder.path()).output().unwrap();
    let text = stdout(&output);
    assert!(output.status.success(), "{text}\n{}", stderr(&output));
    let last = text.lines().last().unwrap();
    let words: Vec<&str> = last.split(' ').collect();
    assert_eq!((words[0], words[2], words[1]), ("demo:", "of", words[3]), "{last}");
    assert_eq!(text.matches('✓').count().to_string(), words[1]);
    assert!(!text.contains('\u{1b}'), "colour without a terminal");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "the demo left something behind");
}

#[test]
fn the_demo_tidies_up_when_it_is_interrupted() {
    let folder = tempfile::tempdir().unwrap();
    let mut demo = tidegate();
    demo.args(["demo", "--keep", "--json"]).env("TMPDIR", folder.path()).stdout(Stdio::piped());
    let mut demo = demo.spawn().unwrap();
    let lines = std::io::BufRead::lines(std::io::BufReader::new(demo.stdout.take().unwrap()));
    let mut socket = None;
    for line in lines {
        let event: Value = serde_json::from_str(&line.unwrap()).unwrap();
        if let Some(path) = event["running"]["socket"].as_str() {
            socket = Some(path.to_owned());
            break;
        }
    }
    // It is there for others, and gone after the signal.
    let socket = socket.expect("the demo says where it runs");
    let status = tidegate().args(["--socket", &socket, "status", "--json"]).output().unwrap();
    assert!(status.status.success(), "{}", stderr(&status));
    rig::terminate(&demo);
    assert!(demo.wait().unwrap().success());
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "the demo left something behind");
}

#[test]
fn credentials_are_printed_for_a_process_a_shell_and_a_follower() {
    let rig = Rig::start();
    let nobody = rig.run(&["credentials"]);
    assert_eq!(nobody.status.code(), Some(5));
    assert!(nobody.stdout.is_empty() && stderr(&nobody).contains("NO_SESSION"), "{}", stderr(&nobody));
    rig.sign_in("ada@example.com");

    let process = rig.run(&["credentials"]);
    assert!(process.status.success() && process.stderr.is_empty());
    let said: Value = serde_json::from_slice(&process.stdout).unwrap();
    assert_eq!(said["Version"], 1);
    let end = humantime::parse_rfc3339(said["Expiration"].as_str().unwrap()).unwrap();
    assert!(end > std::time::SystemTime::now());
    let shown = rig.json(&["credentials"]);
    assert_eq!((&shown["access_key_id"], &shown["stale"]), (&said["AccessKeyId"], &Value::Bool(false)));
    let lines = stdout(&rig.run(&["credentials", "--format", "env"]));
    let script = format!("{lines}\nprintf %s \"$AWS_ACCESS_KEY_ID $AWS_SECRET_ACCESS_KEY $AWS_SESSION_TOKEN\"");
    let shell = std::process::Command::new("sh").arg("-c").arg(script).output().unwrap();
    let word = |name: &str| said[name].as_str().unwrap().to_owned();
    let wanted = format!("{} {} {}", word("AccessKeyId"), word("SecretAccessKey"), word("SessionToken"));
    assert_eq!(stdout(&shell), wanted);
    for wrong in [&["credentials", "--format", "env", "--json"][..], &["credentials", "--watch", "--endpoint"]] {
        assert_eq!(rig.run(wrong).status.code(), Some(2), "{wrong:?}");
    }
    let endpoint = rig.run(&["credentials", "--endpoint"]);
    assert_eq!(endpoint.status.code(), Some(7));
    assert!(stderr(&endpoint).contains("VENDING_DISABLED"), "{}", stderr(&endpoint));

    let mut watch = rig.command(&["credentials", "--watch"]);
    let mut watch = watch.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(watch.stdout.take().unwrap()).lines();
    let mut next = || serde_json::from_str::<Value>(&lines.next().expect("a line").unwrap()).unwrap();
    assert_eq!(next()["access_key_id"], said["AccessKeyId"]);
    rig.json(&["refresh"]);
    assert_ne!(next()["access_key_id"], said["AccessKeyId"], "the rotation");
    rig.json(&["sign-out"]);
    assert!(watch.wait().unwrap().success(), "ends with the session");
}

#[test]
fn a_script_is_asked_for_a_second_factor_and_answers_by_another_command() {
    let rig = Rig::start();
    let (address, password) = ("ada@example.com", "Correct-horse-7");
    rig.sign_in(address);
    let access_token = rig.json(&["tokens", "--access-token"])["access_token"].as_str().unwrap().to_owned();
    let secret = rig.ask_pool("AssociateSoftwareToken", &json!({ "AccessToken": access_token }));
    let secret = secret["SecretCode"].as_str().unwrap().to_owned();
    let verified = json!({ "AccessToken": access_token, "UserCode": totp(&secret, 0) });
    assert_eq!(rig.ask_pool("VerifySoftwareToken", &verified)["Status"], "SUCCESS");
    let settings = json!({ "Enabled": true, "PreferredMfa": true });
    rig.ask_pool("SetUserMFAPreference", &json!({ "AccessToken": access_token, "SoftwareTokenMfaSettings": settings }));

    let asked = rig.with_stdin(&["sign-in", address, "--password-stdin", "--json"], password);
    assert_eq!(asked.status.code(), Some(8), "{}", stderr(&asked));
    let challenge: Value = serde_json::from_slice(&asked.stdout).unwrap();
    let challenge = &challenge["challenge"];
    assert_eq!(
        (&challenge["name"], &challenge["required_responses"][0]),
        (&json!("SOFTWARE_TOKEN_MFA"), &json!("SOFTWARE_TOKEN_MFA_CODE"))
    );
    let id = challenge["challenge_id"].as_str().unwrap();
    let text = rig.with_stdin(&["sign-in", address, "--password-stdin"], password);
    assert_eq!(text.status.code(), Some(8));
    assert!(stdout(&text).contains("asks for SOFTWARE_TOKEN_MFA") && stderr(&text).contains("tidegate respond"));

    let wrong = rig.with_stdin(&["respond", id], "SOFTWARE_TOKEN_MFA_CODE=000000\n");
    assert_eq!(wrong.status.code(), Some(2), "{}", stderr(&wrong));
    assert!(stderr(&wrong).contains("CODE_MISMATCH"), "{}", stderr(&wrong));
    for (input, word) in [("", "no answers"), ("canary-123456\n", "line 1"), ("A=1\nA=2\n", "second time")] {
        let refused = rig.with_stdin(&["respond", id], input);
        assert_eq!(refused.status.code(), Some(2));
        assert!(stderr(&refused).contains(word) && !stderr(&refused).contains("canary"), "{}", stderr(&refused));
    }
    let answer = format!("SOFTWARE_TOKEN_MFA_CODE={}\n", totp(&secret, 1));
    let session = rig.json_with_stdin(&["respond", id], &answer);
    assert_eq!((&session["username"], &session["state"]), (&json!(address), &json!("ACTIVE")));
    let again = rig.with_stdin(&["respond", id], &answer);
    assert_eq!(again.status.code(), Some(7), "{}", stderr(&again));
    assert!(stderr(&again).contains("CHALLENGE_ANSWERED"), "{}", stderr(&again));
    assert_eq!(rig.with_stdin(&["respond", "0123456789"], &answer).status.code(), Some(5));
    rig.nothing_logged_contains(&[password, &totp(&secret, 1), &secret]);
}
