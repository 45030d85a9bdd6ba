//! Pages on which people sign in, sign up, confirm and recover an account. Each is a form that carries the client's
//! request in its address, so that nothing is kept for who never comes back.

use maud::{Markup, html};
use serde_json::json;

use crate::local_cloud::error::AwsError;
use crate::local_cloud::hosted_ui::authorize::Authorize;
use crate::local_cloud::hosted_ui::call::Call;
use crate::local_cloud::hosted_ui::pages::{self, Form, Forms, Kind};
use crate::local_cloud::hosted_ui::{Answer, HostedUi, Page};
use crate::local_cloud::sts::Auth;
use crate::local_cloud::user_pool::PageAnswer;

/// What a page shows besides its form.
#[derive(Debug, Default)]
pub(super) struct Said {
    error: Option<String>,
    notice: Option<&'static str>,
    /// The name that was typed before.
    username: String,
}

impl Said {
    pub(super) fn error(username: &str, error: &AwsError) -> Self {
        Self { error: Some(plain(error)), username: username.to_owned(), notice: None }
    }

    pub(super) fn wrong(error: &str) -> Self {
        Self { error: Some(error.to_owned()), ..Self::default() }
    }

    fn notice(username: &str, notice: &'static str) -> Self {
        Self { notice: Some(notice), username: username.to_owned(), error: None }
    }
}

/// An open question of the pool.
struct Question<'q> {
    name: &'q str,
    session: &'q str,
    username: &'q str,
    /// What can be chosen, where that is the question.
    choices: &'q [String],
}

impl HostedUi {
    /// A page that was asked for.
    pub(super) fn show(&self, page: Page, call: &Call, authorize: &Authorize, said: &Said) -> Answer {
        let csrf = self.csrf_of(call);
        let name =
            if said.username.is_empty() { authorize.login_hint.as_deref().unwrap_or_default() } else { &said.username };
        let query = authorize.query();
        let action = format!("{}?{query}", page.path());
        let link = |page: Page| format!("{}?{query}", page.path());
        let (error, notice) = (said.error.as_deref(), said.notice);
        let form =
            |button, fields: &Markup| pages::form(&Form { action: &action, csrf: &csrf, hidden: &[], button }, fields);
        let email = |focused| pages::field("username", "E-mail", Kind::Name, name, focused);
        let (title, content) = match page {
            Page::SignUp => (
                "Create your account",
                html! {
                    (pages::heading("Create your account", "You get a code by e-mail to confirm your address.", error, notice))
                    (form("Create account", &html! {
                        (email(true))
                        (pages::field("password", "New password", Kind::NewPassword, "", false))
                    }))
                    p.links { a href=(link(Page::Login)) { "I have an account" } }
                },
            ),
            Page::Confirm => (
                "Confirm your address",
                html! {
                    (pages::heading("Confirm your address", "Type the code that was mailed to you.", error, notice))
                    (form("Confirm", &html! {
                        (email(name.is_empty()))
                        (pages::field("code", "Code", Kind::Code, "", !name.is_empty()))
                    }))
                    p.links { a href=(link(Page::Login)) { "Back to sign-in" } }
                },
            ),
            Page::ForgotPassword => (
                "Forgotten password",
                html! {
                    (pages::heading("Forgotten password", "You get a code by e-mail to choose a new one.", error, notice))
                    (form("Send the code", &email(true)))
                    p.links { a href=(link(Page::Login)) { "Back to sign-in" } }
                },
            ),
            Page::ConfirmForgotPassword => (
                "New password",
                html! {
                    (pages::heading("New password", "If the account exists, a code is in its mailbox.", error, notice))
                    (form("Save the new password", &html! {
                        (email(name.is_empty()))
                        (pages::field("code", "Code", Kind::Code, "", !name.is_empty()))
                        (pages::field("password", "New password", Kind::NewPassword, "", false))
                    }))
                    p.links { a href=(link(Page::ForgotPassword)) { "Send another code" } }
                },
            ),
            _ => (
                "Sign in",
                html! {
                    (pages::heading("Sign in", "", error, notice))
                    (form("Sign in", &html! {
                        (email(name.is_empty()))
                        (pages::field("password", "Password", Kind::Password, "", !name.is_empty()))
                    }))
                    @let providers = self.providers_of(&authorize.client_id);
                    @if !providers.is_empty() { p.or { "or" } }
                    @for provider in &providers {
                        a.button href=(provider.link(&query)) { "Continue with " (provider.label()) }
                    }
                    p.links {
                        a href=(link(Page::ForgotPassword)) { "Forgotten password?" }
                        @if self.allows_sign_up(&authorize.client_id) { a href=(link(Page::SignUp)) { "Create an account" } }
                    }
                },
            ),
        };
        let status = if said.error.is_some() { 400 } else { 200 };
        let forms = Forms::Here(Some(authorize.redirect_uri.clone()));
        self.with_csrf(call, &csrf, pages::page(status, title, &forms, &content))
    }

    /// A form that came in, from our own page.
    pub(super) async fn submitted(&self, page: Page, call: &Call, authorize: &Authorize) -> Answer {
        let (name, password) = (call.form.text("username"), call.form.text("password"));
        let client = &authorize.client_id;
        let done = match page {
            Page::SignUp => {
                let attributes = json!([{ "Name": "email", "Value": name }]);
                let body = json!({
                    "ClientId": client, "Username": name, "Password": password, "UserAttributes": attributes,
                });
                self.act("SignUp", body).await.map(|()| (Page::Confirm, "Your account is made. A code is on its way."))
            }
            Page::Confirm => {
                let body = json!({ "ClientId": client, "Username": name, "ConfirmationCode": call.form.text("code") });
                self.act("ConfirmSignUp", body).await.map(|()| (Page::Login, "Your address is confirmed. Sign in."))
            }
            Page::ForgotPassword => {
                let body = json!({ "ClientId": client, "Username": name });
                self.act("ForgotPassword", body).await.map(|()| (Page::ConfirmForgotPassword, "A code is on its way."))
            }
            Page::ConfirmForgotPassword => {
                let body = json!({
                    "ClientId": client, "Username": name, "ConfirmationCode": call.form.text("code"),
                    "Password": password,
                });
                let done = self.act("ConfirmForgotPassword", body).await;
                done.map(|()| (Page::Login, "Your password is changed. Sign in with it."))
            }
            Page::Challenge => return self.answered(call, authorize).await,
            _ => return self.log_in(call, authorize, name, password).await,
        };
        match done {
            Ok((next, notice)) => self.show(next, call, authorize, &Said::notice(name, notice)),
            Err(error) => self.show(page, call, authorize, &Said::error(name, &error)),
        }
    }

    async fn log_in(&self, call: &Call, authorize: &Authorize, name: &str, password: &str) -> Answer {
        match self.user_pools().page_sign_in(&authorize.client_id, name, password).await {
            Ok(answer) => self.go_on(call, authorize, name, answer),
            Err(error) if error.code == "UserNotConfirmedException" => {
                let body = json!({ "ClientId": authorize.client_id, "Username": name });
                // Where too many were sent already, the last one is as good.
                let _ = self.act("ResendConfirmationCode", body).await;
                let said = Said::notice(name, "Your address is not confirmed yet. A new code is on its way.");
                self.show(Page::Confirm, call, authorize, &said)
            }
            Err(error) => self.show(Page::Login, call, authorize, &Said::error(name, &error)),
        }
    }

    async fn answered(&self, call: &Call, authorize: &Authorize) -> Answer {
        let text = |name| call.form.text(name);
        let (name, session, username) = (text("challenge"), text("session"), text("username"));
        let question = Question { name, session, username, choices: &[] };
        let Some(kind) = challenge_kind(question.name) else {
            return self.show(Page::Login, call, authorize, &Said::wrong("Please sign in again."));
        };
        let responses = json!({ "USERNAME": question.username, kind.response: text("answer") });
        let answer =
            self.user_pools().page_answer(&authorize.client_id, question.name, question.session, &responses).await;
        match answer {
            Ok(answer) => self.go_on(call, authorize, question.username, answer),
            // The question stays open: only the answer was wrong.
            Err(error) if ["CodeMismatchException", "InvalidPasswordException"].contains(&error.code) => {
                self.ask(call, authorize, &question, Some(&plain(&error)))
            }
            Err(error) => self.show(Page::Login, call, authorize, &Said::error(question.username, &error)),
        }
    }

    fn go_on(&self, call: &Call, authorize: &Authorize, username: &str, answer: PageAnswer) -> Answer {
        match answer {
            PageAnswer::SignedIn { sub } => self.signed_in(authorize, &sub),
            PageAnswer::Challenge { name, session, parameters } => {
                let username = parameters["USER_ID_FOR_SRP"].as_str().unwrap_or(username);
                let choices = parameters["MFAS_CAN_CHOOSE"].as_str().unwrap_or("[]");
                let choices: Vec<String> = serde_json::from_str(choices).unwrap_or_default();
                let question = Question { name: &name, session: &session, username, choices: &choices };
                self.ask(call, authorize, &question, None)
            }
        }
    }

    fn ask(&self, call: &Call, authorize: &Authorize, question: &Question<'_>, error: Option<&str>) -> Answer {
        let Some(kind) = challenge_kind(question.name) else {
            let message = "This account needs a further step that the page cannot ask for. Set it up in the app first.";
            return self.show(Page::Login, call, authorize, &Said::wrong(message));
        };
        let csrf = self.csrf_of(call);
        let action = format!("{}?{}", Page::Challenge.path(), authorize.query());
        let hidden = [("challenge", question.name), ("session", question.session), ("username", question.username)];
        let form = Form { action: &action, csrf: &csrf, hidden: &hidden, button: "Go on" };
        let content = html! {
            (pages::heading(kind.title, kind.below, error, None))
            (pages::form(&form, &html! {
                @if question.name == "SELECT_MFA_TYPE" {
                    @for (value, label) in MFA_TYPES.iter().filter(|(value, _)| question.choices.iter().any(|c| c == value)) {
                        label.choice { input type="radio" name="answer" value=(value) required; (label) }
                    }
                } @else {
                    (pages::field("answer", kind.label, kind.field, "", true))
                }
            }))
        };
        let forms = Forms::Here(Some(authorize.redirect_uri.clone()));
        let status = if error.is_some() { 400 } else { 200 };
        self.with_csrf(call, &csrf, pages::page(status, kind.title, &forms, &content))
    }

    async fn act(&self, action: &str, body: serde_json::Value) -> Result<(), AwsError> {
        self.user_pools().call(action, body, &Auth::Anonymous).await.map(drop)
    }
}

const MFA_TYPES: [(&str, &str); 3] = [
    ("SOFTWARE_TOKEN_MFA", "Code of the authenticator app"),
    ("SMS_MFA", "Code by text message"),
    ("EMAIL_OTP", "Code by e-mail"),
];

/// How a question of the pool looks on the page.
struct ChallengeKind {
    response: &'static str,
    title: &'static str,
    below: &'static str,
    label: &'static str,
    field: Kind,
}

fn challenge_kind(name: &str) -> Option<ChallengeKind> {
    let code =
        |response, below| ChallengeKind { response, title: "One more step", below, label: "Code", field: Kind::Code };
    Some(match name {
        "NEW_PASSWORD_REQUIRED" => ChallengeKind {
            response: "NEW_PASSWORD",
            title: "Choose a password",
            below: "Your first password was for this once only.",
            label: "New password",
            field: Kind::NewPassword,
        },
        "SOFTWARE_TOKEN_MFA" => code("SOFTWARE_TOKEN_MFA_CODE", "Type the code that your authenticator app shows."),
        "SMS_MFA" => code("SMS_MFA_CODE", "Type the code that was sent to your phone."),
        "EMAIL_OTP" => code("EMAIL_OTP_CODE", "Type the code that was mailed to you."),
        "SELECT_MFA_TYPE" => code("ANSWER", "How do you want to prove that it is you?"),
        _ => return None,
    })
}

/// A refusal in words for the person at the screen.
fn plain(error: &AwsError) -> String {
    match error.code {
        "NotAuthorizedException" if error.message.starts_with("Incorrect") => {
            "The e-mail or the password is not right. Please try again.".into()
        }
        "NotAuthorizedException" if error.message.contains("attempts exceeded") => {
            "Too many wrong passwords. Wait a little, then try again.".into()
        }
        "NotAuthorizedException" if error.message.starts_with("Invalid session") => {
            "That took too long. Please sign in again.".into()
        }
        "UserNotFoundException" => "There is no account with this e-mail.".into(),
        "UsernameExistsException" | "AliasExistsException" => {
            "There is an account with this e-mail already. Sign in, or choose a new password for it.".into()
        }
        "CodeMismatchException" => "That code is not right. Please try again.".into(),
        "ExpiredCodeException" => "That code is too old or was used. Ask for a new one.".into(),
        "LimitExceededException" | "TooManyRequestsException" => "Too many tries. Wait a while, then try again.".into(),
        "PasswordResetRequiredException" => "You need a new password first: choose \"Forgotten password?\".".into(),
        "InternalErrorException" => "Something went wrong on our side. Please try again.".into(),
        _ => error.message.clone(),
    }
}
