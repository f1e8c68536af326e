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

/// Answers a completion.
pub async fn completions(
    State(app): State<Arc<App>>,
    request: Request,
) -> Result<Response, ApiError> {
    let read = |fields, _: &Model| Ask::read(fields);
    answered(begin(app, request, Form::Text, read).await?).await
}

/// Answers a conversation.
pub async fn chat_completions(
    State(app): State<Arc<App>>,
    request: Request,
) -> Result<Response, ApiError> {
    answered(begin(app, request, Form::Chat, Ask::read_chat).await?).await
}

async fn answered((answer, is_stream): (Answer, bool)) -> Result<Response, ApiError> {
    match is_stream {
        true => Ok(stream(answer)),
        false => Ok(json(answer.whole().await?)),
    }
}

/// Begins what a body asks for, which `read` makes of its fields but for the model's name. Tells whether it is to be answered by a stream.
///
/// # Errors
/// When the body or a field of it is not usable, the queue is full, or what is given has no log-probabilities.
async fn begin(
    app: Arc<App>,
    request: Request,
    form: Form,
    read: impl FnOnce(Fields, &Model) -> Result<Ask, ApiError> + Send + 'static,
) -> Result<(Answer, bool), ApiError> {
    let body = body::read(&app.limits, request).await?;
    let shared = app.clone();
    // Reading and tokenizing take their time, and what is read takes many times the memory of the body.
    let work = app.work(body.len(), move || {
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
    let answer = Answer::new(head, &ask, order, writings, echoed, codec, metrics);
    Ok((answer, ask.stream))
}

/// An answer as server-sent events.
fn stream(answer: Answer) -> Response {
    let mut response = Response::new(Body::from_stream(answer.stream()));
    let headers = response.headers_mut();
    let events = HeaderValue::from_static("text/event-stream");
    headers.insert(header::CONTENT_TYPE, events);
    // Neither a cache nor a proxy keeps a part back.
    let fresh = HeaderValue::from_static("no-cache");
    headers.insert(header::CACHE_CONTROL, fresh);
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    response
}
