//! The steps about sign-ins as they really are: a reset, Google, a second factor, a guest, a restart, and other programs
//! that live on the session.

use std::collections::HashMap;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::Value;

use super::super::super::client::{answer, unary};
use super::super::super::exit::CliError;
use super::super::app::{App, Way};
use super::super::aws::Authenticator;
use super::super::browser::Browser;
use super::super::camera;
use super::{ADA, BEN, CLEO, PAID_TIER, Play, Told, failed, must_be_refused};
use crate::api::v1;
use crate::api::v1::sign_in_request::Method;
use crate::clock::Clock;
use crate::local_cloud::api_gateway::{Authoriser, Denied, Route};

/// The scope of access tokens of sign-ins by password.
const USER_SCOPE: &str = "aws.cognito.signin.user.admin";

/// By a code to the address of the account; the old password is over.
pub(super) async fn reset_password(play: &mut Play<'_>) -> Told {
    let request = v1::ForgotPasswordRequest { username: ADA.to_owned(), ..v1::ForgotPasswordRequest::default() };
    let forgotten = play.client()?.accounts().forgot_password(unary(request)).await;
    let delivery = answer("ask for a reset", forgotten)?.code_delivery.unwrap_or_default();
    let new = super::new_password();
    let request = v1::ConfirmForgotPasswordRequest {
        username: ADA.to_owned(),
        confirmation_code: play.code_for(ADA).await?,
        new_password: new.clone(),
        ..v1::ConfirmForgotPasswordRequest::default()
    };
    answer("reset", play.client()?.accounts().confirm_forgot_password(unary(request)).await)?;
    must_be_refused(play.sign_in(ADA, &play.password).await, "BAD_CREDENTIALS")?;
    play.ada_password = Some(new);
    let again = play.enter(ADA).await?;
    same_session(play, &again)?;
    Ok(format!("with the code that went to {}; the old password is refused", delivery.destination))
}

/// The same verified address: the same person, however they come in.
pub(super) async fn google(play: &mut Play<'_>) -> Told {
    let request = v1::BeginFederatedSignInRequest { provider: "Google".to_owned(), ..Default::default() };
    let begun = play.client()?.sessions().begin_federated_sign_in(unary(request)).await;
    let begun = answer("begin the sign-in", begun)?;
    let mut browser = Browser::new()?;
    let google = browser.open(&begun.authorize_url).await?;
    let redirect_url = browser.submit(&google, &[("email", ADA)]).await?.away()?;
    let request = v1::CompleteFederatedSignInRequest { redirect_url: redirect_url.into(), ..Default::default() };
    let done = play.client()?.sessions().complete_federated_sign_in(unary(request)).await;
    let session = answer("complete the sign-in", done)?.session.unwrap_or_default();
    same_session(play, &session)?;
    Ok(format!("Continue with Google: the same sub {}", session.subject))
}

/// Set up with the user's own access token, as an app's settings page does it.
pub(super) async fn second_factor(play: &mut Play<'_>) -> Told {
    let ben = play.enter(BEN).await?;
    let request = v1::GetTokensRequest { session: ben.name.clone(), include_access_token: true };
    let tokens = answer("get tokens", play.client()?.credentials().get_tokens(unary(request)).await)?;
    let authenticator = Authenticator::set_up(&play.endpoint()?, &tokens.access_token).await;
    let authenticator = authenticator.map_err(|refusal| failed(&refusal))?;
    play.sign_out(&ben).await?;

    let challenge = play.challenged(BEN).await?;
    if challenge.name != "SOFTWARE_TOKEN_MFA" {
        return Err(CliError::failed(format!("the pool asks for {}, not for a code of the app", challenge.name)));
    }
    let respond = |code: String| {
        let responses = HashMap::from([("SOFTWARE_TOKEN_MFA_CODE".to_owned(), code)]);
        v1::RespondToChallengeRequest { challenge_id: challenge.challenge_id.clone(), responses }
    };
    let wrong = play.client()?.sessions().respond_to_challenge(unary(respond("000000".to_owned()))).await;
    must_be_refused(wrong, "CODE_MISMATCH")?;
    let done = play.client()?.sessions().respond_to_challenge(unary(respond(authenticator.code()))).await;
    let done = answer("answer the challenge", done)?;
    let Some(v1::respond_to_challenge_response::Result::Session(session)) = done.result else {
        return Err(CliError::failed("the right code did not give a session"));
    };
    play.sign_out(&session).await?;
    Ok(format!("{BEN}: a wrong code is refused, the authenticator's signs in"))
}

/// Nobody's photo, beneath a prefix of its own.
pub(super) async fn guest(play: &mut Play<'_>) -> Told {
    let request = v1::SignInRequest { method: Some(Method::Guest(v1::GuestSignIn {})), ..v1::SignInRequest::default() };
    let done = answer("sign in as a guest", play.client()?.sessions().sign_in(unary(request)).await)?;
    let guest = super::signed_in(done)?;
    let guest = play.with_identity_id(guest).await?;
    let photo = camera::photo(8).map_err(CliError::failed)?;
    let ada = std::mem::replace(&mut play.session, guest.clone());
    let stored = play.store("free/before-sign-up.jpg", "image/jpeg", &photo).await;
    play.session = ada;
    stored?;
    play.guest = guest;
    Ok(format!("no account; identity {}", play.guest.identity_id))
}

/// The guest signs up and in: the identity id, and so the prefix, becomes the user's.
pub(super) async fn guest_signs_in(play: &mut Play<'_>) -> Told {
    let cleo = play.account(CLEO).await?;
    if cleo.identity_id != play.guest.identity_id || !cleo.merged_from.is_empty() {
        return Err(CliError::failed(format!(
            "{CLEO} has the identity {}, the guest had {}",
            cleo.identity_id, play.guest.identity_id
        )));
    }
    play.sign_out(&cleo).await?;
    Ok(format!("{CLEO} keeps the guest's identity, and so the photo"))
}

/// The device loses its daemon; its people do not notice.
pub(super) async fn restart(play: &mut Play<'_>) -> Told {
    play.client = Some(play.stage.restart_daemon().await?);
    let request = v1::GetSessionRequest { name: play.session.name.clone() };
    let found = answer("find the session", play.client()?.sessions().get_session(unary(request)).await)?;
    let session = play.with_identity_id(found.session.unwrap_or_default()).await?;
    same_session(play, &session)?;
    let photo = camera::photo(9).map_err(CliError::failed)?;
    play.store("free/after-restart.jpg", "image/jpeg", &photo).await?;
    Ok("stopped and started: Ada is still signed in, and uploads".to_owned())
}

/// Any SDK, by a line in its profile.
pub(super) async fn credential_process(play: &mut Play<'_>) -> Told {
    let app = App::start(play.stage, &Way::CredentialProcess { session: &play.session.name })?;
    let key = photo_of_app(play, app, "by-credential-process").await?;
    Ok(format!("by a line of its profile; it put {key}"))
}

/// Any SDK, by two variables of its environment.
pub(super) async fn container_endpoint(play: &mut Play<'_>) -> Told {
    let request = v1::CreateCredentialsEndpointRequest { session: play.session.name.clone(), ..Default::default() };
    let made = play.client()?.credentials().create_credentials_endpoint(unary(request)).await;
    let made = answer("make the endpoint", made)?;
    let way = Way::ContainerEndpoint { url: &made.url, token: &made.authorization_token };
    let app = App::start(play.stage, &way)?;
    let key = photo_of_app(play, app, "by-container-endpoint").await?;
    Ok(format!("by two variables; it put {key}"))
}

/// The other thing that the sign-in is good for: the team's API behind API Gateway.
pub(super) async fn rest_api(play: &mut Play<'_>) -> Told {
    let request = v1::GetTokensRequest { session: play.session.name.clone(), include_access_token: true };
    let tokens = answer("get tokens", play.client()?.credentials().get_tokens(unary(request)).await)?;
    let issuer = format!("{}/{}", play.stage.cloud()?.url(), play.stage.template_output("UserPoolId")?);
    let client_id = play.stage.template_output("UserPoolClientId")?;
    let gateway = |client_id: String| Authoriser::new(issuer.clone(), vec![client_id], Clock::system());
    let api = gateway(client_id.clone());
    let refused = |denied: Denied| CliError::failed(format!("the authoriser refused a good token: {denied}"));
    let open = Route::default();
    let claims = api.authorise(Some(&tokens.id_token), &open).await.map_err(refused)?;
    if claims.get("sub").and_then(Value::as_str) != Some(play.session.subject.as_str()) {
        return Err(CliError::failed("the token that was accepted is not Ada's"));
    }
    let paid = Route { scopes: vec![USER_SCOPE.to_owned()], groups: vec![PAID_TIER.to_owned()] };
    api.authorise(Some(&tokens.access_token), &paid).await.map_err(refused)?;
    for (what, api, token) in [
        ("a tampered token", &api, tampered(&tokens.id_token)),
        ("a token for another client", &gateway(format!("{client_id}x")), tokens.id_token.clone()),
    ] {
        if !matches!(api.authorise(Some(&token), &open).await, Err(Denied::Unauthorized(_))) {
            return Err(CliError::failed(format!("the authoriser let {what} through")));
        }
    }
    Ok("the authoriser takes both tokens; tampered and foreign ones get 401".to_owned())
}

/// The same token, said to be somebody else's.
fn tampered(token: &str) -> String {
    let mut parts: Vec<&str> = token.split('.').collect();
    let forged = URL_SAFE_NO_PAD.encode(r#"{"sub":"somebody else","token_use":"id"}"#);
    if let Some(claims) = parts.get_mut(1) {
        *claims = &forged;
    }
    parts.join(".")
}

async fn photo_of_app(play: &mut Play<'_>, mut app: App, name: &str) -> Result<String, CliError> {
    let key = format!("{}free/{name}.txt", play.prefix());
    app.put(&key).await?;
    let Some(seen) = play.bucket()?.look(&key).await.map_err(|refusal| failed(&refusal))? else {
        return Err(CliError::failed(format!("nothing is at {key}")));
    };
    play.expected.insert(key, seen.size_bytes);
    Ok(format!("free/{name}.txt"))
}

fn same_session(play: &Play<'_>, session: &v1::Session) -> Result<(), CliError> {
    let ada = &play.session;
    if session.name == ada.name && session.subject == ada.subject {
        return Ok(());
    }
    Err(CliError::failed(format!(
        "{} with sub {} is not Ada's {} with sub {}",
        session.name, session.subject, ada.name, ada.subject
    )))
}
