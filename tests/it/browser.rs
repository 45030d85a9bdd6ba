//! A person with a browser, in so far as the hosted page needs one: keeps cookies, follows redirects of one host, fills
//! in forms. Knows nothing of OAuth.

use std::collections::BTreeMap;

use reqwest::header::{COOKIE, LOCATION, ORIGIN, SET_COOKIE};
use reqwest::redirect::Policy;
use reqwest::{Client, Response, StatusCode};

/// The most redirects in a row.
const MOST_REDIRECTS: usize = 20;

/// A browser with its cookies.
pub struct Browser {
    client: Client,
    /// The host that it follows redirects within.
    home: String,
    pub cookies: BTreeMap<String, String>,
}

/// What the browser shows, or where it was sent away to.
#[derive(Debug, Clone)]
pub struct Shown {
    pub status: u16,
    /// The address of the page, or the one outside that the last redirect names.
    pub address: String,
    pub body: String,
    pub headers: reqwest::header::HeaderMap,
}

impl Browser {
    pub fn new(home: &str) -> Self {
        let client = Client::builder().redirect(Policy::none()).no_proxy().build().unwrap();
        Self { client, home: home.to_owned(), cookies: BTreeMap::new() }
    }

    /// Opens an address, relative to home or not.
    pub async fn open(&mut self, address: &str) -> Shown {
        self.go(address.to_owned(), None).await
    }

    /// Sends the form of a page with these fields in the place of its own.
    pub async fn submit(&mut self, page: &Shown, fields: &[(&str, &str)]) -> Shown {
        let action = attribute(&page.body, "<form", "action").expect("the page has a form");
        let mut form: BTreeMap<String, String> = BTreeMap::new();
        for input in page.body.split("<input").skip(1) {
            let input = input.split('>').next().unwrap();
            let kind = attribute(input, "", "type").unwrap_or_default();
            let chosen = !["checkbox", "radio"].contains(&kind.as_str()) || input.contains(" checked");
            if let (Some(name), true) = (attribute(input, "", "name"), chosen) {
                form.insert(name, attribute(input, "", "value").unwrap_or_default());
            }
        }
        form.extend(fields.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
        self.go(action, Some(form)).await
    }

    /// Follows the link with these words.
    pub async fn follow(&mut self, page: &Shown, words: &str) -> Shown {
        let before = &page.body[..page.body.find(words).unwrap_or_else(|| panic!("no {words:?} in {}", page.body))];
        let link = &before[before.rfind("<a").expect("the words are in a link")..];
        let address = attribute(link, "", "href").expect("a link leads somewhere");
        self.open(&address).await
    }

    async fn go(&mut self, address: String, form: Option<BTreeMap<String, String>>) -> Shown {
        let (mut address, mut form) = (self.absolute(&address), form);
        for _ in 0..MOST_REDIRECTS {
            let answer = self.send(&address, form.take()).await;
            self.keep_cookies(&answer);
            let (status, headers) = (answer.status(), answer.headers().clone());
            let next = headers.get(LOCATION).map(|value| self.absolute(value.to_str().unwrap()));
            let is_redirect = [StatusCode::SEE_OTHER, StatusCode::FOUND].contains(&status);
            match next.filter(|_| is_redirect) {
                Some(next) if next.starts_with(&format!("{}/", self.home)) => address = next,
                Some(next) => return Shown { status: status.as_u16(), address: next, body: String::new(), headers },
                None => {
                    let body = answer.text().await.unwrap();
                    return Shown { status: status.as_u16(), address, body, headers };
                }
            }
        }
        panic!("redirected in a circle at {address}");
    }

    async fn send(&self, address: &str, form: Option<BTreeMap<String, String>>) -> Response {
        let mut request = match &form {
            Some(form) => self.client.post(address).header(ORIGIN, &self.home).body(encode(form)),
            None => self.client.get(address),
        };
        if form.is_some() {
            request = request.header("content-type", "application/x-www-form-urlencoded");
        }
        let cookies: Vec<_> = self.cookies.iter().map(|(name, value)| format!("{name}={value}")).collect();
        if !cookies.is_empty() {
            request = request.header(COOKIE, cookies.join("; "));
        }
        request.send().await.unwrap()
    }

    fn keep_cookies(&mut self, answer: &Response) {
        for line in answer.headers().get_all(SET_COOKIE) {
            let line = line.to_str().unwrap();
            let (name, rest) = line.split_once('=').unwrap();
            let value = rest.split(';').next().unwrap();
            assert!(line.contains("; HttpOnly") && line.contains("; SameSite=Lax"), "{line}");
            if line.contains("Max-Age=0") {
                self.cookies.remove(name);
            } else {
                self.cookies.insert(name.to_owned(), value.to_owned());
            }
        }
    }

    fn absolute(&self, address: &str) -> String {
        if address.starts_with('/') { format!("{}{address}", self.home) } else { address.to_owned() }
    }
}

impl Shown {
    /// A field of the address's query.
    pub fn query(&self, name: &str) -> Option<String> {
        let address = reqwest::Url::parse(&self.address).unwrap();
        address.query_pairs().find(|(found, _)| found == name).map(|(_, value)| value.into_owned())
    }

    /// The error that the page shows.
    pub fn alert(&self) -> Option<&str> {
        let (_, rest) = self.body.split_once("role=\"alert\">")?;
        rest.split('<').next()
    }

    /// The heading.
    pub fn title(&self) -> &str {
        self.body.split_once("<h1>").and_then(|(_, rest)| rest.split('<').next()).unwrap_or_default()
    }
}

/// A form's body, or a query.
pub fn encode<'f>(fields: impl IntoIterator<Item = (&'f String, &'f String)>) -> String {
    let mut address = reqwest::Url::parse("http://form/").unwrap();
    address.query_pairs_mut().extend_pairs(fields);
    address.query().unwrap_or_default().to_owned()
}

fn attribute(text: &str, tag: &str, name: &str) -> Option<String> {
    let text = &text[text.find(tag)?..];
    let (_, rest) = text.split_once(&format!(" {name}=\""))?;
    let value = rest.split('"').next()?;
    let entities = [("&quot;", "\""), ("&lt;", "<"), ("&gt;", ">"), ("&amp;", "&")];
    Some(entities.iter().fold(value.to_owned(), |value, (entity, character)| value.replace(entity, character)))
}
