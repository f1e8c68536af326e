//! `POST /v1/completions`.

mod answer;
mod ask;
mod choice;
mod order;

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderValue, header};
use axum::response::Response;

pub use answer::Usage;
use answer::{Answer, Head};
use ask::Ask;
pub use ask::tokens;
use order::Order;

use crate::app::{App, json};
use crate::body;
use crate::error::ApiError;

/// Answers a completion.
pub async fn completions(
    State(app): State<Arc<App>>,
    request: Request,
) -> Result<Response, ApiError> {
    let mut fields = body::fields(&app.limits, request).await?;
    let model = app.model(fields.text("model")?.as_deref())?.clone();
    let mut ask = Ask::read(fields)?;
    let seed = *ask.request.seed.get_or_insert_with(esolm::random_seed);
    // Tokenizing takes its time.
    let (ask, order, writings) = {
        let model = model.clone();
        app.work(move || {
            let mut order = Order::new(&ask, &model.serving, &model.codec)?;
            let texts = std::mem::take(&mut order.texts);
            Ok::<_, ApiError>((ask, order, model.serving.write(texts)?))
        })
        .await?
    };
    let echoes = order.echoes.clone();
    let echoed = model.serving.echo(echoes).await?;
    let head = Head {
        id: format!(
            "cmpl-{:08x}{:08x}",
            esolm::random_seed(),
            esolm::random_seed()
        ),
        created: SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| since.as_secs()),
        model: model.name.clone(),
        seed,
    };
    let answer = Answer::new(
        head,
        &ask,
        order,
        writings,
        echoed,
        model.codec.clone(),
        app.metrics.clone(),
    );
    if !ask.stream {
        return Ok(json(answer.whole().await?));
    }
    let mut response = Response::new(Body::from_stream(answer.stream()));
    let headers = response.headers_mut();
    let events = HeaderValue::from_static("text/event-stream");
    headers.insert(header::CONTENT_TYPE, events);
    // Neither a cache nor a proxy keeps a part back.
    let fresh = HeaderValue::from_static("no-cache");
    headers.insert(header::CACHE_CONTROL, fresh);
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    Ok(response)
}
