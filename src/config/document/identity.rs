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
    let names_role = credentials.kind != SourceKind::CognitoIdentityPool;
    if names_role && tiered && !credentials.allow_client_role_choice {
        let why = "the client names the role here, so a tiered identity refuses it: with tiers use \
                   \"cognito_identity_pool\"; without tiers say tiered = false";
        source.problem("kind", why);
    }
    source.finish();
    if guests && !takes_guests(credentials.kind) {
        table.problem("guests", "only an identity pool takes guests: another kind of credentials needs a user");
    }
    table.finish();
    IdentityConfig { name, tiered, guests, tokens, hosted_ui, credentials }
}

fn takes_guests(kind: SourceKind) -> bool {
    match kind {
        SourceKind::CognitoIdentityPool | SourceKind::CognitoIdentityPoolBasic => true,
        SourceKind::WebIdentity => false,
    }
}

fn read_tokens(mut table: Section<'_>) -> TokensConfig {
    let kinds = [("cognito_user_pool", TokensKind::CognitoUserPool)];
    let flows = [("srp", SignInFlow::Srp), ("password", SignInFlow::Password), ("choice", SignInFlow::Choice)];
    let remember =
        [("pool", RememberDevice::Pool), ("always", RememberDevice::Always), ("never", RememberDevice::Never)];
    let config = TokensConfig {
        kind: table.choice("kind", &kinds).unwrap_or_default(),
        region: table.required_string("region"),
        user_pool_id: table.required_string("user_pool_id"),
        client_id: table.required_string("client_id"),
        endpoint_url: table.string("endpoint_url"),
        issuer: table.string("issuer"),
        jwks_url: table.string("jwks_url"),
        sign_in_flow: table.choice("sign_in_flow", &flows).unwrap_or_default(),
        remember_device: table.choice("remember_device", &remember).unwrap_or_default(),
    };
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

fn read_source(table: &mut Section<'_>) -> SourceConfig {
    let kinds = [
        ("cognito_identity_pool", SourceKind::CognitoIdentityPool),
        ("cognito_identity_pool_basic", SourceKind::CognitoIdentityPoolBasic),
        ("web_identity", SourceKind::WebIdentity),
    ];
    let config = SourceConfig {
        kind: table.choice("kind", &kinds).unwrap_or_default(),
        region: table.required_string("region"),
        identity_pool_id: table.string("identity_pool_id"),
        endpoint_url: table.string("endpoint_url"),
        role_arn: table.string("role_arn"),
        allow_client_role_choice: table.boolean("allow_client_role_choice").unwrap_or(false),
    };
    let needs_pool = config.kind != SourceKind::WebIdentity;
    if needs_pool && config.identity_pool_id.is_none() {
        table.problem("identity_pool_id", "is missing");
    }
    let needs_role = config.kind != SourceKind::CognitoIdentityPool;
    if needs_role && config.role_arn.is_none() {
        table.problem("role_arn", "is missing: this kind names the role");
    }
    if !needs_role && config.role_arn.is_some() {
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
    let login = match (username, credential.or(file)) {
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
