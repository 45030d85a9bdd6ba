//! Answers in the shapes of the services: JSON 1.1, STS's XML, S3's XML.

use http::header::{CONTENT_TYPE, DATE};
use http::{HeaderValue, Response, StatusCode};
use s3s::Body;
use s3s::dto::{Timestamp, TimestampFormat};
use serde_json::{Value, json};

use crate::clock::Clock;
use crate::local_cloud::error::AwsError;
use crate::local_cloud::hosted_ui::ErrorCode;
use crate::local_cloud::site::new_uuid;

/// An answer.
pub type Reply = Response<Body>;

/// Which shape a service's errors have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// `{"__type": …}`.
    Json,
    /// STS's `ErrorResponse`.
    Query,
    /// S3's `Error`.
    S3,
    /// OAuth's `{"error": …}`.
    OAuth,
}

/// A JSON 1.1 answer.
pub fn json_call(result: Result<Value, AwsError>) -> Reply {
    match result {
        // Operations without a result answer with nothing in them.
        Ok(value) => with_type(200, "application/x-amz-json-1.1", value.to_string()),
        Err(error) => failure(Shape::Json, error.status, error.code, &error.message),
    }
}

/// A page of the local cloud's own.
pub fn page(status: u16, value: &Value) -> Reply {
    with_type(status, "application/json", format!("{value:#}\n"))
}

/// An error in the service's shape.
pub fn failure(shape: Shape, status: u16, code: &str, message: &str) -> Reply {
    let request_id = new_uuid();
    let (code, text) = (escape(code), escape(message));
    match shape {
        Shape::Json => {
            let body = json!({"__type": code, "message": message}).to_string();
            let mut reply = with_type(status, "application/x-amz-json-1.1", body);
            if let Ok(code) = HeaderValue::from_str(&format!("{code}:")) {
                reply.headers_mut().insert("x-amzn-errortype", code);
            }
            reply
        }
        Shape::OAuth => {
            let body = json!({"error": code, "error_description": message}).to_string();
            let mut reply = with_type(status, "application/json", body);
            reply.extensions_mut().insert(ErrorCode(code));
            reply
        }
        Shape::Query => {
            let kind = if status < 500 { "Sender" } else { "Receiver" };
            let body = format!(
                "<ErrorResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\">\n<Error><Type>{kind}</Type>\
                 <Code>{code}</Code><Message>{text}</Message></Error>\n<RequestId>{request_id}</RequestId>\n\
                 </ErrorResponse>\n"
            );
            with_type(status, "text/xml", body)
        }
        Shape::S3 => {
            let body = format!(
                "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error><Code>{code}</Code><Message>{text}</Message>\
                 <RequestId>{request_id}</RequestId></Error>"
            );
            with_type(status, "application/xml", body)
        }
    }
}

/// An answer with this type and text.
pub fn with_type(status: u16, kind: &'static str, body: String) -> Reply {
    let mut reply = Response::new(Body::from(body));
    *reply.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    reply.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    reply
}

/// Gives the answer its date and its ids.
pub fn seal(mut reply: Reply, shape: Shape, clock: &Clock) -> Reply {
    let mut date = Vec::new();
    let formatted = Timestamp::from(clock.wall()).format(TimestampFormat::HttpDate, &mut date);
    let headers = reply.headers_mut();
    if formatted.is_ok()
        && let Ok(date) = HeaderValue::from_bytes(&date)
    {
        headers.insert(DATE, date);
    }
    let Ok(id) = HeaderValue::from_str(&new_uuid()) else { return reply };
    match shape {
        Shape::Json | Shape::Query | Shape::OAuth => {
            headers.insert("x-amzn-requestid", id);
        }
        Shape::S3 => {
            headers.insert("x-amz-id-2", id.clone());
            headers.insert("x-amz-request-id", id);
            headers.insert("server", HeaderValue::from_static("AmazonS3"));
        }
    }
    reply
}

/// The error code of an answer; none where it is no error or does not say.
pub fn code_of(reply: &Reply) -> Option<String> {
    if let Some(ErrorCode(code)) = reply.extensions().get() {
        return Some(code.clone());
    }
    if !(reply.status().is_client_error() || reply.status().is_server_error()) {
        return None;
    }
    if let Some(code) = reply.headers().get("x-amzn-errortype").and_then(|code| code.to_str().ok()) {
        return Some(code.trim_end_matches(':').to_owned());
    }
    let bytes = reply.body().bytes()?;
    let text = std::str::from_utf8(&bytes).ok()?;
    let (_, rest) = text.split_once("<Code>")?;
    Some(rest.split_once("</Code>")?.0.to_owned())
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_shape_says_its_code() {
        for shape in [Shape::Json, Shape::Query, Shape::S3, Shape::OAuth] {
            let reply = failure(shape, 503, "SlowDown", "a < b & c");
            assert_eq!(code_of(&reply).as_deref(), Some("SlowDown"));
            let reply = seal(reply, shape, &Clock::system());
            assert!(reply.headers().contains_key(DATE));
        }
        assert_eq!(code_of(&with_type(200, "text/xml", "<Code>x</Code>".into())), None);
    }
}
