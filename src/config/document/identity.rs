//! `[[identity]]` and `[[service_session]]`: whose tokens, whose credentials, and which accounts sign themselves in.

use super::uniquely_named;
use crate::config::IdentityConfig;
use crate::config::reader::Section;
use crate::credential::{SecretPlace, SourceConfig, SourceKind};
use crate::session::{RememberDevice, ServiceConfig, ServiceLogin, SignInFlow, TokensConfig, TokensKind, hosted_ui};

/// Reads one `[[identity]]`.
pub(super) fn read(mut table: Section<'_>) -> IdentityConfig {
    let name = table.required_string("name");
    let tiered = table.boolean("tiered").unwrap_or(true);
    let guests = table.boolean("guests").unwrap_or(false);
    let tokens = read_tokens(table.section("tokens"));
    let has_page = table.is_present("hosted_ui");
    let page = table.section("hosted_ui");
    let hosted_ui = has_page.then(|| read_hosted_ui(page));
    let mut source = table.section("credentials");
    let credentials = read_source(&mut source);
    if !credentials.kind.has_role_from_token() && tiered && !credentials.allow_client_role_choice {
        let why = "the role does not come from the token here, so a tiered identity refuses it: with tiers use \
                   \"cognito_identity_pool\"; without tiers say tiered = false";
        source.problem("kind", why);
    }
    source.finish();
    if hosted_ui.is_some() && tokens.kind != TokensKind::CognitoUserPool {
        table.problem("hosted_ui", "must be left out: only a user pool has a hosted sign-in page");
    }
    if guests && !credentials.kind.has_pool() {
        table.problem("guests", "only an identity pool takes guests: another kind of credentials needs a user");
    }
    table.finish();
    IdentityConfig { name, tiered, guests, tokens, hosted_ui, credentials }
}

fn read_tokens(mut table: Section<'_>) -> TokensConfig {
    let kinds = [("cognito_user_pool", TokensKind::CognitoUserPool), ("oidc", TokensKind::Oidc)];
    let flows = [("srp", SignInFlow::Srp), ("password", SignInFlow::Password), ("choice", SignInFlow::Choice)];
    let remember =
        [("pool", RememberDevice::Pool), ("always", RememberDevice::Always), ("never", RememberDevice::Never)];
    let kind = table.choice("kind", &kinds).unwrap_or_default();
    let command = table.strings("token_command");
    let mut config = TokensConfig {
        kind,
        client_id: table.required_string("client_id"),
        region: table.string("region").unwrap_or_default(),
        user_pool_id: table.string("user_pool_id").unwrap_or_default(),
        endpoint_url: table.string("endpoint_url"),
        issuer: table.string("issuer"),
        jwks_url: table.string("jwks_url"),
        sign_in_flow: table.choice("sign_in_flow", &flows).unwrap_or_default(),
        remember_device: table.choice("remember_device", &remember).unwrap_or_default(),
        token_file: table.path("token_file"),
        token_command: command.clone().unwrap_or_default(),
        ..TokensConfig::default()
    };
    if let Some(timeout_ms) = table.integer("token_command_timeout_ms", 100..=600_000) {
        config.token_command_timeout_ms = timeout_ms;
    }
    let (needed, not_known): (&[&str], &[&str]) = match kind {
        TokensKind::CognitoUserPool => {
            (&["region", "user_pool_id"], &["token_file", "token_command", "token_command_timeout_ms"])
        }
        TokensKind::Oidc => (&["issuer"], &["region", "user_pool_id", "endpoint_url"]),
    };
    check_keys(&table, needed, not_known);
    if let Some(command) = command {
        if !command.first().is_some_and(|program| program.starts_with('/')) {
            let why = "must begin with the absolute path of a program: it gets no environment, and there is no shell";
            table.problem("token_command", why);
        }
        if config.token_file.is_some() {
            table.problem("token_command", "must be left out where there is a token_file");
        }
    }
    table.finish();
    config
}

fn read_hosted_ui(mut table: Section<'_>) -> hosted_ui::Config {
    let default = hosted_ui::Config::default();
    let config = hosted_ui::Config {
        domain_url: table.required_string("domain_url"),
        redirect_uris: table.strings("redirect_uris").unwrap_or_default(),
        listen_on_loopback: table.boolean("listen_on_loopback").unwrap_or(default.listen_on_loopback),
        scopes: table.strings("scopes").unwrap_or(default.scopes),
        providers: table.strings("providers").unwrap_or_default(),
        sign_out_uri: table.string("sign_out_uri"),
    };
    for (key, why) in config.mistakes() {
        table.problem(key, why);
    }
    table.finish();
    config
}

fn check_keys(table: &Section<'_>, needed: &[&str], not_known: &[&str]) {
    for key in needed.iter().filter(|key| !table.is_present(key)) {
        table.problem(key, "is missing");
    }
    for key in not_known.iter().filter(|key| table.is_present(key)) {
        table.problem(key, "must be left out: this kind has no such thing");
    }
}

fn read_source(table: &mut Section<'_>) -> SourceConfig {
    let kinds = [
        ("cognito_identity_pool", SourceKind::CognitoIdentityPool),
        ("cognito_identity_pool_basic", SourceKind::CognitoIdentityPoolBasic),
        ("web_identity", SourceKind::WebIdentity),
        ("sdk_chain", SourceKind::SdkChain),
        ("static", SourceKind::Static),
    ];
    let credential = table.parsed("keys_credential", credential_name).map(SecretPlace::SystemdCredential);
    let file = table.path("keys_file").map(SecretPlace::File);
    if credential.is_some() && file.is_some() {
        table.problem("keys_file", "must be left out where there is a keys_credential");
    }
    let config = SourceConfig {
        kind: table.choice("kind", &kinds).unwrap_or_default(),
        region: table.string("region").unwrap_or_default(),
        identity_id: table.string("identity_id"),
        keys: credential.or(file),
        identity_pool_id: table.string("identity_pool_id"),
        endpoint_url: table.string("endpoint_url"),
        role_arn: table.string("role_arn"),
        allow_client_role_choice: table.boolean("allow_client_role_choice").unwrap_or(false),
    };
    const KEYS: [&str; 2] = ["keys_file", "keys_credential"];
    match config.kind {
        SourceKind::CognitoIdentityPool | SourceKind::CognitoIdentityPoolBasic => {
            check_keys(table, &["region", "identity_pool_id"], &["identity_id", KEYS[0], KEYS[1]]);
        }
        SourceKind::WebIdentity => {
            check_keys(table, &["region"], &["identity_pool_id", "identity_id", KEYS[0], KEYS[1]]);
        }
        SourceKind::SdkChain => {
            let not_known = ["identity_pool_id", "endpoint_url", "role_arn", KEYS[0], KEYS[1]];
            check_keys(table, &["region", "identity_id"], &not_known);
        }
        SourceKind::Static => {
            check_keys(table, &["identity_id"], &["region", "identity_pool_id", "endpoint_url", "role_arn"]);
            if config.keys.is_none() {
                table.problem("keys_file", "is missing: the keys lie in a file or in a keys_credential");
            }
        }
    }
    let names_role = matches!(config.kind, SourceKind::CognitoIdentityPoolBasic | SourceKind::WebIdentity);
    if names_role && config.role_arn.is_none() {
        table.problem("role_arn", "is missing: this kind names the role");
    }
    if config.kind == SourceKind::CognitoIdentityPool && config.role_arn.is_some() {
        table.problem("role_arn", "must be left out: the identity pool chooses the role from the token");
    }
    config
}

/// Reads every `[[service_session]]`.
pub(super) fn read_services(root: &mut Section<'_>, identities: &[IdentityConfig]) -> Vec<ServiceConfig> {
    let sections = root.sections("service_session");
    let services = sections.into_iter().map(|table| read_service(table, identities)).collect();
    uniquely_named(root, "service_session", services, |service: &ServiceConfig| &service.name)
}

fn read_service(mut table: Section<'_>, identities: &[IdentityConfig]) -> ServiceConfig {
    let name = table.required_string("name");
    let identity = table.string("identity");
    let allowed_uids = table.uids("allowed_uids").unwrap_or_default();
    if allowed_uids.is_empty() {
        table.problem("allowed_uids", "must name at least one uid: nobody else may use the session");
    }
    let username = table.string("username");
    let credential = table.parsed("password_credential", credential_name).map(SecretPlace::SystemdCredential);
    let file = table.path("password_file").map(SecretPlace::File);
    if credential.is_some() && file.is_some() {
        table.problem("password_file", "must be left out where there is a password_credential");
    }
    let known = match &identity {
        Some(name) => identities.iter().find(|identity| identity.name == *name),
        None => identities.first().filter(|_| identities.len() == 1),
    };
    if known.is_none() {
        let names: Vec<_> = identities.iter().map(|identity| identity.name.as_str()).collect();
        table.problem("identity", format!("must be the name of an identity: {}", names.join(", ")));
    }
    let has_own_tokens = known.is_some_and(|known| known.tokens.needs_no_user());
    let login = match (username, credential.or(file)) {
        (None, None) if has_own_tokens => ServiceLogin::Source,
        _ if has_own_tokens => {
            let why = "username and password must be left out: the identity's tokens come from a file or a command";
            table.problem("identity", why);
            ServiceLogin::Source
        }
        (Some(username), Some(password)) => ServiceLogin::Password { username, password },
        (None, None) => {
            table.problem("username", "is missing: a device account signs in by username and password");
            ServiceLogin::Source
        }
        (Some(_), None) => {
            table.problem("password_file", "is missing: the password lies in a file or a password_credential");
            ServiceLogin::Source
        }
        (None, Some(_)) => {
            table.problem("username", "is missing");
            ServiceLogin::Source
        }
    };
    table.finish();
    let identity = identity.or_else(|| known.map(|known| known.name.clone())).unwrap_or_default();
    ServiceConfig { name, identity, allowed_uids, login }
}

/// The name of a systemd credential: it becomes a file name beneath `$CREDENTIALS_DIRECTORY`.
fn credential_name(text: &str) -> Result<String, String> {
    let plain = text.chars().all(|c| c.is_ascii_alphanumeric() || "_-.".contains(c));
    if plain && !text.is_empty() && !text.starts_with('.') {
        Ok(text.to_owned())
    } else {
        Err(format!("must be the name of a systemd credential (letters, digits, _ - .), is {text:?}"))
    }
}
