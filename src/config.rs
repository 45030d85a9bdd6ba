//! The configuration file: raw TOML in, a validated [`Config`] out. Owns the keys' names and ranges; promises that every
//! mistake of a file is reported at once, with its place; must never touch the machine (that a folder can be written is
//! for its owner to find out).

mod document;
pub mod reader;
pub mod watch;

use std::fmt;
use std::path::{Path, PathBuf};

pub use document::changed_keys;
pub use reader::Problem;

use crate::{api, credential, hot_folder, session, store, telemetry, upload, vend};

/// A whole, valid configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Where journal, spool and sealed tokens live.
    pub state_dir: PathBuf,
    /// How long a stop waits for the parts in flight before it leaves them to the next start.
    pub drain_timeout_ms: u64,
    /// `[api]`.
    pub api: api::Config,
    /// `[telemetry]`.
    pub telemetry: telemetry::Config,
    /// `[session]`.
    pub session: session::Config,
    /// `[upload]`.
    pub upload: upload::Config,
    /// `[vend]`.
    pub vend: vend::Config,
    /// `[[identity]]`; at least one.
    pub identities: Vec<IdentityConfig>,
    /// `[[destination]]`; at least one.
    pub destinations: Vec<DestinationConfig>,
    /// `[[hot_folder]]`.
    pub hot_folders: Vec<hot_folder::Config>,
}

/// `[[identity]]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdentityConfig {
    /// Its name.
    pub name: String,
    /// Tiers hang on the role: flows where the client names the role are refused.
    pub tiered: bool,
    /// Guests may sign in.
    pub guests: bool,
    /// `[identity.tokens]`.
    pub tokens: session::TokensConfig,
    /// `[identity.hosted_ui]`, where there is one.
    pub hosted_ui: Option<session::hosted_ui::Config>,
    /// `[identity.credentials]`.
    pub credentials: credential::SourceConfig,
}

/// `[[destination]]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DestinationConfig {
    /// Its name.
    pub name: String,
    /// What every key starts with.
    pub prefix: String,
    /// Where the objects go.
    pub store: StoreConfig,
}

/// The kinds of store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoreConfig {
    /// `kind = "s3"`.
    S3(store::s3::Config),
    /// `kind = "directory"`.
    Directory(store::directory::Config),
}

/// Why a file is no configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ConfigError {
    /// It cannot be read.
    Unreadable {
        /// The file.
        file: PathBuf,
        /// The system's answer.
        why: String,
    },
    /// It has mistakes.
    Invalid {
        /// The file.
        file: PathBuf,
        /// All of them, in the order of the text.
        problems: Vec<Problem>,
    },
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreadable { file, why } => write!(f, "cannot read the configuration {}: {why}", file.display()),
            Self::Invalid { file, problems } => {
                let s = if problems.len() == 1 { "" } else { "s" };
                write!(f, "the configuration {} has {} mistake{s}:", file.display(), problems.len())?;
                problems.iter().try_for_each(|problem| write!(f, "\n  {}:{problem}", file.display()))
            }
        }
    }
}

impl std::error::Error for ConfigError {}

impl Config {
    /// Reads and validates a file; answers its text too, for [`changed_keys`].
    ///
    /// # Errors
    /// Every mistake at once: see [`ConfigError`].
    pub fn load(file: &Path) -> Result<(Self, String), ConfigError> {
        let text = std::fs::read_to_string(file)
            .map_err(|error| ConfigError::Unreadable { file: file.to_owned(), why: error.to_string() })?;
        match Self::parse(&text) {
            Ok(config) => Ok((config, text)),
            Err(problems) => Err(ConfigError::Invalid { file: file.to_owned(), problems }),
        }
    }

    /// Validates a document.
    ///
    /// # Errors
    /// Every mistake, in the order of the text.
    pub fn parse(text: &str) -> Result<Self, Vec<Problem>> {
        document::read(text)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const FULL: &str = include_str!("../config/full.toml");
    const MINIMAL: &str = include_str!("../config/minimal.toml");

    #[test]
    fn the_full_file_spells_out_the_defaults() {
        let full = Config::parse(FULL).unwrap();
        let minimal = Config::parse(MINIMAL).unwrap();
        assert_eq!(full.api, minimal.api);
        assert_eq!(full.telemetry, minimal.telemetry);
        assert_eq!(full.session, minimal.session);
        assert_eq!(full.vend, minimal.vend);
        assert_eq!(full.upload, upload::Config { file_roots: full.upload.file_roots.clone(), ..minimal.upload });
        assert_eq!(full.state_dir, minimal.state_dir);
        assert_eq!(full.drain_timeout_ms, minimal.drain_timeout_ms);
        let mut identities = full.identities;
        // Optional as a whole, and with keys that have no default.
        let page = identities[0].hosted_ui.take().unwrap();
        assert_eq!(identities, minimal.identities);
        let session::hosted_ui::Config { domain_url, redirect_uris, providers, sign_out_uri, .. } = page.clone();
        let default = session::hosted_ui::Config::default();
        let given = session::hosted_ui::Config { domain_url, redirect_uris, providers, sign_out_uri, ..default };
        assert_eq!(page, given);
        assert_eq!(full.destinations, minimal.destinations);
    }

    #[test]
    fn every_key_is_in_the_full_file() {
        // Uncommented, the file must know every key that the reader knows: an unknown key's message lists them.
        for (table, ending) in
            [("[daemon]", ""), ("[api]", ""), ("[telemetry]", ""), ("[session]", ""), ("[upload]", ""), ("[vend]", "")]
        {
            let text = format!("{MINIMAL}\n{table}\nno_such_key_at_all_anywhere = 1{ending}\n");
            let problems = Config::parse(&text).unwrap_err();
            let known = problems[0].message.split_once("known here: ").unwrap().1;
            for key in known.split(", ") {
                assert!(FULL.contains(&format!("{key} =")), "config/full.toml lacks {table} {key}");
            }
        }
    }

    #[test]
    fn all_mistakes_are_reported_with_their_place() {
        let text = MINIMAL.replace("user_pool_id = \"us-east-1_EXAMPLE01\"\n", "user_pol_id = 7\n")
            + "\n[api]\nmax_connections = \"many\"\n\n[upload]\npart_size_bytes = 5\nmax_uploads_in_flight = 1\n";
        let problems = Config::parse(&text).unwrap_err();
        let lines: Vec<String> = problems.iter().map(ToString::to_string).collect();
        assert_eq!(lines.len(), 5, "{lines:#?}");
        assert!(lines[0].contains("identity[0].tokens.user_pool_id: is missing"), "{lines:#?}");
        assert!(lines[1].contains("user_pol_id: unknown key; did you mean \"user_pool_id\"?"), "{lines:#?}");
        assert!(lines[2].contains("api.max_connections: must be a whole number"), "{lines:#?}");
        assert!(lines[3].contains("upload.part_size_bytes: must be a whole number from 5242880"), "{lines:#?}");
        assert!(lines[4].contains("upload.max_uploads_in_flight: must be a whole number from 2"), "{lines:#?}");
        let line_of_mistake = 1 + text.lines().position(|line| line.starts_with("max_connections")).unwrap();
        assert_eq!((problems[2].line, problems[2].column), (line_of_mistake, 19));
    }

    #[test]
    fn mistakes_of_syntax_have_a_place_too() {
        let problems = Config::parse("a = \nb = [1,\n").unwrap_err();
        assert!(problems.len() >= 2, "{problems:?}");
        assert_eq!(problems[0].line, 1);
    }

    #[test]
    fn a_tiered_identity_refuses_flows_where_the_client_names_the_role() {
        let text = MINIMAL
            .replace("cognito_identity_pool\"", "cognito_identity_pool_basic\"\nrole_arn = \"arn:aws:iam::1:role/x\"");
        let problems = Config::parse(&text).unwrap_err();
        assert!(problems.iter().any(|problem| problem.message.contains("tiered")), "{problems:?}");
        let text = text.replace("[identity.tokens]", "tiered = false\n[identity.tokens]");
        Config::parse(&text).unwrap();
    }

    #[test]
    fn credentials_are_vended_on_loopback_only() {
        let with = |vend: &str| Config::parse(&format!("{MINIMAL}\n[vend]\n{vend}\n"));
        assert_eq!(with("listen = \"127.0.0.1:9477\"").unwrap().vend.listen, Some(([127, 0, 0, 1], 9477).into()));
        for listen in ["0.0.0.0:9477", "[::]:9477", "192.0.2.1:80", "localhost:9477", "9477"] {
            let problems = with(&format!("listen = {listen:?}")).unwrap_err();
            assert!(problems[0].to_string().contains("vend.listen"), "{problems:?}");
        }
        assert!(with("answer_timeout_ms = 900").is_err(), "SDKs do not wait so long");
        assert!(with("answer_timeout_ms = 500\nconnection_timeout_ms = 400").is_err());
    }

    #[test]
    fn device_accounts_have_a_password_somewhere_else_and_somebody_who_may_use_them() {
        let account = "\n[[service_session]]\nname = \"kiosk\"\nallowed_uids = [7]\nusername = \"kiosk\"\n";
        let config = Config::parse(&format!("{MINIMAL}{account}password_credential = \"kiosk\"\n")).unwrap();
        let service = &config.session.services[0];
        assert_eq!((service.identity.as_str(), service.allowed_uids.as_slice()), ("app", [7].as_slice()));
        let wrong = [
            ("", "password_file: is missing"),
            ("password = \"canary\"", "password: unknown key"),
            ("password_credential = \"../x\"", "must be the name of a systemd credential"),
            ("password_file = \"relative\"", "must be an absolute path"),
            ("password_file = \"/p\"\npassword_credential = \"p\"", "must be left out"),
            ("password_file = \"/p\"\nidentity = \"other\"", "identity: must be the name of an identity: app"),
        ];
        for (lines, why) in wrong {
            let problems = Config::parse(&format!("{MINIMAL}{account}{lines}\n")).unwrap_err();
            assert!(problems.iter().any(|problem| problem.to_string().contains(why)), "{why}: {problems:?}");
        }
        let nobody = format!("{MINIMAL}{account}password_file = \"/p\"\n").replace("[7]", "[]");
        assert!(Config::parse(&nobody).unwrap_err()[0].message.contains("at least one uid"));
        let twice = format!("{MINIMAL}{account}password_file = \"/p\"\n{account}password_file = \"/p\"\n");
        assert!(Config::parse(&twice).unwrap_err()[0].message.contains("more than once"));
        let guests = MINIMAL
            .replace("\"app\"\n", "\"app\"\nguests = true\ntiered = false\n")
            .replace("cognito_identity_pool\"", "web_identity\"\nrole_arn = \"arn:aws:iam::1:role/x\"");
        let problems = Config::parse(&guests).unwrap_err();
        assert!(problems[0].message.contains("only an identity pool takes guests"), "{problems:?}");
    }

    const ACCOUNT: &str = "\n[[service_session]]\nname = \"kiosk\"\nallowed_uids = [7, 8]\nusername = \"kiosk\"\n\
                           password_file = \"/p\"\n";

    #[test]
    fn the_hot_folder_of_the_full_file_spells_out_the_defaults() {
        let table = FULL.split_once("# [[hot_folder]]\n").unwrap().1;
        let is_key = |line: &&str| line.split_once(" = ").is_some_and(|(key, _)| !key.contains(' '));
        let keys: Vec<&str> = table.lines().filter_map(|line| line.strip_prefix("# ")).filter(is_key).collect();
        // These have no default, or come from elsewhere.
        let given = |line: &&&str| {
            ["path", "session", "destination", "owner_uid", "device", "include", "move_to"]
                .iter()
                .any(|key| line.starts_with(&format!("{key} =")))
        };
        let parse =
            |lines: &str| Config::parse(&format!("{MINIMAL}{ACCOUNT}[[hot_folder]]\npath = \"/srv/camera\"\n{lines}"));
        let spelled: Vec<&str> = keys.iter().filter(|line| !given(line)).copied().collect();
        assert_eq!(parse(&spelled.join("\n")).unwrap().hot_folders, parse("").unwrap().hot_folders);
        let problems = parse("no_such_key_at_all_anywhere = 1").unwrap_err();
        for key in problems[0].message.split_once("known here: ").unwrap().1.split(", ") {
            assert!(keys.iter().any(|line| line.starts_with(&format!("{key} ="))), "config/full.toml lacks {key}");
        }
        let all = keys.join("\n").replace("\"keep\"", "\"move\"").replace("owner_uid = 1000", "owner_uid = 8");
        let all = all.replace("path = \"/srv/camera\"\n", "");
        assert_eq!(parse(&all).unwrap().hot_folders[0].owner_uid, 8);
    }

    #[test]
    fn what_cannot_work_of_a_hot_folder_is_named() {
        let with = |lines: &str| Config::parse(&format!("{MINIMAL}{ACCOUNT}[[hot_folder]]\n{lines}\n"));
        let folder = &with("path = \"/srv/camera\"").unwrap().hot_folders[0];
        assert_eq!((folder.session.as_str(), folder.owner_uid, folder.destination.as_str()), ("kiosk", 7, "photos"));
        let another = "[[hot_folder]]\npath = \"/srv/camera/a\"";
        for (lines, why) in [
            ("", "path: is missing"),
            ("path = \"camera\"", "must be an absolute path"),
            ("path = \"/srv/../etc\"", "must not have a .."),
            ("path = \"/var/lib/tidegate/x\"", "apart from daemon.state_dir"),
            ("path = \"/s\"\nsession = \"ada\"", "session: must be the name of a [[service_session]]: kiosk"),
            ("path = \"/s\"\ndestination = \"x\"", "destination: must be the name of a [[destination]]: photos"),
            ("path = \"/s\"\nowner_uid = 9", "must be one of the session's allowed_uids: [7, 8]"),
            ("path = \"/s\"\nkey = \"free/{file}\"", "key: names {file}; known are {name}"),
            ("path = \"/s\"\nkey = \"free/{stem}\"\nkey_policy = \"exact\"", "must have {name}"),
            ("path = \"/s\"\noverwrite = true", "works with key_policy"),
            ("path = \"/s\"\nexclude = [\"[a]\"]", "exclude: \"[a]\" has '['"),
            ("path = \"/s\"\ndevice = \"a/b\"", "device: must be one part of a key"),
            ("path = \"/s\"\nafter_upload = \"move\"", "move_to: is missing"),
            ("path = \"/s\"\nmove_to = \"/t\"", "move_to: must be left out"),
            ("path = \"/s/a\"\nafter_upload = \"move\"\nmove_to = \"/s\"", "must be another folder"),
            ("path = \"/srv/camera\"\n[[hot_folder]]\npath = \"/srv/camera\"", "more than once"),
            (&format!("path = \"/srv/camera\"\nrecursive = true\n{another}"), "lies in /srv/camera"),
        ] {
            let problems = with(lines).unwrap_err();
            assert!(problems.iter().any(|problem| problem.to_string().contains(why)), "{why}: {problems:?}");
        }
        with(&format!("path = \"/srv/camera\"\n{another}")).unwrap();
        let unproved = MINIMAL.replace("[[destination]]", "[[destination]]\nchecksum = \"none\"");
        let text = format!("{unproved}{ACCOUNT}[[hot_folder]]\npath = \"/s\"\nafter_upload = \"delete\"\n");
        assert!(Config::parse(&text).unwrap_err()[0].message.contains("does not prove"));
        let nobody = Config::parse(&format!("{MINIMAL}[[hot_folder]]\npath = \"/s\"\n")).unwrap_err();
        assert!(nobody[0].to_string().contains("there is none"), "{nobody:?}");
    }

    #[test]
    fn sources_without_cognito_say_what_they_need_and_are_no_good_for_tiers() {
        let oidc = "kind = \"oidc\"\nissuer = \"https://issuer.example/a\"\nclient_id = \"photos\"\n";
        let keys = "kind = \"static\"\nidentity_id = \"kiosk-7\"\nkeys_file = \"/etc/keys\"\n";
        let with = |tokens: &str, credentials: &str| {
            let destination = &MINIMAL[MINIMAL.find("[[destination]]").unwrap()..];
            let identity = "[[identity]]\nname = \"app\"\ntiered = false\n";
            format!("{identity}[identity.tokens]\n{tokens}[identity.credentials]\n{credentials}{destination}")
        };
        let config = Config::parse(&with(oidc, keys)).unwrap();
        assert_eq!(config.identities[0].tokens.provider(), "issuer.example/a");
        Config::parse(&with(oidc, "kind = \"sdk_chain\"\nregion = \"us-east-1\"\nidentity_id = \"k\"\n")).unwrap();
        let own = format!("{oidc}token_command = [\"/bin/token\", \"x\"]\n");
        let service = "[[service_session]]\nname = \"kiosk\"\nallowed_uids = [7]\n";
        let config = Config::parse(&format!("{}\n{service}", with(&own, keys))).unwrap();
        assert_eq!(config.session.services[0].login, session::ServiceLogin::Source);

        let wrong = [
            (with(oidc, keys).replace("tiered = false", ""), "tiered"),
            (with(&oidc.replace("issuer = ", "# "), keys), "issuer: is missing"),
            (with(&format!("{oidc}region = \"us-east-1\"\n"), keys), "region: must be left out"),
            (with(&format!("{oidc}token_command = [\"token\"]\n"), keys), "absolute path of a program"),
            (with(&format!("{own}token_file = \"/t\"\n"), keys), "must be left out where there is a token_file"),
            (with(oidc, &keys.replace("keys_file", "# ")), "keys_file: is missing"),
            (with(oidc, &format!("{keys}role_arn = \"arn\"\n")), "role_arn: must be left out"),
            (with(oidc, &format!("{keys}keys_credential = \"k\"\n")), "must be left out where"),
            (format!("{}\n{service}username = \"u\"\n", with(&own, keys)), "must be left out: the identity's tokens"),
            (format!("{}\n{service}", with(oidc, keys)), "signs in by username and password"),
            (MINIMAL.replace("client_id", "token_file = \"/t\"\nclient_id"), "token_file: must be left out"),
        ];
        for (text, why) in wrong {
            let problems = Config::parse(&text).unwrap_err();
            assert!(problems.iter().any(|problem| problem.to_string().contains(why)), "{why}: {problems:?}");
        }
    }

    #[test]
    fn names_are_unique_and_something_is_configured() {
        let problems = Config::parse("").unwrap_err();
        assert_eq!(problems.len(), 2, "{problems:?}");
        let twice = MINIMAL[MINIMAL.find("[[destination]]").unwrap()..].to_owned();
        let problems = Config::parse(&format!("{MINIMAL}\n{twice}")).unwrap_err();
        assert!(problems[0].message.contains("more than once"), "{problems:?}");
    }

    #[test]
    fn changed_keys_name_what_changed() {
        let next = MINIMAL.replace("app-photos", "other") + "\n[telemetry]\nlog_filter = \"debug\"\n";
        assert_eq!(changed_keys(MINIMAL, &next), ["destination[0].bucket", "telemetry.log_filter"]);
        assert!(changed_keys(MINIMAL, MINIMAL).is_empty());
    }
}
