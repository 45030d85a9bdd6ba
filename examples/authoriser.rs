//! A small REST API behind a JWT authoriser: what a session's tokens are for, besides the credentials for S3.
//!
//! In front of the API stands what API Gateway does for an HTTP API (signature by the pool's key set, issuer, audience or
//! `client_id`, expiry, scopes); the groups are looked at by the API itself. With `tidegate demo --keep` running:
//!
//! ```sh
//! cargo run --example authoriser -- --issuer http://127.0.0.1:4566/us-east-1_… --client-id …
//! curl -H "Authorization: Bearer $(tidegate tokens)" http://127.0.0.1:8088/me
//! curl -H "Authorization: Bearer $(tidegate tokens --access-token)" http://127.0.0.1:8088/albums
//! curl -H "Authorization: Bearer $(tidegate tokens)" http://127.0.0.1:8088/premium
//! ```
//!
//! Ask Tidegate for a token before each call, as here: it answers from memory, and refreshes an ID token that has little
//! time left. A new tier is in the next token.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use clap::Parser;
use http::{HeaderValue, Request, Response, StatusCode, header};
use serde_json::json;
use tidegate::clock::Clock;
use tidegate::local_cloud::api_gateway::{Authoriser, Denied, Route};
use tidegate::loopback;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// Cognito's own scope, which access tokens of a sign-in by password have. A pool with a resource server has the team's.
const SCOPE: &str = "aws.cognito.signin.user.admin";

#[derive(Parser)]
struct Args {
    /// The user pool: `https://cognito-idp.REGION.amazonaws.com/POOL`, or the local cloud's URL and the pool's id.
    #[arg(long)]
    issuer: String,
    /// The app client that tokens must be made for; may be repeated.
    #[arg(long, required = true)]
    client_id: Vec<String>,
    /// Where the API listens.
    #[arg(long, default_value = "127.0.0.1:8088")]
    listen: SocketAddr,
}

#[tokio::main]
async fn main() -> std::io::Result<()> {
    let args = Args::parse();
    let listener = loopback::listen(args.listen)?;
    println!("the API is at http://{}", listener.local_addr()?);
    serve(listener, Authoriser::new(args.issuer, args.client_id, Clock::system())).await;
    Ok(())
}

/// Serves the API for ever.
pub async fn serve(listener: TcpListener, authoriser: Authoriser) {
    let limits = loopback::Limits {
        max_connections: 64,
        connection_timeout: Duration::from_secs(10),
        max_header_bytes: 32 * 1024,
    };
    let authoriser = Arc::new(authoriser);
    let answer = move |request: Request<_>| {
        let authoriser = Arc::clone(&authoriser);
        async move { answer(&authoriser, &request).await }
    };
    loopback::serve(listener, limits, CancellationToken::new(), answer).await;
}

/// What each path asks for; `None` where there is nothing.
fn route(path: &str) -> Option<Route> {
    Some(match path {
        // Every user of the app, by ID token or access token.
        "/me" => Route::default(),
        // Scopes are in access tokens only: an ID token does not open this.
        "/albums" => Route { scopes: vec![SCOPE.to_owned()], ..Route::default() },
        // The tier is the group, which nothing that the client says can choose.
        "/premium" => Route { groups: vec!["paid-tier".to_owned()], ..Route::default() },
        _ => return None,
    })
}

async fn answer<B>(authoriser: &Authoriser, request: &Request<B>) -> Response<String> {
    let Some(route) = route(request.uri().path()) else {
        return response(StatusCode::NOT_FOUND, r#"{"message":"Not Found"}"#.to_owned());
    };
    let authorization = request.headers().get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    match authoriser.authorise(authorization, &route).await {
        // What API Gateway hands to the service: the claims, which are proven now.
        Ok(claims) => response(StatusCode::OK, json!({ "you_are": claims["sub"], "claims": claims }).to_string()),
        Err(denied) => refused(&denied),
    }
}

fn refused(denied: &Denied) -> Response<String> {
    let mut response = response(denied.status(), denied.body().to_owned());
    if let Ok(challenge) = HeaderValue::from_str(&denied.challenge()) {
        response.headers_mut().insert(header::WWW_AUTHENTICATE, challenge);
    }
    response
}

fn response(status: StatusCode, body: String) -> Response<String> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}
