//! A browser, in so far as the hosted page needs one: it keeps cookies, follows redirects within the cloud, and fills in
//! the one form of a page. Somebody's fingers, not a check of the page.

use std::collections::BTreeMap;

use reqwest::header::{COOKIE, LOCATION, ORIGIN, SET_COOKIE};
use reqwest::redirect::Policy;
use reqwest::{Client, Response, Url};

use super::super::exit::CliError;

/// The most redirects in a row, as browsers have it.
const MOST_REDIRECTS: usize = 20;

/// A browser with its cookies.
#[derive(Debug)]
pub(super) struct Browser {
    client: Client,
    cookies: BTreeMap<String, String>,
}

/// Where the browser is.
#[derive(Debug)]
pub(super) enum Place {
    /// At a page of the cloud.
    Page {
        /// Its address.
        address: Url,
        /// Its HTML.
        html: String,
    },
    /// Sent away from the cloud, to the app.
    Away(Url),
}

impl Browser {
    pub(super) fn new() -> Result<Self, CliError> {
        let client = Client::builder().redirect(Policy::none()).no_proxy().build().map_err(|error| failed(&error))?;
        Ok(Self { client, cookies: BTreeMap::new() })
    }

    /// Opens an address and goes where it leads.
    pub(super) async fn open(&mut self, address: &str) -> Result<Place, CliError> {
        let address = Url::parse(address).map_err(|error| failed(&error))?;
        self.go(address, None).await
    }

    /// Fills in the form of a page and sends it.
    pub(super) async fn submit(&mut self, place: &Place, fields: &[(&str, &str)]) -> Result<Place, CliError> {
        let Place::Page { address, html } = place else {
            return Err(CliError::failed("the browser is not at a page with a form"));
        };
        let action = value_of(html, "<form", "action").unwrap_or_default();
        let action = address.join(&action).map_err(|error| failed(&error))?;
        let mut form = BTreeMap::new();
        for input in html.split("<input").skip(1) {
            let input = input.split('>').next().unwrap_or_default();
            let is_sent = !input.contains("\"checkbox\"") || input.contains(" checked");
            if let Some(name) = value_of(input, "", "name").filter(|_| is_sent) {
                form.insert(name, value_of(input, "", "value").unwrap_or_default());
            }
        }
        form.extend(fields.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
        self.go(action, Some(form)).await
    }

    async fn go(&mut self, start: Url, mut form: Option<BTreeMap<String, String>>) -> Result<Place, CliError> {
        let mut address = start.clone();
        for _ in 0..MOST_REDIRECTS {
            let answer = self.send(&address, form.take()).await?;
            self.keep_cookies(&answer);
            let next = answer.headers().get(LOCATION).and_then(|next| next.to_str().ok()).map(str::to_owned);
            let Some(next) = next.filter(|_| answer.status().is_redirection()) else {
                let html = answer.text().await.map_err(|error| failed(&error))?;
                return Ok(Place::Page { address, html });
            };
            address = address.join(&next).map_err(|error| failed(&error))?;
            if address.origin() != start.origin() {
                return Ok(Place::Away(address));
            }
        }
        Err(CliError::failed(format!("the page redirects in a circle at {}", address.path())))
    }

    async fn send(&self, address: &Url, form: Option<BTreeMap<String, String>>) -> Result<Response, CliError> {
        let mut request = match form {
            None => self.client.get(address.clone()),
            Some(form) => {
                let mut body = address.clone();
                body.set_query(None);
                body.query_pairs_mut().extend_pairs(form);
                let request = self.client.post(address.clone()).header(ORIGIN, address.origin().ascii_serialization());
                let request = request.header("content-type", "application/x-www-form-urlencoded");
                request.body(body.query().unwrap_or_default().to_owned())
            }
        };
        let cookies: Vec<_> = self.cookies.iter().map(|(name, value)| format!("{name}={value}")).collect();
        if !cookies.is_empty() {
            request = request.header(COOKIE, cookies.join("; "));
        }
        request.send().await.map_err(|error| failed(&error))
    }

    fn keep_cookies(&mut self, answer: &Response) {
        for line in answer.headers().get_all(SET_COOKIE).iter().filter_map(|line| line.to_str().ok()) {
            let Some((name, rest)) = line.split_once('=') else { continue };
            if line.contains("Max-Age=0") {
                self.cookies.remove(name);
            } else {
                self.cookies.insert(name.to_owned(), rest.split(';').next().unwrap_or_default().to_owned());
            }
        }
    }
}

impl Place {
    /// Where the browser was sent to.
    pub(super) fn away(self) -> Result<Url, CliError> {
        match self {
            Self::Away(address) => Ok(address),
            Self::Page { address, html } => {
                let heading = html.split_once("<h1>").and_then(|(_, rest)| rest.split('<').next()).unwrap_or_default();
                Err(CliError::failed(format!("the browser is still at {}: {heading}", address.path())))
            }
        }
    }
}

/// The value of an attribute of the first `tag`.
fn value_of(html: &str, tag: &str, name: &str) -> Option<String> {
    let html = &html[html.find(tag)?..];
    let (_, rest) = html.split_once(&format!(" {name}=\""))?;
    let value = rest.split('"').next()?;
    let entities = [("&quot;", "\""), ("&lt;", "<"), ("&gt;", ">"), ("&amp;", "&")];
    Some(entities.iter().fold(value.to_owned(), |value, (entity, character)| value.replace(entity, character)))
}

fn failed(error: &dyn std::error::Error) -> CliError {
    CliError::failed(format!("the browser: {error}"))
}
