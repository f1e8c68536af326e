//! Errors in the format that OpenAI's clients read.

use std::fmt::Display;

use axum::body::Body;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use esolm::plan::PlanError;
use esolm::text::{TemplateError, TextError};
use esolm::{Error, LikelihoodError, RequestError, SamplerError, ServingError};
use serde::Serialize;

/// Seconds after which a client that found the queue full should retry.
const RETRY_SECONDS: &str = "1";
/// Maximum characters of a client's own words that a message repeats.
const SHOWN: usize = 80;

/// An error response.
#[derive(Debug)]
pub struct ApiError {
    pub status: StatusCode,
    pub message: String,
    /// The offending field.
    pub param: Option<String>,
    /// A machine-readable code.
    pub code: Option<&'static str>,
}

/// The object `error` of a response.
#[derive(Serialize)]
struct Told<'a> {
    message: &'a str,
    r#type: &'static str,
    param: Option<&'a str>,
    code: Option<&'static str>,
}

#[derive(Serialize)]
struct Wrapped<'a> {
    error: Told<'a>,
}

impl ApiError {
    /// An error in a field.
    pub fn field(param: &str, message: impl Into<String>) -> Self {
        Self {
            param: Some(param.into()),
            ..Self::of(StatusCode::BAD_REQUEST, message)
        }
    }

    /// A field of the library's is out of its range.
    fn out_of_range(option: &'static str, value: &dyn Display, range: &str) -> Self {
        let name = named(option);
        Self::field(name, format!("{name} is {value}; it must be {range}"))
    }

    /// A field of the library's that the model does not have.
    fn not_applicable(option: &'static str, why: &str) -> Self {
        let name = named(option);
        Self::field(
            name,
            format!("{name} does not apply to {why}; leave it out"),
        )
    }

    /// An error that does not concern a field.
    pub fn of(status: StatusCode, message: impl Into<String>) -> Self {
        Self {
            status,
            message: message.into(),
            param: None,
            code: None,
        }
    }

    /// Adds a machine-readable code.
    pub fn with_code(self, code: &'static str) -> Self {
        let code = Some(code);
        Self { code, ..self }
    }

    /// As JSON.
    pub fn json(&self) -> String {
        let r#type = match self.status {
            StatusCode::TOO_MANY_REQUESTS => "rate_limit_error",
            status if status.is_server_error() => "server_error",
            StatusCode::UNAUTHORIZED => "authentication_error",
            StatusCode::FORBIDDEN => "permission_error",
            _ => "invalid_request_error",
        };
        let error = Told {
            message: &self.message,
            r#type,
            param: self.param.as_deref(),
            code: self.code,
        };
        serde_json::to_string(&Wrapped { error }).unwrap_or_default()
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = Response::new(Body::from(self.json()));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        let json = HeaderValue::from_static("application/json");
        headers.insert(header::CONTENT_TYPE, json);
        match self.status {
            StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => {
                let seconds = HeaderValue::from_static(RETRY_SECONDS);
                headers.insert(header::RETRY_AFTER, seconds);
            }
            StatusCode::UNAUTHORIZED => {
                let scheme = HeaderValue::from_static("Bearer");
                headers.insert(header::WWW_AUTHENTICATE, scheme);
            }
            _ => {}
        }
        response
    }
}

/// Words of a client, quoted in a message: on one line, of bounded length.
pub fn quoted(words: &str) -> String {
    let mut shown: String = words.chars().take(SHOWN).collect();
    if shown.len() < words.len() {
        shown.push_str("...");
    }
    format!("{shown:?}")
}

impl From<ServingError> for ApiError {
    fn from(error: ServingError) -> Self {
        let message = error.to_string();
        match error {
            ServingError::Busy { .. } => {
                Self::of(StatusCode::TOO_MANY_REQUESTS, message).with_code("queue_full")
            }
            ServingError::TooMany { .. } => Self::field("n", message),
            ServingError::TooLong { .. } => Self::field("max_tokens", message),
            ServingError::Unavailable(_) => {
                Self::of(StatusCode::SERVICE_UNAVAILABLE, message).with_code("no_device")
            }
            ServingError::Model(error) => error.into(),
        }
    }
}

impl From<Error> for ApiError {
    fn from(error: Error) -> Self {
        let message = error.to_string();
        match error {
            Error::Request(error) => error.into(),
            Error::Plan(error) => plan(&error),
            Error::Text(_) => Self::field("prompt", message),
            Error::Range {
                option,
                value,
                range,
            } => Self::out_of_range(option, &value, &range),
            Error::NotApplicable { option, why } => Self::not_applicable(option, why),
            Error::Likelihood(LikelihoodError::NoExact(what)) => Self::field(
                "echo",
                format!(
                    "{what} has no exact log-probabilities of given tokens; leave out echo, or logprobs"
                ),
            ),
            Error::Likelihood(LikelihoodError::Token { .. }) | Error::LongSequences { .. } => {
                Self::field("prompt", message)
            }
            _ => Self::of(StatusCode::INTERNAL_SERVER_ERROR, message),
        }
    }
}

impl From<RequestError> for ApiError {
    fn from(error: RequestError) -> Self {
        let message = error.to_string();
        match error {
            RequestError::Length { .. } | RequestError::PromptTooLong { .. } => {
                Self::field("max_tokens", message)
            }
            RequestError::Batch { .. } => Self::field("n", message),
            RequestError::Range {
                option,
                value,
                range,
            } => Self::out_of_range(option, &value, &range),
            RequestError::NotApplicable { option, why } => Self::not_applicable(option, why),
            RequestError::NoToken { option, .. } | RequestError::NothingLeft { option } => {
                Self::field(option, message)
            }
            RequestError::EmptyStopString => Self::field("stop", message),
            RequestError::Sampler(SamplerError {
                option,
                value,
                range,
            }) => Self::out_of_range(option, &value, range),
            RequestError::Text(TextError::Template(TemplateError::TooLong {
                needed,
                given,
                gaps,
                length,
                ..
            })) => too_long(
                "prompt and suffix have",
                given,
                needed - given - gaps,
                length,
            ),
            RequestError::Text(TextError::Template(_)) => Self::field("max_tokens", message),
            RequestError::Text(_) | RequestError::NoTokenizer { .. } => {
                Self::field("prompt", message)
            }
            RequestError::Plan(error) => plan(&error),
            _ => Self::of(StatusCode::BAD_REQUEST, message),
        }
    }
}

/// Tokens that a client gives, with those that open a text, leave less of its `length` than is to be written. `whose` begins the sentence.
pub fn too_long(whose: &str, given: usize, opening: usize, length: usize) -> ApiError {
    let ending = if given == 1 { "" } else { "s" };
    let opened = if opening == 0 {
        ""
    } else {
        " and one that opens it"
    };
    let said = format!("{whose} {given} token{ending}{opened}, which leaves");
    match length.saturating_sub(given + opening) {
        0 => ApiError::field(
            "prompt",
            format!("{said} nothing of the {length} of a text to write; shorten it"),
        ),
        room => ApiError::field(
            "max_tokens",
            format!(
                "{said} {room} of the {length} of a text to write; max_tokens may be at most that"
            ),
        ),
    }
}

/// The API's name for an option of the library.
fn named(option: &'static str) -> &'static str {
    match option {
        "length" => "max_tokens",
        "batch" | "first" => "n",
        "infill" => "suffix",
        "stop_strings" => "stop",
        option => option,
    }
}

fn plan(error: &PlanError) -> ApiError {
    let message = error.to_string();
    match error {
        PlanError::Range { name, value, range } => ApiError::out_of_range(name, value, range),
        PlanError::Known { .. } => ApiError::field("prompt", message),
        PlanError::ArSchedule | PlanError::Schedule { .. } => ApiError::field("schedule", message),
        _ => ApiError::of(StatusCode::BAD_REQUEST, message),
    }
}
