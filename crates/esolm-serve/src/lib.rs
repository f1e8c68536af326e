//! Serves Eso-LM, masked diffusion and autoregressive language models over HTTP, in the form of OpenAI's completions: `esolm serve`.
//!
//! | file | holds |
//! |---|---|
//! | `listen.rs`, `connections.rs` | connections and their limits |
//! | `guard.rs` | who may ask: keys, hosts, origins |
//! | `app.rs` | the paths, and small answers |
//! | `body.rs`, `fields.rs` | bodies, and their fields one by one |
//! | `completions/` | what is asked for, the texts that it becomes, and answers |
//! | `error.rs` | refusals in OpenAI's form |
//! | `metrics.rs` | counts for Prometheus |

mod app;
mod body;
mod completions;
mod connections;
mod error;
mod fields;
mod guard;
mod listen;
mod metrics;

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use esolm::{ChatTemplate, ChatTemplateError, Recommended, Serving};
use tokio::runtime::Runtime;

use app::{App, Model, Workers};
pub use guard::Guard;
use metrics::Metrics;

/// What a client may take of the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of a request's body.
    pub body_bytes: usize,
    /// Time for the head of a request, from when the connection is ready for one: so idle connections end as well.
    pub header: Duration,
    /// Time for its body.
    pub body: Duration,
    /// Time in which a client takes something of an answer that waits for it.
    pub stalled: Duration,
    /// Connections at once. Beyond it the one that has waited longest for a request is closed.
    pub connections: usize,
    /// Time for what is under way once the server is to end.
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

/// A model and the name that clients give it.
pub struct ServedModel {
    /// Its name.
    pub name: String,
    /// The model, which has a tokenizer.
    pub serving: Serving,
    /// Its chat template, or why it cannot be talked to.
    pub chat: Result<ChatTemplate, ChatTemplateError>,
    /// How its checkpoint recommends to sample.
    pub recommended: Recommended,
}

/// Why nothing is served.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The address cannot be listened on.
    #[error("cannot listen on {address} ({reason})")]
    Address {
        /// The address.
        address: SocketAddr,
        /// The system's answer.
        reason: String,
    },
    /// The system gives no thread.
    #[error("a thread could not be started ({0})")]
    Thread(String),
    /// Two models of one name.
    #[error("two models are called {0}")]
    SameName(String),
    /// Not one model.
    #[error("there is no model to serve")]
    NoModel,
    /// Texts without a tokenizer.
    #[error("the model {0} was loaded without a tokenizer, which serving needs")]
    NoTokenizer(String),
}

/// A server that listens and does not answer yet, so that an address which is taken is known before models are loaded.
pub struct Server {
    listener: TcpListener,
    address: SocketAddr,
    guard: Guard,
    limits: Limits,
}

impl Server {
    /// Listens on an address; port 0 is any that is free.
    ///
    /// # Errors
    /// When it cannot be listened on.
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

    /// Answers until `stop` is set; then what is under way ends, within a limit. Blocks, and gives the models up.
    ///
    /// # Errors
    /// When the models cannot be served, or the system gives no thread.
    pub fn run(self, models: Vec<ServedModel>, stop: &AtomicBool) -> Result<(), ServeError> {
        let models = checked(models)?;
        let threads = |error: io::Error| ServeError::Thread(error.to_string());
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .thread_name("esolm-http")
            .worker_threads(2)
            .enable_io()
            .enable_time()
            .build()
            .map_err(threads)?;
        let servings: Vec<Serving> = models.iter().map(|m| m.serving.clone()).collect();
        self.serve(&runtime, models, stop).map_err(threads)?;
        // What did not end in time is dropped, and with it the texts that nobody will read.
        runtime.shutdown_timeout(Duration::from_secs(1));
        let closing = tokio::runtime::Builder::new_current_thread()
            .build()
            .map_err(threads)?;
        for serving in servings {
            closing.block_on(serving.close());
        }
        Ok(())
    }

    fn serve(self, runtime: &Runtime, models: Vec<Model>, stop: &AtomicBool) -> io::Result<()> {
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
        runtime.block_on(async {
            let listener = tokio::net::TcpListener::from_std(self.listener)?;
            listen::listen(listener, router, &self.limits, &metrics, stop).await;
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
