//! Bodies of requests: bounded, in time as well, and JSON.

use std::error::Error;

use axum::body::{Bytes, to_bytes};
use axum::extract::Request;
use axum::http::{StatusCode, header};
use http_body_util::LengthLimitError;

use crate::Limits;
use crate::error::ApiError;

/// The bytes of a body that says it is JSON.
///
/// # Errors
/// When it says something else, is larger than the limit, or does not come in time.
pub async fn read(limits: &Limits, request: Request) -> Result<Bytes, ApiError> {
    let headers = request.headers();
    let is_json = headers
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.split(';').next())
        .is_some_and(|kind| kind.trim().eq_ignore_ascii_case("application/json"));
    if !is_json {
        // Forms, which any page may send, never are.
        let message = "the content type must be application/json";
        return Err(ApiError::of(StatusCode::UNSUPPORTED_MEDIA_TYPE, message));
    }
    let too_large = || {
        let message = format!(
            "the body is larger than {} bytes; send less at once",
            limits.body_bytes
        );
        ApiError::of(StatusCode::PAYLOAD_TOO_LARGE, message)
    };
    let length = headers
        .get(header::CONTENT_LENGTH)
        .and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    if length.is_some_and(|length| length > limits.body_bytes as u64) {
        return Err(too_large());
    }
    let reading = to_bytes(request.into_body(), limits.body_bytes);
    let Ok(read) = tokio::time::timeout(limits.body, reading).await else {
        let message = format!("the body did not come within {} s", limits.body.as_secs());
        return Err(ApiError::of(StatusCode::REQUEST_TIMEOUT, message));
    };
    read.map_err(|error| {
        match error
            .source()
            .is_some_and(|source| source.is::<LengthLimitError>())
        {
            true => too_large(),
            false => {
                let message = "the body ended before it was whole";
                ApiError::of(StatusCode::BAD_REQUEST, message)
            }
        }
    })
}
