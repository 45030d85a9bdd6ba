//! What people see: one small page in plain words, without scripts or anything from elsewhere, with large targets for
//! fingers. Text is escaped by the template engine; no markup is ever put together by hand.

use http::Response;
use http::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderName, HeaderValue, LOCATION};
use http::header::{REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS};
use maud::{DOCTYPE, Markup, PreEscaped, html};

use crate::local_cloud::hosted_ui::{Answer, ErrorCode};

const STYLE: &str = include_str!("page.css");
/// The only script there is.
const SEND_FORM: &str = "document.forms[0].submit()";

/// What a page's security headers say of forms.
#[derive(Debug, Clone)]
pub enum Forms {
    /// They go to this cloud, which may then redirect to this address.
    Here(Option<String>),
    /// They may end at an address that the page does not know.
    Anywhere,
}

/// A whole page.
pub fn page(status: u16, title: &str, forms: &Forms, content: &Markup) -> Answer {
    let markup = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="robots" content="noindex";
                title { (title) }
                style { (PreEscaped(STYLE)) }
            }
            body { main { (content) } p.note { "Local cloud: a rehearsal of Cognito's sign-in page. Use no real password here." } }
        }
    };
    with_headers(status, markup.into_string(), forms)
}

/// An error on a page of its own.
pub fn error(status: u16, code: &str, title: &str, message: &str) -> Answer {
    let content = html! { h1 { (title) } p role="alert" { (message) } };
    let mut answer = page(status, title, &Forms::Here(None), &content);
    answer.extensions_mut().insert(ErrorCode(code.to_owned()));
    answer
}

/// Sends the browser on. A form's answer is fetched by `GET`, whatever the form was.
pub fn redirect(location: &str) -> Answer {
    let Ok(value) = HeaderValue::from_str(location) else {
        return error(400, "invalid_request", "That did not work", "The address to go on to is not valid.");
    };
    let mut answer = with_headers(303, String::new(), &Forms::Here(None));
    answer.headers_mut().insert(LOCATION, value);
    answer
}

/// Sends the browser on with a form, as `response_mode=form_post` asks: by itself where scripts run, else by a button.
pub fn form_post(address: &str, fields: &[(&str, &str)]) -> Answer {
    let content = html! {
        (heading("Almost there", "You are being sent back.", None, None))
        form method="post" action=(address) {
            @for (name, value) in fields { input type="hidden" name=(name) value=(value); }
            button type="submit" { "Continue" }
        }
        script { (PreEscaped(SEND_FORM)) }
    };
    page(200, "Almost there", &Forms::Anywhere, &content)
}

/// What kind of field, as browsers' helpers know it.
#[derive(Debug, Clone, Copy)]
pub enum Kind {
    /// An e-mail address or user name.
    Name,
    /// The password in use.
    Password,
    /// A password to be.
    NewPassword,
    /// A code that was sent or shown.
    Code,
}

/// A labelled field.
pub fn field(name: &str, label: &str, kind: Kind, value: &str, focused: bool) -> Markup {
    let (input, completion) = match kind {
        Kind::Name => ("text", "username"),
        Kind::Password => ("password", "current-password"),
        Kind::NewPassword => ("password", "new-password"),
        Kind::Code => ("text", "one-time-code"),
    };
    let mode = match kind {
        Kind::Name => Some("email"),
        Kind::Code => Some("numeric"),
        Kind::Password | Kind::NewPassword => None,
    };
    html! {
        label for=(name) { (label) }
        input id=(name) name=(name) type=(input) autocomplete=(completion) inputmode=[mode] value=[(!value.is_empty()).then_some(value)]
            autocapitalize="none" spellcheck="false" required autofocus[focused];
    }
}

/// What a form says of itself.
#[derive(Debug)]
pub struct Form<'f> {
    /// Where it goes, with the sign-in's query.
    pub action: &'f str,
    /// The token against forged forms.
    pub csrf: &'f str,
    /// Fields that nobody sees.
    pub hidden: &'f [(&'f str, &'f str)],
    /// The button.
    pub button: &'f str,
}

/// A form around its fields.
pub fn form(form: &Form<'_>, fields: &Markup) -> Markup {
    html! {
        form method="post" action=(form.action) {
            input type="hidden" name="_csrf" value=(form.csrf);
            @for (name, value) in form.hidden { input type="hidden" name=(name) value=(value); }
            (fields)
            button type="submit" { (form.button) }
        }
    }
}

/// A heading, and what went wrong or well before.
pub fn heading(title: &str, below: &str, error: Option<&str>, notice: Option<&str>) -> Markup {
    html! {
        h1 { (title) }
        @if !below.is_empty() { p.below { (below) } }
        @if let Some(error) = error { p.error role="alert" { (error) } }
        @if let Some(notice) = notice { p.notice role="status" { (notice) } }
    }
}

fn with_headers(status: u16, body: String, forms: &Forms) -> Answer {
    let form_action = match forms {
        Forms::Anywhere => String::new(),
        Forms::Here(None) => "; form-action 'self'".to_owned(),
        // Browsers hold a form's redirects against this, too.
        Forms::Here(Some(address)) => format!("; form-action 'self' {}", source_of(address)),
    };
    let policy = format!(
        "default-src 'none'; style-src '{}'; script-src '{}'; base-uri 'none'; frame-ancestors 'none'{form_action}",
        hash(STYLE),
        hash(SEND_FORM)
    );
    let mut answer = Response::new(body);
    *answer.status_mut() = http::StatusCode::from_u16(status).unwrap_or(http::StatusCode::INTERNAL_SERVER_ERROR);
    let fixed: [(HeaderName, &'static str); 5] = [
        (CONTENT_TYPE, "text/html; charset=utf-8"),
        (CACHE_CONTROL, "no-store"),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (X_FRAME_OPTIONS, "DENY"),
        // The query holds the client's state; a form still says where it comes from.
        (REFERRER_POLICY, "same-origin"),
    ];
    for (name, value) in fixed {
        answer.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    if let Ok(policy) = HeaderValue::from_str(&policy) {
        answer.headers_mut().insert(CONTENT_SECURITY_POLICY, policy);
    }
    answer
}

/// A redirect's address as the policy names it: its origin, or the scheme of an app's own.
fn source_of(address: &str) -> String {
    let Ok(url) = reqwest::Url::parse(address) else { return String::new() };
    let origin = url.origin();
    if origin.is_tuple() { origin.ascii_serialization() } else { format!("{}:", url.scheme()) }
}

fn hash(text: &str) -> String {
    use base64::Engine as _;
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, text.as_bytes());
    format!("sha256-{}", base64::engine::general_purpose::STANDARD.encode(digest.as_ref()))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn what_people_type_is_text() {
        let typed = "\"><script>alert(1)</script>";
        let fields = field("username", "E-mail", Kind::Name, typed, true);
        let answer =
            page(200, typed, &Forms::Here(None), &html! { (heading(typed, typed, Some(typed), None)) (fields) });
        assert!(!answer.body().contains("<script") && answer.body().contains("&lt;script&gt;"), "{}", answer.body());
        assert!(!answer.body().contains("\">&lt;") && answer.body().contains("&quot;&gt;"));
    }

    #[test]
    fn forms_go_here_and_to_the_one_redirect() {
        let policy = |forms: &Forms| {
            let answer = page(200, "t", forms, &html! {});
            answer.headers()[CONTENT_SECURITY_POLICY].to_str().unwrap().to_owned()
        };
        let to = |address: &str| policy(&Forms::Here(Some(address.to_owned())));
        assert!(to("http://127.0.0.1:8484/cb?x=1").ends_with("form-action 'self' http://127.0.0.1:8484"));
        assert!(to("photos://signed-in").ends_with("form-action 'self' photos:"));
        assert!(policy(&Forms::Here(None)).ends_with("form-action 'self'"));
        assert!(!policy(&Forms::Anywhere).contains("form-action"));
        assert!(!policy(&Forms::Anywhere).contains("unsafe"));
    }

    #[test]
    fn a_redirect_holds_no_further_header() {
        assert_eq!(redirect("http://127.0.0.1/\r\nSet-Cookie: a=b").status(), 400);
        assert_eq!(redirect("http://127.0.0.1/cb?code=1").headers()[LOCATION], "http://127.0.0.1/cb?code=1");
    }
}
