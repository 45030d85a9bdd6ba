//! What the hosted sign-in page asks of a pool: whether a password or the answer to a question is right, tokens for a
//! code, and what `userInfo` shows. Promises that a page's sign-in passes the same checks as any other, and that tokens
//! begin with the code, not with the password.

use std::sync::Arc;

use serde_json::{Map, Value, json};

use crate::local_cloud::error::AwsError;
use crate::local_cloud::seed::{UserPoolClientSeed, UserPoolSeed};
use crate::local_cloud::user_pool::request::{Request, internal_error, not_authorized};
use crate::local_cloud::user_pool::scopes::Scopes;
use crate::local_cloud::user_pool::tokens::{Bearer, SignIn};
use crate::local_cloud::user_pool::{Inner, UserPools};

/// Where a page's sign-in stands.
#[derive(Debug)]
pub enum PageAnswer {
    /// This user has signed in.
    SignedIn {
        /// Their `sub`.
        sub: String,
    },
    /// The pool asks something first.
    Challenge {
        /// For example `NEW_PASSWORD_REQUIRED`.
        name: String,
        /// What the answer has to name.
        session: String,
        /// What belongs to the question.
        parameters: Value,
    },
}

/// What tokens are for.
#[derive(Debug, Clone)]
pub struct TokenGrant {
    /// The client.
    pub client_id: String,
    /// The user.
    pub sub: String,
    /// What they are good for.
    pub scopes: Scopes,
    /// Goes into the ID token.
    pub nonce: Option<String>,
    /// When the user proved who they are, in seconds since 1970.
    pub auth_time_s: u64,
}

/// The answer to a page whose user has signed in.
pub(super) fn signed_in(sub: &str) -> Value {
    json!({ "SignedIn": sub })
}

impl UserPools {
    /// The app client with this id, and its pool.
    pub fn client(&self, id: &str) -> Option<(&UserPoolSeed, &UserPoolClientSeed)> {
        self.0.pools.values().find_map(|pool| Some((&pool.seed, pool.client(id)?)))
    }

    /// Whether this user may still sign in.
    pub fn is_active(&self, pool_id: &str, sub: &str) -> bool {
        self.0.pools.get(pool_id).and_then(|pool| pool.directory.get(sub)).is_some_and(|user| user.enabled)
    }

    /// Checks a name and a password.
    ///
    /// # Errors
    /// What `InitiateAuth` says.
    pub async fn page_sign_in(&self, client_id: &str, name: &str, password: &str) -> Result<PageAnswer, AwsError> {
        self.0.site.counters.count("cognito-idp:HostedSignIn");
        let parameters = json!({ "USERNAME": name, "PASSWORD": password });
        let body = json!({ "ClientId": client_id, "AuthParameters": parameters });
        let answer = self.hosted(body, |request| {
            let (pool, client) = request.client()?;
            request.password_auth(pool, client)
        });
        page_answer(&answer.await?)
    }

    /// Checks the answer to a question.
    ///
    /// # Errors
    /// What `RespondToAuthChallenge` says.
    pub async fn page_answer(
        &self,
        client_id: &str,
        challenge: &str,
        session: &str,
        responses: &Value,
    ) -> Result<PageAnswer, AwsError> {
        self.0.site.counters.count("cognito-idp:HostedAnswer");
        let body = json!({
            "ClientId": client_id, "ChallengeName": challenge, "Session": session, "ChallengeResponses": responses,
        });
        let answer = self.hosted(body, |request| {
            let (pool, client) = request.client()?;
            request.respond(pool, client)
        });
        page_answer(&answer.await?)
    }

    /// Begins the sign-in of a code. Gives an `AuthenticationResult`, and the `origin_jti` by which it can be ended.
    ///
    /// # Errors
    /// The user is gone or disabled.
    pub async fn begin_tokens(&self, grant: TokenGrant) -> Result<(Value, String), AwsError> {
        let answer = self.hosted(json!({ "ClientId": grant.client_id }), move |request| {
            let (pool, client) = request.client()?;
            let now_s = request.now_ms() / 1_000;
            let (user, (mut sign_in, refresh_token)) = pool.directory.update(&grant.sub, |user| {
                if !user.enabled {
                    return Err(not_authorized("User is disabled."));
                }
                let (mut sign_in, refresh_token) = SignIn::begin(user, client, now_s, None, None);
                sign_in.scopes = grant.scopes.clone();
                sign_in.auth_time_s = grant.auth_time_s;
                if let Some(kept) = user.sign_ins.last_mut() {
                    kept.clone_from(&sign_in);
                }
                Ok((user.clone(), (sign_in, refresh_token)))
            })??;
            sign_in.nonce.clone_from(&grant.nonce);
            let result = request.authentication_result(pool, client, &user, &sign_in, Some(refresh_token));
            Ok(json!({ "Result": result, "Origin": sign_in.origin_jti }))
        });
        let mut answer = answer.await?;
        Ok((answer["Result"].take(), answer["Origin"].as_str().unwrap_or_default().to_owned()))
    }

    /// Ends one sign-in with all of its tokens.
    ///
    /// # Errors
    /// The user is gone.
    pub async fn end_tokens(&self, client_id: &str, sub: &str, origin_jti: &str) -> Result<(), AwsError> {
        let (sub, origin_jti) = (sub.to_owned(), origin_jti.to_owned());
        let answer = self.hosted(json!({ "ClientId": client_id }), move |request| {
            let (pool, _) = request.client()?;
            pool.directory.update(&sub, |user| {
                user.sign_ins.iter_mut().filter(|s| s.origin_jti == origin_jti).for_each(|s| s.revoked = true);
            })?;
            Ok(Value::Null)
        });
        answer.await.map(drop)
    }

    /// Fresh tokens for a refresh token, rotated where the client rotates.
    ///
    /// # Errors
    /// What `GetTokensFromRefreshToken` says.
    pub async fn refresh_tokens(&self, client_id: &str, refresh_token: &str) -> Result<Value, AwsError> {
        let body = json!({ "ClientId": client_id, "RefreshToken": refresh_token });
        Ok(self.hosted(body, Request::get_tokens_from_refresh_token).await?["AuthenticationResult"].take())
    }

    /// What `userInfo` shows to the holder of this access token.
    ///
    /// # Errors
    /// The token is not good, or not for this.
    pub fn user_info(&self, access_token: &str) -> Result<Value, AwsError> {
        let Bearer { user, scopes, .. } = self.0.bearer(access_token)?;
        if !scopes.has("openid") {
            return Err(AwsError::new("InsufficientScope", "Access token does not contain openid scope"));
        }
        let shown = user.attributes.iter().filter(|(name, _)| scopes.show(name));
        // AWS shows flags as texts here, unlike in tokens.
        let mut shown: Map<String, Value> = shown.map(|(name, value)| (name.clone(), json!(value))).collect();
        shown.insert("sub".into(), json!(user.sub));
        shown.insert("username".into(), json!(user.username));
        Ok(Value::Object(shown))
    }

    /// Runs blocking work on its own thread.
    async fn hosted(
        &self,
        body: Value,
        work: impl FnOnce(&Request) -> Result<Value, AwsError> + Send + 'static,
    ) -> Result<Value, AwsError> {
        let inner: Arc<Inner> = Arc::clone(&self.0);
        let done = tokio::task::spawn_blocking(move || work(&Request::hosted(inner, body))).await;
        done.unwrap_or_else(|_| Err(internal_error("the request's thread panicked")))
    }
}

fn page_answer(answer: &Value) -> Result<PageAnswer, AwsError> {
    let text = |name: &str| answer[name].as_str().map(str::to_owned);
    if let Some(sub) = text("SignedIn") {
        return Ok(PageAnswer::SignedIn { sub });
    }
    match (text("ChallengeName"), text("Session")) {
        (Some(name), Some(session)) => {
            Ok(PageAnswer::Challenge { name, session, parameters: answer["ChallengeParameters"].clone() })
        }
        _ => Err(internal_error("the pool neither signed in nor asked")),
    }
}
