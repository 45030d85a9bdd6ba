//! What the pool asks on the way to tokens: which questions can be answered here, by which names, and what the pool
//! wants back with an answer. A question that is answered without the user (a proof of the password or of the device)
//! never leaves; what the pool says for its own use is not shown.

use std::collections::{BTreeMap, HashMap};
use std::time::Instant;

use aws_sdk_cognitoidentityprovider::operation::initiate_auth::InitiateAuthOutput;
use aws_sdk_cognitoidentityprovider::operation::respond_to_auth_challenge::RespondToAuthChallengeOutput;
use aws_sdk_cognitoidentityprovider::types::{AuthenticationResultType, ChallengeNameType};
use secrecy::{ExposeSecret as _, SecretString};
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize as _, Zeroizing};

use super::CognitoTokens;
use super::srp::{Proof, begin};
use crate::credential::aws::{self, Refused};
use crate::session::codes::{PoolCall, token_error};
use crate::session::{AnswerProblem, Challenge, RememberedDevice, SignInStep, TokenError};
use crate::telemetry::metrics::UpstreamOperation;

/// No honest sign-in has more questions in a row that are answered without the user.
const ROUNDS_MAX: u32 = 6;
/// What the pool's questions hold for the client, not for the user.
const NOT_SHOWN: [&str; 6] = ["USER_ID_FOR_SRP", "USERNAME", "SALT", "SRP_B", "SECRET_BLOCK", "DEVICE_KEY"];
/// The prefix of required attributes' names.
const ATTRIBUTE: &str = "userAttributes.";

/// A reply of `InitiateAuth` or `RespondToAuthChallenge`.
pub(super) struct Reply {
    pub challenge: Option<ChallengeNameType>,
    pub parameters: HashMap<String, String>,
    session: Option<String>,
    result: Option<AuthenticationResultType>,
    available: Vec<ChallengeNameType>,
}

impl From<InitiateAuthOutput> for Reply {
    fn from(reply: InitiateAuthOutput) -> Self {
        Self {
            challenge: reply.challenge_name,
            parameters: reply.challenge_parameters.unwrap_or_default(),
            session: reply.session,
            result: reply.authentication_result,
            available: reply.available_challenges.unwrap_or_default(),
        }
    }
}

impl From<RespondToAuthChallengeOutput> for Reply {
    fn from(reply: RespondToAuthChallengeOutput) -> Self {
        Self {
            challenge: reply.challenge_name,
            parameters: reply.challenge_parameters.unwrap_or_default(),
            session: reply.session,
            result: reply.authentication_result,
            available: reply.available_challenges.unwrap_or_default(),
        }
    }
}

/// A sign-in under way.
pub(super) struct Attempt<'a> {
    /// The name that was typed.
    username: String,
    /// The name that the pool wants back.
    pub user: String,
    /// `Session`: proves to the pool how far the sign-in is.
    session: Option<Zeroizing<String>>,
    /// The device that this sign-in was begun with.
    pub device: Option<&'a RememberedDevice>,
    /// The password, until it is proved.
    pub proof: Option<Proof>,
}

/// What is kept of an attempt while the user answers.
#[derive(Serialize, Deserialize)]
struct Handle {
    user: String,
    session: Option<String>,
    device_key: Option<String>,
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.session.zeroize();
    }
}

impl<'a> Attempt<'a> {
    /// At its beginning.
    pub fn new(username: &str, device: Option<&'a RememberedDevice>) -> Self {
        Self { username: username.to_owned(), user: username.to_owned(), session: None, device, proof: None }
    }

    /// Takes note of what the pool wants back next.
    pub fn learn(&mut self, reply: &mut Reply) {
        if let Some(session) = reply.session.take() {
            self.session = Some(Zeroizing::new(session));
        }
        if let Some(user) = reply.parameters.get("USER_ID_FOR_SRP") {
            self.user.clone_from(user);
        }
    }

    fn resume(challenge: &Challenge, device: Option<&'a RememberedDevice>) -> Result<Self, TokenError> {
        let mut handle: Handle = serde_json::from_str(challenge.handle.expose_secret())
            .map_err(|_| TokenError::ChallengeOver("this challenge is not one of the user pool's".to_owned()))?;
        // The pool may have refused the device on the way.
        let device = device.filter(|device| handle.device_key.as_ref() == Some(&device.key));
        let username = challenge.username.clone();
        let (user, session) = (std::mem::take(&mut handle.user), handle.session.take().map(Zeroizing::new));
        Ok(Self { username, user, session, device, proof: None })
    }

    fn handle(&self) -> SecretString {
        let device_key = self.device.map(|device| device.key.clone());
        let session = self.session.as_ref().map(|session| session.to_string());
        let handle = Handle { user: self.user.clone(), session, device_key };
        SecretString::from(serde_json::to_string(&handle).expect("strings are JSON"))
    }
}

impl CognitoTokens {
    /// Goes on until there are tokens, or a question for the user.
    pub(super) async fn proceed(&self, mut attempt: Attempt<'_>, mut reply: Reply) -> Result<SignInStep, TokenError> {
        for _ in 0..ROUNDS_MAX {
            attempt.learn(&mut reply);
            let Some(name) = reply.challenge.take() else {
                let set = self.signed_in(reply.result, attempt.device).await?;
                return Ok(SignInStep::Tokens(Box::new(set)));
            };
            reply = match name {
                ChallengeNameType::PasswordVerifier => self.prove_password(&mut attempt, &reply.parameters).await?,
                ChallengeNameType::DeviceSrpAuth => self.prove_device(&mut attempt).await?,
                name => return self.ask(attempt, &name, reply).await,
            };
        }
        Err(TokenError::Configuration("the user pool asks for one proof after the other, without an end".to_owned()))
    }

    /// Makes the pool's question one for the user.
    async fn ask(
        &self,
        mut attempt: Attempt<'_>,
        name: &ChallengeNameType,
        reply: Reply,
    ) -> Result<SignInStep, TokenError> {
        let Reply { parameters, available, .. } = reply;
        let mut answers = answers_of(name.as_str(), &parameters, &available)?;
        let mut parameters: BTreeMap<String, String> =
            parameters.into_iter().filter(|(name, _)| !NOT_SHOWN.contains(&name.as_str())).collect();
        match name {
            ChallengeNameType::SelectChallenge => {
                let offered: Vec<&str> = available.iter().filter_map(choice).collect();
                parameters.insert("AVAILABLE_CHALLENGES".to_owned(), serde_json::json!(offered).to_string());
            }
            ChallengeNameType::MfaSetup => {
                parameters.insert("SECRET_CODE".to_owned(), self.associate(&mut attempt).await?);
            }
            _ => {}
        }
        answers.dedup();
        Ok(SignInStep::Challenge(Box::new(Challenge {
            name: name.as_str().to_owned(),
            parameters,
            answers,
            handle: attempt.handle(),
            username: attempt.username,
        })))
    }

    /// See [`super::TokenSource::answer`].
    pub(super) async fn answer_challenge(
        &self,
        challenge: &Challenge,
        answers: &BTreeMap<String, SecretString>,
        device: Option<&RememberedDevice>,
    ) -> Result<SignInStep, TokenError> {
        check(challenge, answers)?;
        let mut attempt = Attempt::resume(challenge, device)?;
        let name = ChallengeNameType::from(challenge.name.as_str());
        let mut responses = vec![("USERNAME", attempt.user.clone())];
        match name {
            ChallengeNameType::MfaSetup => self.verify_software_token(&mut attempt, answers).await?,
            ChallengeNameType::SelectChallenge if answers.contains_key(PASSWORD) => {
                let proof = Proof { password: answers[PASSWORD].clone(), exchange: begin().await? };
                responses.push(("ANSWER", "PASSWORD_SRP".to_owned()));
                responses.push(("SRP_A", proof.exchange.public()));
                attempt.proof = Some(proof);
            }
            _ => {
                let given = answers.iter().map(|(name, answer)| (name.as_str(), answer.expose_secret().to_owned()));
                responses.extend(given);
            }
        }
        let reply = self.respond(name, &attempt, responses, PoolCall::Answer).await?;
        self.proceed(attempt, reply).await
    }

    /// `RespondToAuthChallenge`.
    pub(super) async fn respond(
        &self,
        name: ChallengeNameType,
        attempt: &Attempt<'_>,
        responses: Vec<(&str, String)>,
        call: PoolCall,
    ) -> Result<Reply, TokenError> {
        let mut request = self.client.respond_to_auth_challenge().client_id(&self.client_id).challenge_name(name);
        request = request.set_session(attempt.session.as_ref().map(|session| session.to_string()));
        for (name, value) in responses {
            request = request.challenge_responses(name, value);
        }
        if let Some(device) = attempt.device {
            request = request.challenge_responses("DEVICE_KEY", &device.key);
        }
        let reply = call!(self, Challenge, "RespondToAuthChallenge", request);
        reply.map(Reply::from).map_err(|refused| token_error(call, refused))
    }

    /// `AssociateSoftwareToken`: the secret that the user's authenticator app is to hold.
    async fn associate(&self, attempt: &mut Attempt<'_>) -> Result<String, TokenError> {
        let request = self.client.associate_software_token();
        let request = request.set_session(attempt.session.as_ref().map(|session| session.to_string()));
        let reply = call!(self, Challenge, "AssociateSoftwareToken", request);
        let reply = reply.map_err(|refused| token_error(PoolCall::Answer, refused))?;
        if let Some(session) = reply.session {
            attempt.session = Some(Zeroizing::new(session));
        }
        reply.secret_code.ok_or_else(|| super::lacking("SecretCode"))
    }

    /// `VerifySoftwareToken`: the app's first code.
    async fn verify_software_token(
        &self,
        attempt: &mut Attempt<'_>,
        answers: &BTreeMap<String, SecretString>,
    ) -> Result<(), TokenError> {
        let code = answers.get(SOFTWARE_TOKEN_MFA_CODE).map_or("", |code| code.expose_secret());
        let request = self.client.verify_software_token().user_code(code);
        let request = request.set_session(attempt.session.as_ref().map(|session| session.to_string()));
        let reply = call!(self, Challenge, "VerifySoftwareToken", request);
        let reply = reply.map_err(|refused| token_error(PoolCall::Answer, refused))?;
        if let Some(session) = reply.session {
            attempt.session = Some(Zeroizing::new(session));
        }
        Ok(())
    }
}

const PASSWORD: &str = "PASSWORD";
const SOFTWARE_TOKEN_MFA_CODE: &str = "SOFTWARE_TOKEN_MFA_CODE";

/// The names that an answer must have.
///
/// # Errors
/// `ChallengeRequired` for what cannot be answered here.
fn answers_of(
    name: &str,
    parameters: &HashMap<String, String>,
    available: &[ChallengeNameType],
) -> Result<Vec<String>, TokenError> {
    let cannot = |why: &str| Err(TokenError::ChallengeRequired { name: name.to_owned(), why: why.to_owned() });
    let one = |answer: &str| Ok(vec![answer.to_owned()]);
    match name {
        "SMS_MFA" => one("SMS_MFA_CODE"),
        "SMS_OTP" => one("SMS_OTP_CODE"),
        "EMAIL_OTP" => one("EMAIL_OTP_CODE"),
        "SOFTWARE_TOKEN_MFA" => one(SOFTWARE_TOKEN_MFA_CODE),
        "SELECT_MFA_TYPE" => one("ANSWER"),
        "SELECT_CHALLENGE" if available.iter().any(|offered| choice(offered).is_some()) => one("ANSWER"),
        "SELECT_CHALLENGE" => cannot(
            "the user pool offers no way to sign in that this device can go: let it offer PASSWORD_SRP, EMAIL_OTP or \
             SMS_OTP",
        ),
        "MFA_SETUP" if listed(parameters, "MFAS_CAN_SETUP").iter().any(|mfa| mfa == "SOFTWARE_TOKEN_MFA") => {
            one(SOFTWARE_TOKEN_MFA_CODE)
        }
        "MFA_SETUP" => cannot(
            "the user pool wants a second factor set up that cannot be set up here: only SOFTWARE_TOKEN_MFA can; set \
             another one up in the app or by the administrator",
        ),
        "NEW_PASSWORD_REQUIRED" => {
            let required = listed(parameters, "requiredAttributes").into_iter();
            let required = required.map(|name| format!("{ATTRIBUTE}{}", name.trim_start_matches(ATTRIBUTE)));
            Ok(std::iter::once("NEW_PASSWORD".to_owned()).chain(required).collect())
        }
        other => cannot(&format!(
            "the user pool asks for {other}, which version {} of this daemon cannot answer: sign in by tokens, or \
             change what the pool asks",
            env!("CARGO_PKG_VERSION")
        )),
    }
}

/// How an offered way to sign in is called for the user; none where it cannot be gone here. `PASSWORD` would send the
/// password to the pool.
fn choice(offered: &ChallengeNameType) -> Option<&str> {
    Some(offered.as_str()).filter(|name| ["PASSWORD_SRP", "EMAIL_OTP", "SMS_OTP"].contains(name))
}

/// The strings of a parameter that is a JSON list.
fn listed(parameters: &HashMap<String, String>, name: &str) -> Vec<String> {
    parameters.get(name).and_then(|list| serde_json::from_str(list).ok()).unwrap_or_default()
}

/// Lets answers pass that have the challenge's names.
fn check(challenge: &Challenge, answers: &BTreeMap<String, SecretString>) -> Result<(), TokenError> {
    let mut problems = Vec::new();
    let mut problem = |name: &str, why: String| problems.push(AnswerProblem { name: name.to_owned(), why });
    let given = |name: &str| {
        let answer = answers.get(name).map(SecretString::expose_secret);
        answer.filter(|answer| !answer.is_empty())
    };
    for name in &challenge.answers {
        if given(name).is_none() {
            problem(name, "must not be empty".to_owned());
        }
    }
    let is_select = challenge.name == "SELECT_CHALLENGE";
    let may_have = |name: &str| {
        challenge.answers.iter().any(|required| required == name)
            || (challenge.name == "NEW_PASSWORD_REQUIRED" && name.starts_with(ATTRIBUTE))
            || (is_select && name == PASSWORD)
    };
    for name in answers.keys().filter(|name| !may_have(name)) {
        problem(name, format!("is no answer to {}: it takes {}", challenge.name, challenge.answers.join(", ")));
    }
    if is_select {
        match (given("ANSWER"), given(PASSWORD)) {
            (Some("PASSWORD_SRP"), None) => problem(PASSWORD, "is needed with PASSWORD_SRP".to_owned()),
            (Some("PASSWORD"), _) => {
                problem("ANSWER", "would send the password to the pool: PASSWORD_SRP proves it instead".to_owned());
            }
            (Some(other), Some(_)) if other != "PASSWORD_SRP" => {
                problem(PASSWORD, "is an answer only with PASSWORD_SRP".to_owned());
            }
            _ => {}
        }
    }
    if problems.is_empty() { Ok(()) } else { Err(TokenError::InvalidAnswers(problems)) }
}

#[cfg(test)]
mod tests;
