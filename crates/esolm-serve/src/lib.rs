//! Serves Eso-LM, masked diffusion and autoregressive language models over HTTP with an OpenAI-compatible completions
//! API: `esolm serve`.
//!
//! | file | contents |
//! |---|---|
//! | `listen.rs`, `connections.rs` | connections and their limits |
//! | `guard.rs` | access control: keys, hosts, origins |
//! | `app.rs` | routes, and small endpoints |
//! | `body.rs`, `fields.rs` | bodies, and their fields one by one |
//! | `completions/` | requests, the texts generated for them, and responses |
//! | `workers.rs` | work that takes time, on threads of its own |
//! | `error.rs` | errors in OpenAI's format |
//! | `metrics.rs` | Prometheus metrics |

mod app;
mod body;
mod completions;
mod connections;
mod error;
mod fields;
mod guard;
mod listen;
mod metrics;
mod workers;

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use esolm::{ChatTemplate, ChatTemplateError, Recommended, Serving};
use tokio::runtime::Runtime;

use app::{App, Model};
pub use guard::Guard;
use metrics::Metrics;
use workers::Workers;

/// The name of the threads that answer requests. A panic in one of them fails only its request.
pub const THREADS: &str = "esolm-http";
/// How often durations are summed up for the metrics.
const SUM_UP: Duration = Duration::from_secs(5);

/// Limits on clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Maximum bytes of a request body.
    pub body_bytes: usize,
    /// Time for the head of a request, counted from when the connection is ready for one; this also ends idle
    /// connections.
    pub header: Duration,
    /// Time for the body of a request.
    pub body: Duration,
    /// Time within which a client must accept some of the pending response data.
    pub stalled: Duration,
    /// Maximum connections. Beyond it, the one that has waited longest for a request is closed.
    pub connections: usize,
    /// Time for requests in progress to finish when the server shuts down.
    pub drain: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            body_bytes: 4 << 20,
            header: Duration::from_secs(10),
            body: Duration::from_secs(30),
            stalled: Duration::from_secs(30),
            connections: 1024,
            drain: Duration::from_secs(30),
        }
    }
}

/// A model, and the name under which clients request it.
pub struct ServedModel {
    /// Its name.
    pub name: String,
    /// The model, which must have a tokenizer.
    pub serving: Serving,
    /// Its chat template, or why it has none.
    pub chat: Result<ChatTemplate, ChatTemplateError>,
    /// The checkpoint's recommended sampling settings.
    pub recommended: Recommended,
}

/// Why nothing is served.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The server could not listen on the address.
    #[error("cannot listen on {address} ({reason})")]
    Address {
        /// The address.
        address: SocketAddr,
        /// The system's error.
        reason: String,
    },
    /// The system could not start a thread.
    #[error("a thread could not be started ({0})")]
    Thread(String),
    /// Two models have the same name.
    #[error("two models are called {0}")]
    SameName(String),
    /// There is no model.
    #[error("there is no model to serve")]
    NoModel,
    /// A model has no tokenizer.
    #[error("the model {0} was loaded without a tokenizer, which serving needs")]
    NoTokenizer(String),
}

/// A server that is listening but not answering yet, so that an address already in use is noticed before models are
/// loaded.
pub struct Server {
    listener: TcpListener,
    address: SocketAddr,
    guard: Guard,
    limits: Limits,
}

impl Server {
    /// Listens on an address; port 0 selects a free one.
    ///
    /// # Errors
    /// If it is not possible to listen on the address.
    pub fn bind(address: SocketAddr, guard: Guard, limits: Limits) -> Result<Self, ServeError> {
        let bound = TcpListener::bind(address).and_then(|listener| {
            listener.set_nonblocking(true)?;
            let address = listener.local_addr()?;
            Ok((listener, address))
        });
        let (listener, address) = bound.map_err(|error: io::Error| ServeError::Address {
            address,
            reason: error.to_string(),
        })?;
        Ok(Self {
            listener,
            address,
            guard,
            limits,
        })
    }

    /// The address that it listens on.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until `stop` is set; then `on_stop` is called, nothing new is accepted, and requests in progress finish, within a time
    /// limit. Blocks, and unloads the models at the end.
    ///
    /// # Errors
    /// If the models cannot be served, or the system cannot start a thread.
    pub fn run(
        self,
        models: Vec<ServedModel>,
        stop: &AtomicBool,
        on_stop: impl FnOnce(),
    ) -> Result<(), ServeError> {
        let models = checked(models)?;
        let threads = |error: io::Error| ServeError::Thread(error.to_string());
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .thread_name(THREADS)
            .worker_threads(2)
            .enable_io()
            .enable_time()
            .build()
            .map_err(threads)?;
        let servings: Vec<Serving> = models.iter().map(|m| m.serving.clone()).collect();
        let served = self.serve(&runtime, models, stop, on_stop);
        // Requests that did not finish in time are dropped, along with their texts.
        runtime.shutdown_timeout(Duration::from_secs(1));
        let closing = tokio::runtime::Builder::new_current_thread()
            .build()
            .map_err(threads)?;
        for serving in servings {
            closing.block_on(serving.close());
        }
        served.map_err(threads)
    }

    fn serve(
        self,
        runtime: &Runtime,
        models: Vec<Model>,
        stop: &AtomicBool,
        on_stop: impl FnOnce(),
    ) -> io::Result<()> {
        let metrics = Arc::new(Metrics::new());
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let app = App {
            models,
            guard: self.guard,
            limits: self.limits,
            metrics: metrics.clone(),
            workers: Workers::new(cores),
        };
        let router = app::router(Arc::new(app));
        let counted = metrics.clone();
        runtime.spawn(async move {
            let mut turns = tokio::time::interval(SUM_UP);
            loop {
                turns.tick().await;
                counted.sum_up();
            }
        });
        runtime.block_on(async {
            let listener = tokio::net::TcpListener::from_std(self.listener)?;
            let open = listen::listen(listener, router, &self.limits, &metrics, stop).await;
            on_stop();
            listen::drain(open, &self.limits).await;
            Ok(())
        })
    }
}

fn checked(models: Vec<ServedModel>) -> Result<Vec<Model>, ServeError> {
    let created = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs());
    let mut all: Vec<Model> = Vec::with_capacity(models.len());
    for ServedModel {
        name,
        serving,
        chat,
        recommended,
    } in models
    {
        if all.iter().any(|model| model.name == name) {
            return Err(ServeError::SameName(name));
        }
        let Some(codec) = serving.codec().cloned().map(Arc::new) else {
            return Err(ServeError::NoTokenizer(name));
        };
        all.push(Model {
            name,
            serving,
            codec,
            chat: Arc::new(chat),
            recommended,
            created,
        });
    }
    match all.is_empty() {
        true => Err(ServeError::NoModel),
        false => Ok(all),
    }
}
