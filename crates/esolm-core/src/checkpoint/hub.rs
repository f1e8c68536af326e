//! `hf:owner/name`: a model of the Hugging Face hub, through its usual cache.
//!
//! `HF_HOME` places the cache, `HF_ENDPOINT` the hub, `HF_TOKEN` (or the token file of a login) opens private repositories.
//! What lies in the cache is not asked for again, so a model that was fetched once opens without a network; `HF_HUB_OFFLINE=1` opens
//! nothing else.

use std::path::PathBuf;

use hf_hub::api::sync::{ApiBuilder, ApiError, ApiRepo};
use hf_hub::{Cache, CacheRepo, Repo, RepoType};

use super::open::{OWN_WEIGHTS, read_text};
use super::shards::Index;
use super::tokenizer::OTHER_FORMS;
use super::{CheckpointError, HubError, OpenOptions, WEIGHTS, beside, chat};

/// What belongs to a `vocab.json`.
const MERGES: &str = "merges.txt";
const DEFAULT_ENDPOINT: &str = "https://huggingface.co";

/// Where the files of a model lie after fetching.
pub(super) struct Files {
    pub config: Option<PathBuf>,
    pub weights: PathBuf,
    pub tokenizer: Option<PathBuf>,
}

/// Fetches the files of `owner/name` or `owner/name@revision`. Beside a configuration in the options, that of the repository counts if
/// there is one.
pub(super) fn fetch(spec: &str, options: &OpenOptions) -> Result<Files, CheckpointError> {
    let (name, revision) = parse(spec).ok_or_else(|| CheckpointError::HubName {
        spec: format!("hf:{spec}"),
    })?;
    let repo = Repo::with_revision(name.into(), RepoType::Model, revision.into());
    let endpoint = std::env::var("HF_ENDPOINT").unwrap_or_else(|_| DEFAULT_ENDPOINT.into());
    let mut hub = Hub {
        name,
        endpoint: endpoint.trim_end_matches('/').into(),
        cached: Cache::from_env().repo(repo.clone()),
        api: None,
    };
    if !is_offline() {
        hub.connect(repo, options.progress)?;
    }
    // Before the weights, so that weights in the cache mean that these were asked for: without a network, and a hub model without them,
    // the model must still open.
    let config = match options.config {
        None => Some(hub.get("config.json")?),
        Some(_) => hub.optional("config.json")?,
    };
    let tokenizer = hub.optional("tokenizer.json")?;
    for name in beside::NAMING.into_iter().chain([chat::TEMPLATE]) {
        hub.optional(name)?; // found beside the weights
    }
    if tokenizer.is_none() {
        let others = OTHER_FORMS.into_iter().chain([MERGES]);
        let others = others.filter(|name| !beside::TABLES.contains(name));
        for name in beside::TABLES.into_iter().chain(others) {
            hub.optional(name)?; // found beside the weights
        }
    }
    let weights = hub.weights()?;
    Ok(Files {
        config,
        weights,
        tokenizer,
    })
}

/// Whether the variable of the hub's own tools forbids the network, in any of the spellings that they take.
fn is_offline() -> bool {
    let value = std::env::var("HF_HUB_OFFLINE").unwrap_or_default();
    ["1", "true", "yes", "on"].contains(&value.to_ascii_lowercase().as_str())
}

/// Splits `owner/name[@revision]`. The parts become a URL and a path in the cache, so only what the hub allows passes.
fn parse(spec: &str) -> Option<(&str, &str)> {
    let (name, revision) = spec.split_once('@').unwrap_or((spec, "main"));
    let plain = |part: &str| {
        let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
        !part.is_empty()
            && part.len() <= 96
            && !part.starts_with('.')
            && !part.contains("..")
            && part.bytes().all(allowed)
    };
    let (owner, model) = name.split_once('/')?;
    let sound = plain(owner) && plain(model) && revision.split('/').all(plain);
    sound.then_some((name, revision))
}

struct Hub<'a> {
    name: &'a str,
    endpoint: String,
    cached: CacheRepo,
    /// None offline.
    api: Option<ApiRepo>,
}

impl Hub<'_> {
    fn connect(&mut self, repo: Repo, progress: bool) -> Result<(), CheckpointError> {
        if !self.endpoint.starts_with("http://") && !self.endpoint.starts_with("https://") {
            return Err(self.error("config.json", HubError::Endpoint));
        }
        let mut builder = ApiBuilder::from_env()
            .with_endpoint(self.endpoint.clone())
            .with_progress(progress)
            .with_user_agent("esolm", env!("CARGO_PKG_VERSION"));
        if let Ok(token) = std::env::var("HF_TOKEN")
            && !token.is_empty()
        {
            builder = builder.with_token(Some(token));
        }
        let api = builder.build();
        let api = api.map_err(|error| self.explain("config.json", &error))?;
        self.api = Some(api.repo(repo));
        Ok(())
    }

    /// A file from the cache or the hub; `None` when neither has it.
    fn find(&self, file: &str) -> Result<Option<PathBuf>, CheckpointError> {
        let Some(api) = &self.api else {
            return Ok(self.cached.get(file));
        };
        match api.get(file) {
            Ok(path) => Ok(Some(path)),
            Err(error) if status(&error) == Some(404) => Ok(None),
            Err(error) => Err(self.explain(file, &error)),
        }
    }

    fn get(&self, file: &str) -> Result<PathBuf, CheckpointError> {
        self.find(file)?.ok_or_else(|| self.missing(file))
    }

    fn missing(&self, file: &str) -> CheckpointError {
        let why = match self.api {
            Some(_) => HubError::NotFound,
            None => HubError::Offline,
        };
        self.error(file, why)
    }

    /// A file that the repository need not have.
    fn optional(&self, file: &str) -> Result<Option<PathBuf>, CheckpointError> {
        let weights = || {
            OWN_WEIGHTS
                .iter()
                .any(|name| self.cached.get(name).is_some())
        };
        match self.cached.get(file) {
            None if weights() => Ok(None),
            None => self.find(file),
            there => Ok(there),
        }
    }

    /// Fetches the weights by the first of their names that the cache or the repository has.
    fn weights(&self) -> Result<PathBuf, CheckpointError> {
        let there = OWN_WEIGHTS
            .iter()
            .find(|name| self.cached.get(name).is_some());
        for name in there.into_iter().chain(&OWN_WEIGHTS) {
            let Some(path) = self.find(name)? else {
                continue;
            };
            if name.ends_with(".index.json") {
                for file in Index::read(&path, &read_text(&path)?)?.files() {
                    self.get(file)?;
                }
            }
            return Ok(path);
        }
        Err(self.missing(WEIGHTS))
    }

    fn error(&self, file: &str, source: HubError) -> CheckpointError {
        CheckpointError::Hub {
            repo: self.name.into(),
            file: file.into(),
            endpoint: self.endpoint.clone(),
            source,
        }
    }

    fn explain(&self, file: &str, error: &ApiError) -> CheckpointError {
        let source = match (status(error), error) {
            (Some(404), _) => HubError::NotFound,
            (Some(code @ (401 | 403)), _) => HubError::Refused(code),
            (Some(code), _) => HubError::Status(code),
            (None, ApiError::LockAcquisition(path)) => HubError::Locked(path.clone()),
            (None, ApiError::InvalidResume) => HubError::Partial,
            (None, ApiError::MissingHeader(header)) => HubError::Header(header.to_string()),
            (None, other) => HubError::Network(other.to_string()),
        };
        self.error(file, source)
    }
}

/// The HTTP status of an answer that is an error.
fn status(error: &ApiError) -> Option<u16> {
    match error {
        ApiError::RequestError(error) => match **error {
            ureq::Error::StatusCode(code) => Some(code),
            _ => None,
        },
        ApiError::TooManyRetries(error) => status(error),
        _ => None,
    }
}
