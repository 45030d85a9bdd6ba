//! The hosted sign-in page of the user pools, with its OAuth endpoints, at the paths that Cognito documents. Owns the
//! browser's session (a cookie), authorisation codes and trips to other providers; promises that a browser is only ever
//! redirected to an address that the client registered, that a code works once, and that no form from elsewhere is
//! taken; must never decide whether a password or a provider's user is right: the pool does.
//!
//! Unlike in AWS all pools share one address, so the client's id says which pool is meant, and an error page comes at
//! the address that was asked for. The cookies lack `Secure` because this cloud serves plain HTTP on loopback, where
//! clients that go by the letter would drop them; in AWS they have it. What is remembered here ends with the process.

mod account;
pub(super) mod authorize;
pub(super) mod call;
pub(super) mod expiring;
pub(super) mod pages;
mod relying_party;
pub(super) mod token;

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ALLOW, HeaderValue, SET_COOKIE};
use http::request::Parts;
use http::{Method, Response};

use crate::local_cloud::site::Site;
use crate::local_cloud::user_pool::UserPools;
use account::Said;
use authorize::{Authorize, Prompt, Refusal, callback};
use call::Call;
use expiring::{Expiring, random_name};
use relying_party::{ProviderClient, Trip};
use token::CodeGrant;

/// An answer, its body being text.
pub type Answer = Response<String>;

/// What went wrong, for the request log; an extension of an [`Answer`].
#[derive(Debug, Clone)]
pub struct ErrorCode(pub String);

/// How long a browser stays signed in, as Cognito's fixed hour.
pub const PAGE_SESSION_VALIDITY: Duration = Duration::from_secs(3_600);
/// How long a code can be exchanged, as Cognito's.
pub const CODE_VALIDITY: Duration = Duration::from_secs(300);

/// How long somebody may stay at another provider.
pub const TRIP_VALIDITY: Duration = Duration::from_secs(600);

const SESSION_COOKIE: &str = "cognito";
const CSRF_COOKIE: &str = "XSRF-TOKEN";
const TRIP_COOKIE: &str = "cognito-fl";

/// The page; clones share what it remembers.
#[derive(Debug, Clone)]
pub struct HostedUi(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    site: Site,
    user_pools: UserPools,
    browsers: Expiring<Browser>,
    codes: Expiring<CodeGrant>,
    trips: Expiring<Trip>,
    providers: ProviderClient,
}

/// Who has signed in with a browser.
#[derive(Debug, Clone)]
struct Browser {
    pool_id: String,
    sub: String,
    auth_time_s: u64,
}

/// What a path leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Page {
    /// `/oauth2/authorize`.
    Authorize,
    /// `/oauth2/token`.
    Token,
    /// `/oauth2/userInfo`.
    UserInfo,
    /// `/oauth2/revoke`.
    Revoke,
    /// `/oauth2/idpresponse`: back from another provider.
    IdpResponse,
    /// `/login`.
    Login,
    /// `/logout`.
    Logout,
    /// `/signup`.
    SignUp,
    /// `/confirm`.
    Confirm,
    /// `/forgotPassword`.
    ForgotPassword,
    /// `/confirmForgotPassword`.
    ConfirmForgotPassword,
    /// `/challenge`: the pool's questions behind the password.
    Challenge,
}

/// Each page with its path, and the operation that faults and the request log know it by.
const PAGES: [(Page, &str, &str); 12] = [
    (Page::Authorize, "/oauth2/authorize", "hosted-ui:Authorize"),
    (Page::Token, "/oauth2/token", "hosted-ui:Token"),
    (Page::UserInfo, "/oauth2/userInfo", "hosted-ui:UserInfo"),
    (Page::IdpResponse, "/oauth2/idpresponse", "hosted-ui:IdpResponse"),
    (Page::Revoke, "/oauth2/revoke", "hosted-ui:Revoke"),
    (Page::Login, "/login", "hosted-ui:Login"),
    (Page::Logout, "/logout", "hosted-ui:Logout"),
    (Page::SignUp, "/signup", "hosted-ui:SignUp"),
    (Page::Confirm, "/confirm", "hosted-ui:Confirm"),
    (Page::ForgotPassword, "/forgotPassword", "hosted-ui:ForgotPassword"),
    (Page::ConfirmForgotPassword, "/confirmForgotPassword", "hosted-ui:ConfirmForgotPassword"),
    (Page::Challenge, "/challenge", "hosted-ui:Challenge"),
];

impl Page {
    /// The page at this path.
    pub fn at(path: &str) -> Option<Self> {
        PAGES.iter().find(|(_, known, _)| *known == path).map(|(page, _, _)| *page)
    }

    /// Its path.
    pub fn path(self) -> &'static str {
        self.entry().1
    }

    /// `hosted-ui:…`.
    pub fn operation(self) -> &'static str {
        self.entry().2
    }

    fn entry(self) -> &'static (Self, &'static str, &'static str) {
        PAGES.iter().find(|(page, _, _)| *page == self).expect("every page has its entry")
    }
}

impl HostedUi {
    /// Nobody has signed in yet.
    pub fn new(site: &Site, user_pools: &UserPools) -> Self {
        let valid_ms = |validity: Duration| u64::try_from(validity.as_millis()).unwrap_or(u64::MAX);
        Self(Arc::new(Inner {
            site: site.clone(),
            user_pools: user_pools.clone(),
            browsers: Expiring::new(valid_ms(PAGE_SESSION_VALIDITY)),
            codes: Expiring::new(valid_ms(CODE_VALIDITY)),
            trips: Expiring::new(valid_ms(TRIP_VALIDITY)),
            providers: ProviderClient::new(site),
        }))
    }

    /// Answers a request to a page.
    pub async fn answer(&self, page: Page, parts: &Parts, body: &Bytes) -> Answer {
        self.0.site.counters.count(page.operation());
        let allowed: &[Method] = match page {
            Page::Token | Page::Revoke => &[Method::POST],
            Page::Authorize | Page::Logout => &[Method::GET, Method::HEAD],
            _ => &[Method::GET, Method::HEAD, Method::POST],
        };
        if !allowed.contains(&parts.method) {
            let mut answer = pages::error(405, "method_not_allowed", "That did not work", "Go back and try again.");
            let names: Vec<&str> = allowed.iter().map(Method::as_str).collect();
            if let Ok(names) = HeaderValue::from_str(&names.join(", ")) {
                answer.headers_mut().insert(ALLOW, names);
            }
            return answer;
        }
        let call = Call::read(parts, body);
        if let Some(address) = self.own_address(page, &call, parts) {
            return pages::redirect(&address);
        }
        match page {
            Page::Token => self.token(&call).await,
            Page::Revoke => self.revoke(&call).await,
            Page::UserInfo => self.user_info(&call),
            Page::Logout => self.log_out(&call),
            Page::IdpResponse => self.came_back(&call).await,
            _ => self.in_flow(page, &call).await,
        }
    }

    /// The same page under the cloud's own name, where a browser calls it by another of loopback's. Its cookies would be
    /// lost on the way to another provider, which comes back to the own name.
    fn own_address(&self, page: Page, call: &Call, parts: &Parts) -> Option<String> {
        let is_entered = matches!(page, Page::Authorize | Page::Login | Page::SignUp | Page::Logout) && !call.is_post();
        let (name, port) = call.host().rsplit_once(':')?;
        let own = self.0.site.base_url.strip_prefix("http://127.0.0.1:")?;
        let is_other_name = is_entered && port == own && (name == "localhost" || name == "[::1]");
        is_other_name
            .then(|| format!("{}{}", self.0.site.base_url, parts.uri.path_and_query().map_or("", |p| p.as_str())))
    }

    /// The pages of one sign-in: each carries the client's whole request.
    async fn in_flow(&self, page: Page, call: &Call) -> Answer {
        let find = |id: &str| self.user_pools().client(id).map(|(_, client)| client);
        let authorize = match Authorize::read(&call.query, find) {
            Ok(authorize) => authorize,
            Err(refusal) => return refused(&refusal),
        };
        if page == Page::Authorize {
            return self.authorize(call, &authorize).await;
        }
        if !call.is_post() {
            // Questions come from the pool only.
            let page = if page == Page::Challenge { Page::Login } else { page };
            return self.show(page, call, &authorize, &Said::default());
        }
        if call.is_foreign() || !self.is_own_form(call) {
            let said = Said::wrong("This form was open for too long or came from elsewhere. Please try again.");
            let mut answer = self.show(Page::Login, call, &authorize, &said);
            *answer.status_mut() = http::StatusCode::FORBIDDEN;
            return answer;
        }
        self.submitted(page, call, &authorize).await
    }

    async fn authorize(&self, call: &Call, authorize: &Authorize) -> Answer {
        let known = self.browser_of(call, &authorize.client_id).filter(|_| authorize.prompt != Prompt::Login);
        match known {
            Some(browser) => self.give_code(authorize, &browser),
            None if authorize.prompt == Prompt::None => {
                to_app(authorize, "login_required", "nobody has signed in with this browser")
            }
            None if authorize.provider.is_some() => self.send_to_provider(authorize).await,
            None => pages::redirect(&format!("{}?{}", Page::Login.path(), authorize.query())),
        }
    }

    /// The user has proven who they are: remembers the browser and gives the client its code.
    fn signed_in(&self, authorize: &Authorize, sub: &str) -> Answer {
        let Some((pool, _)) = self.user_pools().client(&authorize.client_id) else {
            return pages::error(400, "invalid_request", "That did not work", "The app is not known any more.");
        };
        let now_ms = self.0.site.now_ms();
        let browser = Browser { pool_id: pool.id.clone(), sub: sub.to_owned(), auth_time_s: now_ms / 1_000 };
        // Always a new name: nobody can have planted it.
        let name = self.0.browsers.put(browser.clone(), now_ms);
        let answer = self.give_code(authorize, &browser);
        with_cookie(answer, SESSION_COOKIE, &name, PAGE_SESSION_VALIDITY)
    }

    fn give_code(&self, authorize: &Authorize, browser: &Browser) -> Answer {
        let code = self.0.codes.put(CodeGrant::new(authorize, browser), self.0.site.now_ms());
        let fields = [("code", Some(code.as_str())), ("state", authorize.state.as_deref())];
        pages::redirect(&callback(&authorize.redirect_uri, &fields))
    }

    /// Ends the browser's session, then goes where the client registered, or to a new sign-in.
    fn log_out(&self, call: &Call) -> Answer {
        let find = |id: &str| self.user_pools().client(id).map(|(_, client)| client);
        let answer = match call.query.get("logout_uri") {
            Some(wanted) => {
                let client = find(call.query.text("client_id"));
                let registered = client.is_some_and(|client| client.logout_urls.iter().any(|known| known == wanted));
                if !registered {
                    let message = "This app asked to go on to an address that is not registered for it. Whoever looks \
                                   after it has to add its exact logout_uri to LogoutURLs.";
                    return pages::error(400, "redirect_mismatch", "You are still signed in", message);
                }
                let state = [("state", call.query.get("state"))];
                if state[0].1.is_some() { pages::redirect(&callback(wanted, &state)) } else { pages::redirect(wanted) }
            }
            None => match Authorize::read(&call.query, find) {
                Ok(authorize) => pages::redirect(&format!("{}?{}", Page::Login.path(), authorize.query())),
                Err(refusal) => return refused(&refusal),
            },
        };
        if let Some(name) = call.cookie(SESSION_COOKIE) {
            self.0.browsers.take(name, self.0.site.now_ms());
        }
        with_cookie(answer, SESSION_COOKIE, "", Duration::ZERO)
    }

    fn browser_of(&self, call: &Call, client_id: &str) -> Option<Browser> {
        let browser = self.0.browsers.get(call.cookie(SESSION_COOKIE)?, self.0.site.now_ms())?;
        let (pool, _) = self.user_pools().client(client_id)?;
        (pool.id == browser.pool_id && self.user_pools().is_active(&pool.id, &browser.sub)).then_some(browser)
    }

    fn allows_sign_up(&self, client_id: &str) -> bool {
        self.user_pools().client(client_id).is_some_and(|(pool, _)| pool.allow_sign_up)
    }

    fn user_pools(&self) -> &UserPools {
        &self.0.user_pools
    }

    /// The token that this browser's forms carry: the one of its cookie, or a new one.
    fn csrf_of(&self, call: &Call) -> String {
        let is_ours = |value: &&str| value.len() == random_name().len() && value.bytes().all(is_base64url);
        call.cookie(CSRF_COOKIE).filter(is_ours).map_or_else(random_name, str::to_owned)
    }

    fn with_csrf(&self, call: &Call, csrf: &str, answer: Answer) -> Answer {
        if call.cookie(CSRF_COOKIE) == Some(csrf) {
            return answer;
        }
        with_cookie(answer, CSRF_COOKIE, csrf, PAGE_SESSION_VALIDITY)
    }

    /// Whether a form carries what this browser's cookie says. Another site can send the cookie but not read it.
    fn is_own_form(&self, call: &Call) -> bool {
        let Some(cookie) = call.cookie(CSRF_COOKIE) else { return false };
        cookie.len() >= 32 && same(cookie, call.form.text("_csrf"))
    }
}

/// The client learns that its sign-in failed.
fn to_app(authorize: &Authorize, error: &'static str, description: impl Into<Cow<'static, str>>) -> Answer {
    refused(&Refusal::Redirect {
        redirect_uri: authorize.redirect_uri.clone(),
        state: authorize.state.clone(),
        error,
        description: description.into(),
    })
}

fn refused(refusal: &Refusal) -> Answer {
    match refusal {
        Refusal::Page(message) => pages::error(400, "redirect_mismatch", "This sign-in cannot begin", message),
        Refusal::Redirect { redirect_uri, state, error, description } => {
            let fields =
                [("error", Some(*error)), ("error_description", Some(description)), ("state", state.as_deref())];
            let mut answer = pages::redirect(&callback(redirect_uri, &fields));
            answer.extensions_mut().insert(ErrorCode((*error).to_owned()));
            answer
        }
    }
}

/// Sets a cookie that scripts cannot read and other sites' forms do not send; an age of zero removes it. `Lax`, because
/// a client's redirect to the page comes from elsewhere and has to find its session.
fn with_cookie(mut answer: Answer, name: &str, value: &str, age: Duration) -> Answer {
    let cookie = format!("{name}={value}; Path=/; HttpOnly; SameSite=Lax; Max-Age={}", age.as_secs());
    if let Ok(cookie) = HeaderValue::from_str(&cookie) {
        answer.headers_mut().append(SET_COOKIE, cookie);
    }
    answer
}

/// Compares in the same time whatever differs.
fn same(left: &str, right: &str) -> bool {
    aws_lc_rs::constant_time::verify_slices_are_equal(left.as_bytes(), right.as_bytes()).is_ok()
}

fn is_base64url(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_'
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_page_has_its_own_path_and_operation() {
        for (page, path, operation) in PAGES {
            assert_eq!((Page::at(path), page.path(), page.operation()), (Some(page), path, operation));
        }
        assert_eq!(Page::at("/login/"), None);
    }
}
