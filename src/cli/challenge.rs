//! What a sign-in asks on the way: put to the person at the terminal, or shown to the script that ran the command. Codes
//! and passwords come from a prompt or from stdin; a secret for an authenticator app is shown once, to that person.

use std::collections::BTreeMap;
use std::io::{IsTerminal as _, Write as _};

use secrecy::{ExposeSecret as _, SecretString};
use serde_json::json;

use super::client::{Client, answer, unary};
use super::exit::CliError;
use super::output::Output;
use super::secret;
use super::text::{one_line, time};
use super::{json, qr, sessions};
use crate::api::v1::respond_to_challenge_response::Result as Responded;
use crate::api::v1::sign_in_response::Result as SignedIn;
use crate::api::v1::{Challenge, RespondToChallengeRequest, Session};

/// How far a sign-in is.
pub enum Progress {
    /// Done.
    Session(Box<Session>),
    /// Something is asked.
    Challenge(Box<Challenge>),
}

impl From<SignedIn> for Progress {
    fn from(result: SignedIn) -> Self {
        match result {
            SignedIn::Session(session) => Self::Session(Box::new(session)),
            SignedIn::Challenge(challenge) => Self::Challenge(Box::new(challenge)),
        }
    }
}

impl From<Responded> for Progress {
    fn from(result: Responded) -> Self {
        match result {
            Responded::Session(session) => Self::Session(Box::new(session)),
            Responded::Challenge(challenge) => Self::Challenge(Box::new(challenge)),
        }
    }
}

/// Ends a sign-in: with a person at the terminal (`username` is who signs in) every question is put to them; without,
/// the question is printed.
///
/// # Errors
/// `Exit::MoreToDo` where a question is left; else as the daemon answers.
pub async fn finish(
    client: &Client,
    mut progress: Progress,
    username: Option<&str>,
    output: &Output,
) -> Result<(), CliError> {
    loop {
        let challenge = match progress {
            Progress::Session(session) => {
                output.show(|| json::session(&session), || sessions::signed_in(&session));
                return Ok(());
            }
            Progress::Challenge(challenge) => challenge,
        };
        let Some(username) = username.filter(|_| !output.is_json() && std::io::stdin().is_terminal()) else {
            output.show(|| json!({ "challenge": json::challenge(&challenge) }), || described(&challenge));
            return Err(left(&challenge));
        };
        say(&explained(&challenge, username));
        progress = loop {
            match respond(client, &challenge.challenge_id, ask(&challenge).await?).await {
                Ok(progress) => break progress,
                Err(error) if may_try_again(&error) => say(&error.to_text()),
                Err(error) => return Err(error),
            }
        };
    }
}

/// Sends answers.
///
/// # Errors
/// As the daemon answers.
pub async fn respond(
    client: &Client,
    challenge_id: &str,
    answers: BTreeMap<String, SecretString>,
) -> Result<Progress, CliError> {
    let responses = answers.into_iter().map(|(name, answer)| (name, answer.expose_secret().to_owned())).collect();
    let request = RespondToChallengeRequest { challenge_id: challenge_id.to_owned(), responses };
    let done = answer("answer the challenge", client.sessions().respond_to_challenge(unary(request)).await)?;
    done.result.map(Progress::from).ok_or_else(|| {
        CliError::failed("cannot answer the challenge: the daemon's answer is empty; are both of the same version?")
    })
}

fn left(challenge: &Challenge) -> CliError {
    let (name, id) = (one_line(&challenge.name), one_line(&challenge.challenge_id));
    let lines: Vec<String> = challenge.required_responses.iter().map(|name| format!("{}=…", one_line(name))).collect();
    CliError::more_to_do(format!("not signed in yet: the directory asks for {name}"))
        .hint(format!("answer with {} on stdin: tidegate respond {id}", lines.join(" and ")))
}

/// A question that is still open after this answer.
fn may_try_again(error: &CliError) -> bool {
    ["CODE_MISMATCH", "CODE_EXPIRED", "INVALID_PASSWORD", "INVALID_PARAMETER", "INVALID_FIELD"]
        .iter()
        .any(|reason| error.reason() == Some(reason))
}

/// The whole question, for whoever answers it by another command.
fn described(challenge: &Challenge) -> String {
    let mut text = format!("challenge {}\nasks for {}", one_line(&challenge.challenge_id), one_line(&challenge.name));
    let parameters: BTreeMap<_, _> = challenge.parameters.iter().collect();
    for (name, value) in parameters {
        text.push_str(&format!("\n{} {}", one_line(name), one_line(value)));
    }
    if let Some(time) = time(challenge.expire_time.as_ref()) {
        text.push_str(&format!("\nuntil {time}"));
    }
    text
}

/// What a person must know to answer.
fn explained(challenge: &Challenge, username: &str) -> String {
    let parameter = |name: &str| challenge.parameters.get(name).map(|value| one_line(value)).unwrap_or_default();
    match challenge.name.as_str() {
        "SMS_MFA" | "EMAIL_OTP" | "SMS_OTP" => {
            let to = parameter("CODE_DELIVERY_DESTINATION");
            if to.is_empty() { "A code was sent.".to_owned() } else { format!("A code was sent to {to}.") }
        }
        "SOFTWARE_TOKEN_MFA" => "Your authenticator app has a code.".to_owned(),
        "SELECT_MFA_TYPE" | "SELECT_CHALLENGE" => "There are several ways to sign in:".to_owned(),
        "NEW_PASSWORD_REQUIRED" => "The password must be replaced.".to_owned(),
        "MFA_SETUP" => {
            let secret = parameter("SECRET_CODE");
            let uri = otpauth_uri(&secret, username);
            // An address too long for a code can still be typed in.
            let code = qr::for_stderr(&uri).unwrap_or_default();
            format!(
                "A second factor must be set up. Give this to your authenticator app; it is shown once:\n{code}  {uri}\n\
                 or type in the secret {secret}"
            )
        }
        other => format!("The directory asks for {}.", one_line(other)),
    }
}

/// What authenticator apps read: <https://github.com/google/google-authenticator/wiki/Key-Uri-Format>.
fn otpauth_uri(secret: &str, username: &str) -> String {
    let label: String = username
        .bytes()
        .map(|byte| match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b'@' => char::from(byte).to_string(),
            other => format!("%{other:02X}"),
        })
        .collect();
    format!("otpauth://totp/Tidegate:{label}?secret={secret}&issuer=Tidegate")
}

async fn ask(challenge: &Challenge) -> Result<BTreeMap<String, SecretString>, CliError> {
    let mut answers = BTreeMap::new();
    for name in &challenge.required_responses {
        let given = match name.as_str() {
            "NEW_PASSWORD" => secret::new_password().await?,
            "ANSWER" => choose(&choices(challenge)).await?,
            _ => match name.strip_prefix("userAttributes.") {
                Some(attribute) => secret::line(format!("{}: ", one_line(attribute))).await?,
                None => secret::line("Code: ".to_owned()).await?,
            },
        };
        let is_proof = name == "ANSWER" && given.expose_secret() == "PASSWORD_SRP";
        answers.insert(name.clone(), given);
        if is_proof {
            answers.insert("PASSWORD".to_owned(), secret::password().await?);
        }
    }
    Ok(answers)
}

fn choices(challenge: &Challenge) -> Vec<String> {
    let lists = ["MFAS_CAN_CHOOSE", "AVAILABLE_CHALLENGES"];
    let list = lists.iter().find_map(|name| challenge.parameters.get(*name));
    list.and_then(|list| serde_json::from_str(list).ok()).unwrap_or_default()
}

async fn choose(choices: &[String]) -> Result<SecretString, CliError> {
    for (index, choice) in choices.iter().enumerate() {
        say(&format!("  {}  {}", index + 1, in_words(choice)));
    }
    let typed = secret::line("Which one? ".to_owned()).await?;
    let typed = typed.expose_secret().trim();
    let by_number = typed.parse::<usize>().ok().and_then(|number| choices.get(number.checked_sub(1)?));
    Ok(SecretString::from(by_number.map_or(typed, String::as_str)))
}

fn in_words(choice: &str) -> String {
    match choice {
        "SMS_MFA" | "SMS_OTP" => "a code by text message".to_owned(),
        "EMAIL_OTP" => "a code by e-mail".to_owned(),
        "SOFTWARE_TOKEN_MFA" => "a code from your authenticator app".to_owned(),
        "PASSWORD_SRP" => "your password".to_owned(),
        other => one_line(other),
    }
}

/// To the person, not into the result.
fn say(text: &str) {
    // With nobody at stderr there is nobody to ask either: the prompt says so.
    let _ = writeln!(std::io::stderr().lock(), "{text}");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn challenge(name: &str, parameters: &[(&str, &str)], responses: &[&str]) -> Challenge {
        Challenge {
            name: name.to_owned(),
            challenge_id: "0123".to_owned(),
            parameters: parameters.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
            required_responses: responses.iter().map(|&name| name.to_owned()).collect(),
            expire_time: None,
        }
    }

    #[test]
    fn a_set_up_shows_what_an_authenticator_app_reads() {
        let setup = challenge("MFA_SETUP", &[("SECRET_CODE", "JBSWY3DPEHPK3PXP")], &["SOFTWARE_TOKEN_MFA_CODE"]);
        let text = explained(&setup, "zoë@example.com");
        let uri = "otpauth://totp/Tidegate:zo%C3%AB@example.com?secret=JBSWY3DPEHPK3PXP&issuer=Tidegate";
        assert!(text.contains(uri), "{text}");
        let code = qr::for_stderr(uri).unwrap_or_default();
        assert!(code.lines().count() > 20 && text.contains(&code), "{text}");
    }

    #[test]
    fn what_the_directory_says_cannot_steer_the_terminal() {
        let sms = challenge("SMS_MFA", &[("CODE_DELIVERY_DESTINATION", "+\u{1b}[2J1")], &["SMS_MFA_CODE"]);
        for text in [explained(&sms, "ada"), described(&sms), left(&sms).to_text()] {
            assert!(!text.contains('\u{1b}'), "{text:?}");
        }
        assert!(explained(&sms, "ada").contains("1."));
    }

    #[test]
    fn a_script_is_told_what_to_send() {
        let sms = challenge("SMS_MFA", &[("CODE_DELIVERY_DESTINATION", "+***1")], &["SMS_MFA_CODE"]);
        let error = left(&sms);
        assert_eq!(error.exit(), super::super::exit::Exit::MoreToDo);
        assert!(error.to_text().contains("SMS_MFA_CODE=… on stdin: tidegate respond 0123"), "{}", error.to_text());
        assert_eq!(described(&sms), "challenge 0123\nasks for SMS_MFA\nCODE_DELIVERY_DESTINATION +***1");
    }

    #[test]
    fn choices_are_read_from_either_list() {
        let mfa = challenge("SELECT_MFA_TYPE", &[("MFAS_CAN_CHOOSE", r#"["SMS_MFA","SOFTWARE_TOKEN_MFA"]"#)], &[]);
        assert_eq!(choices(&mfa), ["SMS_MFA", "SOFTWARE_TOKEN_MFA"]);
        let first = challenge("SELECT_CHALLENGE", &[("AVAILABLE_CHALLENGES", r#"["EMAIL_OTP"]"#)], &[]);
        assert_eq!(choices(&first), ["EMAIL_OTP"]);
        assert!(choices(&challenge("SELECT_CHALLENGE", &[], &[])).is_empty());
    }
}
