//! What apps ask behind the page: tokens for a code or a refresh token, the user's attributes, the end of a token. The
//! errors are OAuth's, as Cognito gives them.

use aws_lc_rs::digest;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::Response;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue, WWW_AUTHENTICATE};
use serde_json::{Value, json};

use crate::local_cloud::error::AwsError;
use crate::local_cloud::hosted_ui::authorize::Authorize;
use crate::local_cloud::hosted_ui::call::Call;
use crate::local_cloud::hosted_ui::{Answer, Browser, ErrorCode, HostedUi, same};
use crate::local_cloud::sts::Auth;
use crate::local_cloud::user_pool::TokenGrant;

/// What a code was given for.
#[derive(Debug, Clone)]
pub struct CodeGrant {
    redirect_uri: String,
    code_challenge: Option<String>,
    grant: TokenGrant,
    state: CodeState,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum CodeState {
    Fresh,
    /// Somebody tried it: it is worth nothing more.
    Spent,
    /// Its tokens, which end where it is tried again.
    Exchanged {
        origin_jti: String,
    },
}

impl CodeGrant {
    /// A code for who has signed in, bound to what the client asked.
    pub(super) fn new(authorize: &Authorize, browser: &Browser) -> Self {
        Self {
            redirect_uri: authorize.redirect_uri.clone(),
            code_challenge: authorize.code_challenge.clone(),
            grant: TokenGrant {
                client_id: authorize.client_id.clone(),
                sub: browser.sub.clone(),
                scopes: authorize.scopes.clone(),
                nonce: authorize.nonce.clone(),
                auth_time_s: browser.auth_time_s,
            },
            state: CodeState::Fresh,
        }
    }

    fn fits(&self, call: &Call, client_id: &str) -> bool {
        let verifier = call.form.get("code_verifier");
        let is_proven = match (&self.code_challenge, verifier) {
            (Some(challenge), Some(verifier)) => is_verifier(verifier) && same(challenge, &challenge_of(verifier)),
            (None, None) => true,
            (Some(_), None) | (None, Some(_)) => false,
        };
        is_proven && self.grant.client_id == client_id && self.redirect_uri == call.form.text("redirect_uri")
    }
}

impl HostedUi {
    /// `/oauth2/token`.
    pub(super) async fn token(&self, call: &Call) -> Answer {
        let client_id = match self.client_of(call) {
            Ok(client_id) => client_id,
            Err(answer) => return *answer,
        };
        match call.form.get("grant_type") {
            Some("authorization_code") => self.exchange(call, client_id).await,
            Some("refresh_token") => {
                let Some(refresh_token) = call.form.get("refresh_token") else {
                    return failure(400, "invalid_request", Some("refresh_token is missing"));
                };
                match self.user_pools().refresh_tokens(client_id, refresh_token).await {
                    Ok(result) => granted(&result),
                    Err(error) => token_failure(&error),
                }
            }
            Some("client_credentials") => failure(400, "unauthorized_client", None),
            Some(_) => failure(400, "unsupported_grant_type", None),
            None => failure(400, "invalid_request", Some("grant_type is missing")),
        }
    }

    async fn exchange(&self, call: &Call, client_id: &str) -> Answer {
        let Some(code) = call.form.get("code") else {
            return failure(400, "invalid_request", Some("code is missing"));
        };
        let now_ms = self.0.site.now_ms();
        // Whoever comes first spends the code, whatever comes of it.
        let found = self.0.codes.update(code, now_ms, |kept| {
            let before = kept.clone();
            if kept.state == CodeState::Fresh {
                kept.state = CodeState::Spent;
            }
            before
        });
        let Some(kept) = found else { return failure(400, "invalid_grant", None) };
        if let CodeState::Exchanged { origin_jti } = &kept.state {
            // Two came with one code: one of them is a thief, and nobody knows which.
            let ended = self.user_pools().end_tokens(&kept.grant.client_id, &kept.grant.sub, origin_jti).await;
            if let Err(error) = ended {
                tracing::debug!(%error, "the tokens of a code that came twice were gone already");
            }
        }
        if kept.state != CodeState::Fresh || !kept.fits(call, client_id) {
            return failure(400, "invalid_grant", None);
        }
        match self.user_pools().begin_tokens(kept.grant).await {
            Ok((result, origin_jti)) => {
                self.0.codes.update(code, now_ms, |kept| kept.state = CodeState::Exchanged { origin_jti });
                granted(&result)
            }
            Err(error) => token_failure(&error),
        }
    }

    /// `/oauth2/revoke`.
    pub(super) async fn revoke(&self, call: &Call) -> Answer {
        let client_id = match self.client_of(call) {
            Ok(client_id) => client_id,
            Err(answer) => return *answer,
        };
        let Some(token) = call.form.get("token") else {
            return failure(400, "invalid_request", Some("token is missing"));
        };
        let body = json!({ "ClientId": client_id, "Token": token });
        match self.user_pools().call("RevokeToken", body, &Auth::Anonymous).await {
            Ok(_) => with_json(200, String::new()),
            Err(error) => match error.code {
                "UnsupportedTokenTypeException" => failure(400, "unsupported_token_type", None),
                "UnauthorizedException" => failure(400, "unauthorized_client", None),
                "UnsupportedOperationException" => failure(400, "invalid_request", Some(&error.message)),
                _ => token_failure(&error),
            },
        }
    }

    /// `/oauth2/userInfo`.
    pub(super) fn user_info(&self, call: &Call) -> Answer {
        let shown = match call.bearer() {
            Some(token) => self.user_pools().user_info(token),
            None => Err(AwsError::new("NotAuthorizedException", "Access token is missing")),
        };
        let error = match shown {
            Ok(shown) => return with_json(200, shown.to_string()),
            Err(error) => error,
        };
        let (status, code) =
            if error.code == "InsufficientScope" { (403, "insufficient_scope") } else { (401, "invalid_token") };
        let mut answer = failure(status, code, Some(&error.message));
        let challenge = format!("Bearer error=\"{code}\", error_description=\"{}\"", error.message);
        if let Ok(challenge) = HeaderValue::from_str(&challenge) {
            answer.headers_mut().insert(WWW_AUTHENTICATE, challenge);
        }
        answer
    }

    /// The client of a call that no browser makes. All are public: one that brings a secret is another one.
    fn client_of<'c>(&self, call: &'c Call) -> Result<&'c str, Box<Answer>> {
        if call.has_basic_authorization() || call.form.get("client_secret").is_some() {
            return Err(Box::new(failure(400, "invalid_client", Some("this client has no secret"))));
        }
        let Some(client_id) = call.form.get("client_id") else {
            return Err(Box::new(failure(400, "invalid_request", Some("client_id is missing"))));
        };
        match self.user_pools().client(client_id) {
            Some(_) => Ok(client_id),
            None => Err(Box::new(failure(400, "invalid_client", None))),
        }
    }
}

fn granted(result: &Value) -> Answer {
    let mut answer = json!({
        "access_token": result["AccessToken"], "expires_in": result["ExpiresIn"], "token_type": "Bearer",
    });
    for (name, field) in [("id_token", "IdToken"), ("refresh_token", "RefreshToken")] {
        if !result[field].is_null() {
            answer[name] = result[field].clone();
        }
    }
    with_json(200, answer.to_string())
}

fn token_failure(error: &AwsError) -> Answer {
    if error.status >= 500 {
        return failure(error.status, "server_error", None);
    }
    failure(400, "invalid_grant", None)
}

/// OAuth's error.
pub fn failure(status: u16, code: &'static str, description: Option<&str>) -> Answer {
    let mut body = json!({ "error": code });
    if let Some(description) = description {
        body["error_description"] = json!(description);
    }
    let mut answer = with_json(status, body.to_string());
    answer.extensions_mut().insert(ErrorCode(code.to_owned()));
    answer
}

/// A JSON answer that nobody keeps.
pub fn with_json(status: u16, body: String) -> Answer {
    let mut answer = Response::new(body);
    *answer.status_mut() = http::StatusCode::from_u16(status).unwrap_or(http::StatusCode::INTERNAL_SERVER_ERROR);
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json;charset=UTF-8"));
    answer.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    answer
}

/// RFC 7636: 43 to 128 unreserved characters.
fn is_verifier(verifier: &str) -> bool {
    let is_unreserved = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    (43..=128).contains(&verifier.len()) && verifier.bytes().all(is_unreserved)
}

/// `S256` of RFC 7636.
pub fn challenge_of(verifier: &str) -> String {
    URL_SAFE_NO_PAD.encode(digest::digest(&digest::SHA256, verifier.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_challenge_is_rfc_7636s() {
        let verifier = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";
        assert!(is_verifier(verifier) && !is_verifier("short") && !is_verifier(&"é".repeat(43)));
        assert_eq!(challenge_of(verifier), "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM");
    }
}
