//! Prometheus metrics.

use std::sync::Arc;
use std::time::Instant;

use axum::extract::{MatchedPath, Request, State};
use axum::middleware::Next;
use axum::response::Response;
use metrics::{Counter, Gauge, Histogram, Key, Label, Level, Metadata, Recorder, Unit};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle, PrometheusRecorder};

use crate::app::{App, Model};
use crate::completions::Usage;

const METADATA: Metadata<'static> = Metadata::new("esolm", Level::INFO, None);

const REFUSED: &str = "esolm_connections_refused_total";

/// The metrics of one server.
pub struct Metrics {
    recorder: PrometheusRecorder,
    handle: PrometheusHandle,
}

impl Metrics {
    pub fn new() -> Self {
        let recorder = PrometheusBuilder::new().build_recorder();
        let handle = recorder.handle();
        let metrics = Self { recorder, handle };
        for (name, what) in [
            ("esolm_requests_total", "Requests by path and status"),
            ("esolm_prompt_tokens_total", "Tokens of prompts"),
            (
                "esolm_completion_tokens_total",
                "Tokens that were written and answered",
            ),
            (
                REFUSED,
                "Connections beyond the limit, while all were being answered",
            ),
            ("esolm_passes_total", "Forward passes that wrote"),
            ("esolm_rows_total", "Rows of those passes"),
            ("esolm_drawn_tokens_total", "Tokens that they drew"),
            ("esolm_device_failures_total", "Failures of the device"),
        ] {
            metrics
                .recorder
                .describe_counter(name.into(), Some(Unit::Count), what.into());
        }
        for (name, what) in [
            (
                "esolm_queued",
                "Texts that wait for a place, or to be scored",
            ),
            ("esolm_running", "Texts that have a place"),
            ("esolm_places", "Places there are"),
            ("esolm_open", "1 where the device is open"),
        ] {
            metrics
                .recorder
                .describe_gauge(name.into(), None, what.into());
        }
        metrics.recorder.describe_histogram(
            "esolm_request_seconds".into(),
            Some(Unit::Seconds),
            "Seconds until an answer begins, by path".into(),
        );
        // So that it exists before it counts anything.
        metrics.counter(REFUSED, Vec::new()).increment(0);
        metrics
    }

    fn counter(&self, name: &'static str, labels: Vec<Label>) -> Counter {
        self.recorder
            .register_counter(&Key::from_parts(name, labels), &METADATA)
    }

    fn gauge(&self, name: &'static str, labels: Vec<Label>) -> Gauge {
        self.recorder
            .register_gauge(&Key::from_parts(name, labels), &METADATA)
    }

    fn histogram(&self, name: &'static str, labels: Vec<Label>) -> Histogram {
        self.recorder
            .register_histogram(&Key::from_parts(name, labels), &METADATA)
    }

    /// Counts the tokens of a response.
    pub fn count_tokens(&self, model: &str, usage: Usage) {
        let label = || vec![Label::new("model", model.to_string())];
        let count = |name, tokens| self.counter(name, label()).increment(tokens as u64);
        count("esolm_prompt_tokens_total", usage.prompt_tokens);
        count("esolm_completion_tokens_total", usage.completion_tokens);
    }

    /// Counts a connection that was closed immediately because too many requests were being answered.
    pub fn count_refused(&self) {
        self.counter(REFUSED, Vec::new()).increment(1);
    }

    /// Sums up what was recorded since the last time. Until then every duration is kept, so this has to be called now
    /// and then.
    pub fn sum_up(&self) {
        self.handle.run_upkeep();
    }

    /// All metrics as text.
    pub fn render(&self, models: &[Model]) -> String {
        for model in models {
            let label = || vec![Label::new("model", model.name.clone())];
            let state = model.serving.state();
            for (name, value) in [
                ("esolm_passes_total", state.passes),
                ("esolm_rows_total", state.rows),
                ("esolm_drawn_tokens_total", state.drawn),
                ("esolm_device_failures_total", state.failures),
            ] {
                self.counter(name, label()).absolute(value);
            }
            for (name, value) in [
                ("esolm_queued", state.queued),
                ("esolm_running", state.running),
                ("esolm_places", model.serving.options().places),
                ("esolm_open", usize::from(state.is_open)),
            ] {
                self.gauge(name, label()).set(value as f64);
            }
        }
        self.sum_up();
        self.handle.render()
    }
}

/// Counts a response by its route, of which there are few, and its status.
pub async fn count(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let began = Instant::now();
    let path = request.extensions().get::<MatchedPath>();
    let path = path.map_or("other".to_string(), |path| path.as_str().to_string());
    let response = next.run(request).await;
    let label = Label::new("path", path);
    let status = Label::new("status", response.status().as_u16().to_string());
    app.metrics
        .counter("esolm_requests_total", vec![label.clone(), status])
        .increment(1);
    app.metrics
        .histogram("esolm_request_seconds", vec![label])
        .record(began.elapsed().as_secs_f64());
    response
}
