//! Refusals in the form that OpenAI's clients read.

use axum::body::Body;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use esolm::plan::PlanError;
use esolm::text::TextError;
use esolm::{Error, LikelihoodError, RequestError, SamplerError, ServingError};
use serde::Serialize;

/// Seconds after which a client that found the queue full may try again.
const RETRY_SECONDS: &str = "1";
/// Characters of a client's own words that a message repeats at most.
const SHOWN: usize = 80;

/// A refusal.
#[derive(Debug)]
pub struct ApiError {
    pub status: StatusCode,
    pub message: String,
    /// The field that is wrong.
    pub param: Option<String>,
    /// A word for programs.
    pub code: Option<&'static str>,
}

/// The object `error` of an answer.
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
    /// A field is wrong.
    pub fn field(param: &str, message: impl Into<String>) -> Self {
        Self {
            param: Some(param.into()),
            ..Self::of(StatusCode::BAD_REQUEST, message)
        }
    }

    /// A refusal that no field is the reason for.
    pub fn of(status: StatusCode, message: impl Into<String>) -> Self {
        Self {
            status,
            message: message.into(),
            param: None,
            code: None,
        }
    }

    /// The same with a word for programs.
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

/// Somebody's words, quoted in a message: on one line, of bounded length.
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
            Error::Range { option, .. } | Error::NotApplicable { option, .. } => {
                Self::field(option, message)
            }
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
            RequestError::Range { option, .. } => Self::field(named(option), message),
            RequestError::NotApplicable { option, .. } => Self::field(named(option), message),
            RequestError::EmptyStopString => Self::field("stop", message),
            RequestError::Sampler(error) => Self::field(
                match error {
                    SamplerError::Temperature(_) => "temperature",
                    SamplerError::TopK => "top_k",
                    SamplerError::TopP(_) => "top_p",
                    SamplerError::MinP(_) => "min_p",
                },
                message,
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

/// What the API calls an option of the library.
fn named(option: &'static str) -> &'static str {
    match option {
        "length" => "max_tokens",
        "batch" | "first" => "n",
        "infill" => "suffix",
        option => option,
    }
}

fn plan(error: &PlanError) -> ApiError {
    let message = error.to_string();
    match error {
        PlanError::Range { name, .. } => ApiError::field(name, message),
        PlanError::Known { .. } => ApiError::field("prompt", message),
        PlanError::ArSchedule | PlanError::Schedule { .. } => ApiError::field("schedule", message),
        _ => ApiError::of(StatusCode::BAD_REQUEST, message),
    }
}
