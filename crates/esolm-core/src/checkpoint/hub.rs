//! `hf:owner/name`: a model of the Hugging Face hub, through its usual cache.
//!
//! `HF_HOME` places the cache, `HF_ENDPOINT` the hub, `HF_TOKEN` (or the token file of a login) opens private repositories.
//! What lies in the cache is not asked for again, so a model that was fetched once opens without a network.

use std::path::PathBuf;

use hf_hub::api::sync::{ApiBuilder, ApiError, ApiRepo};
use hf_hub::{Cache, CacheRepo, Repo, RepoType};

use super::open::OWN_WEIGHTS;
use super::{CheckpointError, FileError, HubError, WEIGHTS, shards};

const DEFAULT_ENDPOINT: &str = "https://huggingface.co";

/// Where the files of a model lie after fetching.
pub(super) struct Files {
    pub config: Option<PathBuf>,
    pub weights: PathBuf,
    pub tokenizer: Option<PathBuf>,
}

/// Fetches the files of `owner/name` or `owner/name@revision`; `with_config` is false when the caller has a configuration,
/// beside which that of the repository counts if there is one.
pub(super) fn fetch(spec: &str, with_config: bool) -> Result<Files, CheckpointError> {
    let (name, revision) = parse(spec).ok_or_else(|| CheckpointError::HubName {
        spec: format!("hf:{spec}"),
    })?;
    let endpoint = std::env::var("HF_ENDPOINT").unwrap_or_else(|_| DEFAULT_ENDPOINT.into());
    let hub = Hub {
        name,
        endpoint: endpoint.trim_end_matches('/').into(),
    };
    if !hub.endpoint.starts_with("http://") && !hub.endpoint.starts_with("https://") {
        return Err(hub.error("config.json", HubError::Endpoint));
    }
    let repo = Repo::with_revision(name.into(), RepoType::Model, revision.into());
    let cached = Cache::from_env().repo(repo.clone());
    let mut builder = ApiBuilder::from_env()
        .with_endpoint(hub.endpoint.clone())
        .with_user_agent("esolm", env!("CARGO_PKG_VERSION"));
    if let Ok(token) = std::env::var("HF_TOKEN")
        && !token.is_empty()
    {
        builder = builder.with_token(Some(token));
    }
    let api = builder
        .build()
        .map_err(|error| hub.explain("config.json", &error))?
        .repo(repo);

    // Before the weights, so that weights in the cache mean that these were asked for: without a network, and a hub model without them,
    // the model must still open.
    let optional = |file| match cached.get(file) {
        Some(path) => Ok(Some(path)),
        None if OWN_WEIGHTS.iter().any(|name| cached.get(name).is_some()) => Ok(None),
        None => match api.get(file) {
            Ok(path) => Ok(Some(path)),
            Err(error) if status(&error) == Some(404) => Ok(None),
            Err(error) => Err(hub.explain(file, &error)),
        },
    };
    let config = match with_config {
        true => Some(hub.get(&api, "config.json")?),
        false => optional("config.json")?,
    };
    let tokenizer = optional("tokenizer.json")?;
    let weights = hub.weights(&api, &cached)?;
    Ok(Files {
        config,
        weights,
        tokenizer,
    })
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
}

impl Hub<'_> {
    fn get(&self, api: &ApiRepo, file: &str) -> Result<PathBuf, CheckpointError> {
        api.get(file).map_err(|error| self.explain(file, &error))
    }

    /// Fetches the weights by the first of their names that the cache or the repository has.
    fn weights(&self, api: &ApiRepo, cached: &CacheRepo) -> Result<PathBuf, CheckpointError> {
        let there = OWN_WEIGHTS.iter().find(|name| cached.get(name).is_some());
        for name in there.into_iter().chain(&OWN_WEIGHTS) {
            let path = match api.get(name) {
                Err(error) if status(&error) == Some(404) => continue,
                path => path.map_err(|error| self.explain(name, &error))?,
            };
            if name.ends_with(".index.json") {
                let fail = |problem| CheckpointError::Index {
                    path: path.clone(),
                    problem,
                };
                let text = std::fs::read_to_string(&path);
                let text = text.map_err(|error| FileError::io("read", &path, error))?;
                for file in shards::files(&text).map_err(fail)? {
                    self.get(api, &file)?;
                }
            }
            return Ok(path);
        }
        Err(self.error(WEIGHTS, HubError::NotFound))
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
