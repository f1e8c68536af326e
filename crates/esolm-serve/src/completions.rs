//! `POST /v1/completions`, and `/v1/chat/completions`.

mod answer;
mod ask;
mod chat;
mod choice;
mod order;

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderValue, header};
use axum::response::Response;

pub use answer::Usage;
use answer::{Answer, Form, Head};
use ask::Ask;
pub use ask::tokens;
use order::Order;

use crate::app::{App, Model, json};
use crate::body;
use crate::error::ApiError;
use crate::fields::Fields;

/// Handles a completion request.
pub async fn completions(
    State(app): State<Arc<App>>,
    request: Request,
) -> Result<Response, ApiError> {
    let read = |fields, _: &Model| Ask::read(fields);
    answered(app, request, Form::Text, read).await
}

/// Handles a chat completion request.
pub async fn chat_completions(
    State(app): State<Arc<App>>,
    request: Request,
) -> Result<Response, ApiError> {
    answered(app, request, Form::Chat, Ask::read_chat).await
}

/// Answers a request; `read` parses the fields of its body, except the model's name.
///
/// # Errors
/// If the body or one of its fields is unusable, the queue is full, log-probabilities of the prompt are not available,
/// or a text cannot be written.
async fn answered(
    app: Arc<App>,
    request: Request,
    form: Form,
    read: impl FnOnce(Fields, &Model) -> Result<Ask, ApiError> + Send + 'static,
) -> Result<Response, ApiError> {
    let body = body::read(&app.limits, request).await?;
    let shared = app.clone();
    // Parsing and tokenizing take time, and the parsed body takes many times the memory of the raw one.
    let work = app.workers.work(body.len(), move || {
        let mut fields = Fields::read(&body)?;
        let model = shared.model(fields.text("model")?.as_deref())?.clone();
        let mut ask = read(fields, &model)?;
        let seed = *ask.request.seed.get_or_insert_with(esolm::random_seed);
        let mut order = Order::new(&ask, &model.serving, &model.codec)?;
        let texts = std::mem::take(&mut order.texts);
        let writings = model.serving.write(texts)?;
        Ok((model, seed, ask, order, writings))
    });
    let (model, seed, ask, mut order, writings) = work.await?;
    let echoes = std::mem::take(&mut order.echoes);
    let echoed = model.serving.echo(echoes).await?;
    let head = Head {
        form,
        id: format!(
            "{}-{:08x}{:08x}",
            form.prefix(),
            esolm::random_seed(),
            esolm::random_seed()
        ),
        created: SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| since.as_secs()),
        model: model.name.clone(),
        seed,
    };
    let (codec, metrics) = (model.codec.clone(), app.metrics.clone());
    // So do the words of many log-probabilities.
    let ([echo, whole], is_stream) = (order.sizes(&ask), ask.stream);
    let new = move || Answer::new(head, &ask, order, writings, echoed, codec, metrics);
    let mut answer = app.workers.work(echo, || Ok(new())).await?;
    if is_stream {
        return Ok(stream(answer));
    }
    let written = answer.written().await?;
    let text = app.workers.work(whole, move || Ok(answer.whole(written)));
    Ok(json(text.await?))
}

/// An answer as server-sent events.
fn stream(answer: Answer) -> Response {
    let mut response = Response::new(Body::from_stream(answer.stream()));
    let headers = response.headers_mut();
    let events = HeaderValue::from_static("text/event-stream");
    headers.insert(header::CONTENT_TYPE, events);
    // Keeps caches and proxies from buffering.
    let fresh = HeaderValue::from_static("no-cache");
    headers.insert(header::CACHE_CONTROL, fresh);
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    response
}
