//! State shared by all requests, and the small endpoints.

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use esolm::text::TextCodec;
use esolm::{ChatTemplate, ChatTemplateError, Recommended, Serving};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::Limits;
use crate::body;
use crate::completions::{chat_completions, completions, tokens};
use crate::error::{ApiError, quoted};
use crate::fields::Fields;
use crate::guard::{self, Guard};
use crate::metrics::{self, Metrics};
use crate::workers::Workers;

/// A served model.
#[derive(Clone)]
pub struct Model {
    pub name: String,
    pub serving: Serving,
    pub codec: Arc<TextCodec>,
    /// Its chat template, or why it has none.
    pub chat: Arc<Result<ChatTemplate, ChatTemplateError>>,
    /// Its recommended sampling settings.
    pub recommended: Recommended,
    /// When it was loaded, in seconds since 1970.
    pub created: u64,
}

/// State shared by all requests.
pub struct App {
    /// The first one serves requests that name no model, where that is allowed.
    pub models: Vec<Model>,
    pub guard: Guard,
    pub limits: Limits,
    pub metrics: Arc<Metrics>,
    /// Where bodies are read and tokenized, and answers written.
    pub workers: Workers,
}

impl App {
    /// The model with this name.
    ///
    /// # Errors
    /// If the request names no model, or one that is not served.
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

    /// The model with this name, or the first one.
    fn model_or_first(&self, name: Option<&str>) -> Result<&Model, ApiError> {
        match name {
            None => Ok(&self.models[0]),
            name => self.model(name),
        }
    }
}

/// All routes.
pub fn router(app: Arc<App>) -> Router {
    Router::new()
        .route("/v1/models", get(models))
        // The name of a model on a hub has a slash.
        .route("/v1/models/{*name}", get(model))
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

/// A JSON response.
pub fn json(bytes: Vec<u8>) -> Response {
    let mut response = Response::new(Body::from(bytes));
    let json = HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, json);
    response
}

fn as_json(value: &impl Serialize) -> Response {
    json(serde_json::to_vec(value).unwrap_or_default())
}

/// A model in the list of `/v1/models`.
#[derive(Serialize)]
struct Listed<'a> {
    id: &'a str,
    object: &'static str,
    created: u64,
    owned_by: &'static str,
    /// Maximum tokens per text, under vLLM's name.
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
    name: Result<Path<String>, PathRejection>,
) -> Result<Response, ApiError> {
    let Path(name) = name.map_err(|error| ApiError::of(error.status(), error.body_text()))?;
    Ok(as_json(&Listed::of(app.model(Some(&name))?)))
}

/// The `?model=` parameter of endpoints without a body.
#[derive(Deserialize)]
struct Named {
    model: Option<String>,
}

async fn tokenizer_info(
    State(app): State<Arc<App>>,
    named: Result<Query<Named>, QueryRejection>,
) -> Result<Response, ApiError> {
    let Query(named) = named.map_err(|error| ApiError::field("model", error.body_text()))?;
    #[derive(Serialize)]
    struct Info<'a> {
        bos_token: Option<String>,
        eos_token: Option<String>,
        pad_token: Option<String>,
        chat_template: Option<&'a str>,
        vocab_size: usize,
        max_model_len: usize,
    }
    let model = app.model_or_first(named.model.as_deref())?;
    let template = model.chat.as_ref().as_ref().ok();
    let ends = model.codec.ends();
    let said = |token: Option<u32>| token.map(|token| model.codec.decode(&[token]));
    Ok(as_json(&Info {
        bos_token: said(ends.bos),
        eos_token: said(ends.eos),
        pad_token: None,
        chat_template: template.map(ChatTemplate::source),
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
    let work = app.workers.work(body.len(), move || {
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
    let work = app.workers.work(body.len(), move || {
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
