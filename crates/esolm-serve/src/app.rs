//! What all requests share, and the small answers.

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{Path, Query, Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use esolm::text::TextCodec;
use esolm::{ChatTemplate, ChatTemplateError, Recommended, Serving};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::sync::Semaphore;

use crate::Limits;
use crate::body;
use crate::completions::{chat_completions, completions, tokens};
use crate::error::{ApiError, quoted};
use crate::fields::Fields;
use crate::guard::{self, Guard};
use crate::metrics::{self, Metrics};

/// A model that is served.
#[derive(Clone)]
pub struct Model {
    pub name: String,
    pub serving: Serving,
    pub codec: Arc<TextCodec>,
    /// How it is talked to, or why it is not.
    pub chat: Arc<Result<ChatTemplate, ChatTemplateError>>,
    /// How it recommends to sample.
    pub recommended: Recommended,
    /// Seconds since 1970 when it was loaded.
    pub created: u64,
}

/// What all requests share.
pub struct App {
    /// The first one is that of requests which name none, where that is allowed.
    pub models: Vec<Model>,
    pub guard: Guard,
    pub limits: Limits,
    pub metrics: Arc<Metrics>,
    /// Bodies that are read and tokenized at once.
    pub workers: Workers,
}

/// Turns at reading bodies. Large ones, each of which may take seconds and a gigabyte, wait for each other alone.
pub struct Workers {
    small: Semaphore,
    large: Semaphore,
}

/// Bytes beyond which a body is a large one.
const LARGE: usize = 256 << 10;

impl Workers {
    /// For a machine of so many cores.
    pub fn new(cores: usize) -> Self {
        Self {
            small: Semaphore::new(cores),
            large: Semaphore::new(1),
        }
    }
}

impl App {
    /// The model of a name.
    ///
    /// # Errors
    /// When the request names none, or one that is not served.
    pub fn model(&self, name: Option<&str>) -> Result<&Model, ApiError> {
        let Some(name) = name else {
            let message = "model is missing; name one that GET /v1/models lists";
            return Err(ApiError::field("model", message));
        };
        let found = self.models.iter().find(|model| model.name == name);
        found.ok_or_else(|| {
            let message = format!(
                "there is no model {}; GET /v1/models lists those there are",
                quoted(name)
            );
            ApiError {
                status: StatusCode::NOT_FOUND,
                ..ApiError::field("model", message)
            }
            .with_code("model_not_found")
        })
    }

    /// The model of a name, or the first one.
    fn model_or_first(&self, name: Option<&str>) -> Result<&Model, ApiError> {
        match name {
            None => Ok(&self.models[0]),
            name => self.model(name),
        }
    }

    /// Does what takes its time with so many `bytes`, in a thread that no other request waits for.
    ///
    /// # Errors
    /// Those of `work`.
    pub async fn work<T: Send + 'static>(
        &self,
        bytes: usize,
        work: impl FnOnce() -> Result<T, ApiError> + Send + 'static,
    ) -> Result<T, ApiError> {
        let crashed = || {
            let message = "the request failed inside the server";
            ApiError::of(StatusCode::INTERNAL_SERVER_ERROR, message)
        };
        let workers = match bytes > LARGE {
            true => &self.workers.large,
            false => &self.workers.small,
        };
        let _turn = workers.acquire().await.map_err(|_| crashed())?;
        let done = tokio::task::spawn_blocking(work).await;
        done.unwrap_or_else(|_| Err(crashed()))
    }
}

/// Every path.
pub fn router(app: Arc<App>) -> Router {
    Router::new()
        .route("/v1/models", get(models))
        .route("/v1/models/{name}", get(model))
        .route("/v1/completions", post(completions))
        .route("/v1/chat/completions", post(chat_completions))
        .route("/tokenizer_info", get(tokenizer_info))
        .route("/tokenize", post(tokenize))
        .route("/detokenize", post(detokenize))
        .route("/health", get(health))
        .route("/metrics", get(metrics))
        .fallback(async || {
            let message = "there is nothing under this path; docs/serve.md lists the paths";
            ApiError::of(StatusCode::NOT_FOUND, message)
        })
        .method_not_allowed_fallback(async || {
            let message = "this path does not take this method; docs/serve.md lists the paths";
            ApiError::of(StatusCode::METHOD_NOT_ALLOWED, message)
        })
        .layer(middleware::from_fn_with_state(app.clone(), guard::check))
        .layer(middleware::from_fn_with_state(app.clone(), metrics::count))
        .with_state(app)
}

/// An answer of JSON.
pub fn json(bytes: Vec<u8>) -> Response {
    let mut response = Response::new(Body::from(bytes));
    let json = HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, json);
    response
}

fn as_json(value: &impl Serialize) -> Response {
    json(serde_json::to_vec(value).unwrap_or_default())
}

/// A model as `/v1/models` lists it.
#[derive(Serialize)]
struct Listed<'a> {
    id: &'a str,
    object: &'static str,
    created: u64,
    owned_by: &'static str,
    /// Tokens of a text at most, as vLLM tells.
    max_model_len: usize,
}

impl<'a> Listed<'a> {
    fn of(model: &'a Model) -> Self {
        Self {
            id: &model.name,
            object: "model",
            created: model.created,
            owned_by: "esolm",
            max_model_len: model.serving.length(),
        }
    }
}

async fn models(State(app): State<Arc<App>>) -> Response {
    #[derive(Serialize)]
    struct List<'a> {
        object: &'static str,
        data: Vec<Listed<'a>>,
    }
    as_json(&List {
        object: "list",
        data: app.models.iter().map(Listed::of).collect(),
    })
}

async fn model(
    State(app): State<Arc<App>>,
    Path(name): Path<String>,
) -> Result<Response, ApiError> {
    Ok(as_json(&Listed::of(app.model(Some(&name))?)))
}

/// `?model=` of paths that have no body.
#[derive(Deserialize)]
struct Named {
    model: Option<String>,
}

async fn tokenizer_info(
    State(app): State<Arc<App>>,
    Query(named): Query<Named>,
) -> Result<Response, ApiError> {
    #[derive(Serialize)]
    struct Info {
        bos_token: Option<String>,
        eos_token: Option<String>,
        pad_token: Option<String>,
        chat_template: Option<String>,
        vocab_size: usize,
        max_model_len: usize,
    }
    let model = app.model_or_first(named.model.as_deref())?;
    let ends = model.codec.ends();
    let said = |token: Option<u32>| token.map(|token| model.codec.decode(&[token]));
    Ok(as_json(&Info {
        bos_token: said(ends.bos),
        eos_token: said(ends.eos),
        pad_token: None,
        chat_template: None,
        vocab_size: model.serving.config().vocab_size,
        max_model_len: model.serving.length(),
    }))
}

async fn tokenize(State(app): State<Arc<App>>, request: Request) -> Result<Response, ApiError> {
    #[derive(Serialize)]
    struct Tokens {
        tokens: Vec<u32>,
        count: usize,
        max_model_len: usize,
    }
    let body = body::read(&app.limits, request).await?;
    let shared = app.clone();
    let work = app.work(body.len(), move || {
        let mut fields = Fields::read(&body)?;
        let model = shared.model_or_first(fields.text("model")?.as_deref())?;
        let prompt = fields.text("prompt")?;
        let missing = || ApiError::field("prompt", "prompt is missing; give text");
        let prompt = prompt.ok_or_else(missing)?;
        let adds_special = fields.flag("add_special_tokens")?;
        fields.finish(&["return_token_strs"])?;
        let own = model.codec.encode(&prompt);
        let own = own.map_err(|error| ApiError::field("prompt", error.to_string()))?;
        let (config, codec) = (model.serving.config(), Some(&*model.codec));
        let opening = esolm::Request::default().opening(config, codec);
        let opening = opening.filter(|_| adds_special);
        let tokens: Vec<u32> = opening.into_iter().chain(own).collect();
        Ok(as_json(&Tokens {
            count: tokens.len(),
            tokens,
            max_model_len: model.serving.length(),
        }))
    });
    work.await
}

async fn detokenize(State(app): State<Arc<App>>, request: Request) -> Result<Response, ApiError> {
    #[derive(Serialize)]
    struct Text {
        prompt: String,
    }
    let body = body::read(&app.limits, request).await?;
    let shared = app.clone();
    let work = app.work(body.len(), move || {
        let mut fields = Fields::read(&body)?;
        let model = shared.model_or_first(fields.text("model")?.as_deref())?;
        let tokens = match fields.take("tokens") {
            Some(Value::Array(items)) => tokens("tokens", items)?,
            _ => {
                let message = "tokens must be a list of token numbers";
                return Err(ApiError::field("tokens", message));
            }
        };
        fields.finish(&[])?;
        let vocab = model.serving.config().vocab_size;
        if let Some(token) = tokens.iter().find(|&&token| token as usize >= vocab) {
            let message = format!("the token {token} is beyond the vocabulary of {vocab}");
            return Err(ApiError::field("tokens", message));
        }
        let prompt = model.codec.decode(&tokens);
        Ok(as_json(&Text { prompt }))
    });
    work.await
}

async fn health(State(app): State<Arc<App>>) -> Response {
    let lost = (app.models.iter()).find(|model| !model.serving.state().is_open);
    match lost {
        None => json(br#"{"status":"ok"}"#.to_vec()),
        Some(model) => {
            let message = format!("the device of the model {} is lost", quoted(&model.name));
            ApiError::of(StatusCode::SERVICE_UNAVAILABLE, message)
                .with_code("no_device")
                .into_response()
        }
    }
}

async fn metrics(State(app): State<Arc<App>>) -> Response {
    let mut response = Response::new(Body::from(app.metrics.render(&app.models)));
    let text = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, text);
    response
}
