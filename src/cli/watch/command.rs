//! The program that runs for an upload which has ended: in this process's name, with what it must know in its
//! environment, and nothing secret.

use std::ffi::OsString;
use std::path::Path;
use std::process::{ExitStatus, Stdio};

use super::super::exit::CliError;
use super::super::text::{time, upload_state};
use crate::api::v1::Upload;

/// What its environment holds; empty where there is no value.
const VARIABLES: [(&str, &str); 15] = [
    ("TIDEGATE_UPLOAD", "its name, for example for `tidegate retry`"),
    ("TIDEGATE_STATE", "SUCCEEDED, FAILED or CANCELLED"),
    ("TIDEGATE_BUCKET", "the object's bucket"),
    ("TIDEGATE_KEY", "the object's key"),
    ("TIDEGATE_ETAG", "the object's ETag"),
    ("TIDEGATE_VERSION_ID", "the object's version, in versioned buckets"),
    ("TIDEGATE_CRC64NVME", "the checksum, as S3 writes it"),
    ("TIDEGATE_BYTES", "the size"),
    ("TIDEGATE_FILE", "the file on the device, where the bytes came from one"),
    ("TIDEGATE_DESTINATION", "the destination's name"),
    ("TIDEGATE_SESSION", "the session that it was accepted for"),
    ("TIDEGATE_CREATE_TIME", "when it was accepted"),
    ("TIDEGATE_END_TIME", "when it ended"),
    ("TIDEGATE_REASON", "why it failed, for programs"),
    ("TIDEGATE_MESSAGE", "why it failed, for people"),
];

/// The help's last part.
pub(super) fn help() -> String {
    use std::fmt::Write as _;
    let mut text = String::from("The environment of --exec's program, besides this command's own:\n");
    for (name, meaning) in VARIABLES {
        let _ = writeln!(text, "  {name:<21} {meaning}");
    }
    text.push_str("  TIDEGATE_SOCKET       the daemon's socket\n");
    text.push_str(
        "\nExample:\n  tidegate watch --shell --exec 'echo \"$TIDEGATE_STATE $TIDEGATE_KEY\" >> uploads.log'\n",
    );
    text
}

/// What to run.
#[derive(Debug, Clone)]
pub(super) struct Program {
    program: OsString,
    arguments: Vec<OsString>,
    socket: OsString,
}

impl Program {
    /// `program` with its arguments; `shell` says that it is a line for /bin/sh, which sees the arguments as $1, $2, …
    pub(super) fn new(program: OsString, arguments: Vec<OsString>, shell: bool, socket: &Path) -> Self {
        let socket = socket.as_os_str().to_owned();
        if !shell {
            return Self { program, arguments, socket };
        }
        let mut line = vec!["-c".into(), program, "tidegate".into()];
        line.extend(arguments);
        Self { program: "/bin/sh".into(), arguments: line, socket }
    }

    /// Starts it; the answer comes when it has ended.
    ///
    /// # Errors
    /// Where it cannot be started: then no other upload's will either.
    pub(super) fn start(
        &self,
        upload: &Upload,
    ) -> Result<impl Future<Output = std::io::Result<ExitStatus>> + Send + use<>, CliError> {
        let mut command = tokio::process::Command::new(&self.program);
        command.args(&self.arguments).stdin(Stdio::null()).env("TIDEGATE_SOCKET", &self.socket);
        for ((name, _), value) in VARIABLES.iter().zip(values(upload)) {
            // An environment cannot hold it; no name or message of the daemon has one.
            command.env(name, value.replace('\0', "\u{fffd}"));
        }
        let shown = self.program.display();
        let mut child = command.spawn().map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => {
                CliError::not_found(format!("cannot run {shown}: there is no such program"))
                    .hint("name a program, or say --shell where it is a line for the shell")
            }
            _ => CliError::failed(format!("cannot run {shown}: {error}")),
        })?;
        Ok(async move { child.wait().await })
    }
}

/// In the order of [`VARIABLES`].
fn values(upload: &Upload) -> [String; 15] {
    let object = upload.object.clone().unwrap_or_default();
    let failure = upload.failure.clone().unwrap_or_default();
    [
        upload.name.clone(),
        upload_state(upload.state),
        object.bucket,
        object.key,
        object.etag,
        object.version_id,
        object.checksum_crc64nvme,
        upload.total_bytes.to_string(),
        upload.path.clone(),
        upload.destination.clone(),
        upload.session.clone(),
        time(upload.create_time.as_ref()).unwrap_or_default(),
        time(upload.end_time.as_ref()).unwrap_or_default(),
        failure.reason,
        failure.message,
    ]
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::api::v1;

    #[tokio::test]
    async fn a_program_sees_the_upload_and_no_shell_reads_its_arguments() {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("out");
        let upload = v1::Upload {
            name: "uploads/x".into(),
            state: v1::UploadState::Failed.into(),
            object: Some(v1::StoredObject { key: "free/$(id) `id`.jpg".into(), ..Default::default() }),
            failure: Some(v1::UploadFailure { reason: "ACCESS_DENIED".into(), message: "no\nway\0".into() }),
            ..Default::default()
        };
        let line = format!(
            "printf '%s|%s|%s|%s' \"$TIDEGATE_STATE\" \"$TIDEGATE_KEY\" \"$TIDEGATE_REASON\" \"$1\" > {}; exit 3",
            out.display()
        );
        let shell = Program::new(line.into(), vec!["$HOME".into()], true, Path::new("/s"));
        assert_eq!(shell.start(&upload).unwrap().await.unwrap().code(), Some(3));
        assert_eq!(std::fs::read_to_string(&out).unwrap(), "FAILED|free/$(id) `id`.jpg|ACCESS_DENIED|$HOME");
        let plain = Program::new("touch".into(), vec![folder.path().join("$x y").into()], false, Path::new("/s"));
        assert!(plain.start(&upload).unwrap().await.unwrap().success());
        assert!(folder.path().join("$x y").exists());
        let line = Program::new("echo hello".into(), vec![], false, Path::new("/s"));
        assert!(line.start(&upload).err().unwrap().to_text().contains("--shell"));
    }

    #[test]
    fn the_help_names_every_variable() {
        assert!(VARIABLES.iter().all(|(name, _)| help().contains(name)));
    }
}
