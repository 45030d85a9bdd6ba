//! Which service a request is for, told from its head alone.

use http::Method;
use http::request::Parts;

use crate::local_cloud::hosted_ui::Page;
use crate::local_cloud::oidc_provider::{self, Brand, Document};
use crate::local_cloud::s3::{S3Target, operation_of};

/// Where a request goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Route {
    /// The local cloud's own pages: what stands behind `/_tidegate/`.
    Admin(String),
    /// `AWSCognitoIdentityProviderService`.
    UserPool(String),
    /// `AWSCognitoIdentityService`.
    IdentityPool(String),
    /// A target that no service here has.
    UnknownTarget(String),
    /// STS; the action is in the form.
    Sts,
    /// A user pool's (or the identity pools') `/.well-known/…`.
    WellKnown {
        /// The user pool's id; none for the identity pools.
        pool: Option<String>,
        /// `jwks.json`, `jwks_uri` or `openid-configuration`.
        document: String,
    },
    /// The hosted sign-in page.
    HostedUi(Page),
    /// A stand-in for Google or Apple.
    OidcProvider(Brand, Document),
    /// S3, path style.
    S3(&'static str, S3Target),
}

/// Decides by the documented marks of each protocol.
pub fn route(parts: &Parts) -> Route {
    let path = parts.uri.path();
    if let Some(rest) = path.strip_prefix("/_tidegate/") {
        if let Some((brand, document)) = oidc_provider::at(rest) {
            return Route::OidcProvider(brand, document);
        }
        return Route::Admin(rest.to_owned());
    }
    let header = |name: &str| parts.headers.get(name).and_then(|value| value.to_str().ok());
    if let Some(target) = header("x-amz-target") {
        return match target.split_once('.') {
            Some(("AWSCognitoIdentityProviderService", action)) => Route::UserPool(action.to_owned()),
            Some(("AWSCognitoIdentityService", action)) => Route::IdentityPool(action.to_owned()),
            _ => Route::UnknownTarget(target.to_owned()),
        };
    }
    let form = header("content-type").is_some_and(|kind| kind.starts_with("application/x-www-form-urlencoded"));
    let asks = |query: &str| query.split('&').any(|pair| pair.starts_with("Action="));
    if path == "/" && ((parts.method == Method::POST && form) || parts.uri.query().is_some_and(asks)) {
        return Route::Sts;
    }
    if parts.method == Method::GET
        && let Some((pool, document)) = path.trim_start_matches('/').split_once(".well-known/")
        && pool.matches('/').count() <= 1
        && (pool.is_empty() || pool.contains('_'))
    {
        let pool = pool.trim_end_matches('/');
        let pool = (!pool.is_empty()).then(|| pool.to_owned());
        return Route::WellKnown { pool, document: document.to_owned() };
    }
    if let Some(page) = Page::at(path) {
        return Route::HostedUi(page);
    }
    let copies = parts.headers.contains_key("x-amz-copy-source");
    let (operation, target) = operation_of(&parts.method, path, parts.uri.query(), copies);
    Route::S3(operation, target)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn of(request: http::request::Builder) -> Route {
        route(&request.body(()).unwrap().into_parts().0)
    }

    #[test]
    fn each_protocol_has_its_mark() {
        let target = |target: &str| of(http::Request::post("/").header("x-amz-target", target));
        assert_eq!(target("AWSCognitoIdentityProviderService.SignUp"), Route::UserPool("SignUp".into()));
        assert_eq!(target("AWSCognitoIdentityService.GetId"), Route::IdentityPool("GetId".into()));
        assert_eq!(target("DynamoDB_20120810.GetItem"), Route::UnknownTarget("DynamoDB_20120810.GetItem".into()));
        let form = "application/x-www-form-urlencoded; charset=utf-8";
        assert_eq!(of(http::Request::post("/").header("content-type", form)), Route::Sts);
        assert_eq!(of(http::Request::get("/?Action=GetCallerIdentity&Version=2011-06-15")), Route::Sts);
        assert_eq!(of(http::Request::get("/login?client_id=x")), Route::HostedUi(Page::Login));
        assert_eq!(of(http::Request::post("/oauth2/token").header("content-type", form)), Route::HostedUi(Page::Token));
        assert_eq!(of(http::Request::get("/_tidegate/health")), Route::Admin("health".into()));
        assert_eq!(
            of(http::Request::get("/us-east-1_Pool/.well-known/jwks.json")),
            Route::WellKnown { pool: Some("us-east-1_Pool".into()), document: "jwks.json".into() }
        );
    }

    #[test]
    fn everything_else_is_s3() {
        assert!(matches!(of(http::Request::get("/")), Route::S3("s3:ListBuckets", _)));
        assert!(matches!(of(http::Request::get("/bucket/.well-known/jwks.json")), Route::S3("s3:GetObject", _)));
        assert!(matches!(of(http::Request::put("/bucket/a/b/.well-known/x")), Route::S3("s3:PutObject", _)));
    }
}
