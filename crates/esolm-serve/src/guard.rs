//! Who may ask: keys, and web pages, which a browser lets ask this machine in its user's name.

use std::net::IpAddr;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::uri::Authority;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use subtle::ConstantTimeEq;

use crate::app::App;
use crate::error::{ApiError, quoted};

/// Seconds that a browser remembers what it may send.
const PREFLIGHT_SECONDS: &str = "600";

/// Whom the server answers.
#[derive(Clone, Debug, Default)]
pub struct Guard {
    /// What a client must present, if anything.
    pub api_key: Option<String>,
    /// Origins of web pages that may ask, such as `https://example.org`.
    pub origins: Vec<String>,
    /// Names under which the server is reached, beside `localhost` and numeric addresses.
    pub hosts: Vec<String>,
}

impl Guard {
    /// Checks the name under which the server was reached. A page whose own name was made to lead here asks under that name.
    fn check_host(&self, request: &Request) -> Result<(), ApiError> {
        let headers = request.headers();
        let refused = |host: &str| {
            let message = format!(
                "the server does not answer under the name {}; --allow-host adds a name",
                quoted(host)
            );
            Err(ApiError::of(StatusCode::FORBIDDEN, message).with_code("host_not_allowed"))
        };
        let mut hosts = headers.get_all(header::HOST).iter();
        let given = match (hosts.next(), hosts.next(), request.uri().authority()) {
            (_, Some(_), _) => return refused("of two hosts"),
            (_, None, Some(authority)) => authority.as_str(),
            (Some(host), None, None) => match host.to_str() {
                Ok(host) => host,
                Err(_) => return refused("?"),
            },
            (None, None, None) => return refused(""),
        };
        let Ok(authority) = given.parse::<Authority>() else {
            return refused(given);
        };
        let host = authority.host();
        let address = host.trim_start_matches('[').trim_end_matches(']');
        let is_known = address.parse::<IpAddr>().is_ok()
            || host.eq_ignore_ascii_case("localhost")
            || self
                .hosts
                .iter()
                .any(|name| host.eq_ignore_ascii_case(name));
        match is_known {
            true => Ok(()),
            false => refused(host),
        }
    }

    /// The origin of the page that asks, if one does and may.
    fn check_origin<'a>(
        &self,
        headers: &'a HeaderMap,
    ) -> Result<Option<&'a HeaderValue>, ApiError> {
        let Some(origin) = headers.get(header::ORIGIN) else {
            return Ok(None);
        };
        let is_known = origin
            .to_str()
            .is_ok_and(|origin| self.origins.iter().any(|known| known == origin));
        match is_known {
            true => Ok(Some(origin)),
            false => {
                let origin = String::from_utf8_lossy(origin.as_bytes());
                let message = format!(
                    "pages of {} may not ask this server; --cors names those that may",
                    quoted(&origin)
                );
                let error = ApiError::of(StatusCode::FORBIDDEN, message);
                Err(error.with_code("origin_not_allowed"))
            }
        }
    }

    fn check_key(&self, headers: &HeaderMap) -> Result<(), ApiError> {
        let Some(key) = &self.api_key else {
            return Ok(());
        };
        let given = headers
            .get(header::AUTHORIZATION)
            .map(HeaderValue::as_bytes);
        let given = given.and_then(|value| {
            let (scheme, key) = value.split_at_checked("Bearer ".len())?;
            scheme.eq_ignore_ascii_case(b"Bearer ").then_some(key)
        });
        // Takes as long whichever character differs.
        let is_right = given.is_some_and(|given| given.ct_eq(key.as_bytes()).into());
        match is_right {
            true => Ok(()),
            false => {
                let message =
                    "the API key is missing or wrong; send it as Authorization: Bearer KEY";
                let error = ApiError::of(StatusCode::UNAUTHORIZED, message);
                Err(error.with_code("invalid_api_key"))
            }
        }
    }
}

/// Lets through who may ask.
pub async fn check(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    if let Err(error) = app.guard.check_host(&request) {
        return error.into_response();
    }
    let origin = match app.guard.check_origin(request.headers()) {
        Ok(origin) => origin.cloned(),
        Err(error) => return error.into_response(),
    };
    let is_preflight = request.method() == Method::OPTIONS && origin.is_some();
    // A page that was named may send what headers it likes; clients have some of their own.
    let wanted = request
        .headers()
        .get(header::ACCESS_CONTROL_REQUEST_HEADERS);
    let wanted = wanted.cloned();
    let mut response = if is_preflight {
        StatusCode::NO_CONTENT.into_response()
    } else {
        // Who watches over the server needs no key to see that it lives.
        let key = match request.uri().path() {
            "/health" => Ok(()),
            _ => app.guard.check_key(request.headers()),
        };
        match key {
            Ok(()) => next.run(request).await,
            Err(error) => error.into_response(),
        }
    };
    let headers = response.headers_mut();
    let vary = HeaderValue::from_static("origin, access-control-request-headers");
    headers.insert(header::VARY, vary);
    headers.insert(
        header::X_CONTENT_TYPE_OPTIONS,
        HeaderValue::from_static("nosniff"),
    );
    if let Some(origin) = origin {
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        if is_preflight {
            let usual = HeaderValue::from_static("authorization, content-type");
            let methods = HeaderValue::from_static("GET, POST");
            let age = HeaderValue::from_static(PREFLIGHT_SECONDS);
            headers.insert(
                header::ACCESS_CONTROL_ALLOW_HEADERS,
                wanted.unwrap_or(usual),
            );
            headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, methods);
            headers.insert(header::ACCESS_CONTROL_MAX_AGE, age);
        }
    }
    response
}
