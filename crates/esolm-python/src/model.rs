//! A loaded model.

use std::path::PathBuf;

use esolm::checkpoint::{Checkpoint, OpenOptions};
use esolm::config::{Family, ReadAs};
use esolm::text::TextCodec;
use esolm::{
    Activations, Corpus, Forward, LoadOptions, MaskMode, ModelFiles, PerplexityOptions, Precision,
    Request, ScoreItem, ScoreOptions, Weights,
};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict};
use serde::{Deserialize, Serialize};

use crate::error::{Failure, options, value};
use crate::generation::Generation;
use crate::wait::wait;

/// How a model is opened and loaded.
#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct Load {
    device: Option<String>,
    weights: Option<Weights>,
    activations: Activations,
    kv_cache: Precision,
    raw_weights: bool,
    read_as: Option<Family>,
    block_size: Option<usize>,
    config: Option<PathBuf>,
    tokenizer: Option<PathBuf>,
}

/// The name of the small model inside the package.
const SHIPPED: &str = "stories";

/// Opens a checkpoint, without loading its weights.
fn open(source: Option<&str>, load: &Load) -> Result<ModelFiles, Failure> {
    let read_as = ReadAs {
        family: load.read_as,
        block_size: load.block_size,
        mask: None,
    };
    let Some(source) = source else {
        let checkpoint =
            Checkpoint::from_safetensors_bytes(esolm_stories::CONFIG, esolm_stories::WEIGHTS.to_vec())?
                .with_tokenizer_json(esolm_stories::TOKENIZER)
                .with_generation_config(esolm_stories::GENERATION, SHIPPED)?;
        let codec = TextCodec::of_checkpoint(&checkpoint)?;
        return Ok(ModelFiles::new(SHIPPED, checkpoint, codec));
    };
    let checkpoint = Checkpoint::open(
        source,
        &OpenOptions {
            config: load.config.clone(),
            raw_weights: load.raw_weights,
            progress: false,
            read_as,
        },
    )?;
    let codec = match &load.tokenizer {
        Some(path) => Some(TextCodec::from_file(path, checkpoint.config())?),
        None => TextCodec::of_checkpoint(&checkpoint)?,
    };
    Ok(ModelFiles::new(source, checkpoint, codec))
}

/// What a checkpoint is, from its configuration and tensor directory, as a dictionary. Nothing is loaded.
#[pyfunction]
#[pyo3(signature = (source=None, **kwargs))]
pub fn inspect<'py>(
    py: Python<'py>,
    source: Option<String>,
    kwargs: Option<&Bound<'py, PyDict>>,
) -> PyResult<Bound<'py, PyAny>> {
    let load: Load = options(kwargs)?;
    let files = py.detach(|| open(source.as_deref(), &load))?;
    value(py, &Inspected::of(&files))
}

/// What there is to compute with: the adapters of this machine, as dictionaries.
#[pyfunction]
pub fn devices(py: Python<'_>) -> PyResult<Bound<'_, PyAny>> {
    let found = py.detach(esolm::adapters);
    value(py, &found)
}

#[derive(Serialize)]
struct Inspected<'a> {
    #[serde(flatten)]
    config: &'a esolm::config::ModelConfig,
    name: &'a str,
    parameters: u64,
    file_bytes: u64,
    has_tokenizer: bool,
    recommended: &'a esolm::Recommended,
}

impl<'a> Inspected<'a> {
    fn of(files: &'a ModelFiles) -> Self {
        Self {
            config: files.config(),
            name: files.name(),
            parameters: files.checkpoint().count(),
            file_bytes: files.checkpoint().file_bytes(),
            has_tokenizer: files.codec().is_some(),
            recommended: files.recommended(),
        }
    }
}

/// A loaded model. It does one thing at a time; calls from several threads are carried out one after the other.
#[pyclass(frozen, module = "esolm")]
pub struct Model {
    model: esolm::Model,
    info: Py<PyAny>,
}

#[pymethods]
impl Model {
    /// Loads a folder, a .safetensors file, a Lightning .ckpt or `hf:owner/name`; without a source the small model inside the package.
    #[staticmethod]
    #[pyo3(signature = (source=None, **kwargs))]
    fn load(
        py: Python<'_>,
        source: Option<PathBuf>,
        kwargs: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<Self> {
        let load: Load = options(kwargs)?;
        let device = load.device.as_deref().unwrap_or("auto");
        let load_options = LoadOptions {
            device: device.parse().map_err(Failure::from)?,
            weights: load.weights,
            activations: load.activations,
            kv_cache: load.kv_cache,
            ..LoadOptions::default()
        };
        let source = source.map(|path| path.to_string_lossy().into_owned());
        let files = py.detach(|| open(source.as_deref(), &load))?;
        let info = value(py, &Inspected::of(&files))?.unbind();
        let model = wait(py, esolm::Model::load(files, load_options))?.map_err(Failure::from)?;
        Ok(Self { model, info })
    }

    /// What the model is: the fields of `esolm inspect --json`.
    #[getter]
    fn info(&self, py: Python<'_>) -> Py<PyAny> {
        self.info.clone_ref(py)
    }

    /// What runs it, in one line.
    #[getter]
    fn device(&self) -> String {
        self.model.device().to_string()
    }

    /// Writes texts, step by step.
    #[pyo3(signature = (**kwargs))]
    fn generate(&self, kwargs: Option<&Bound<'_, PyDict>>) -> PyResult<Generation> {
        let request: Request = options(kwargs)?;
        Ok(Generation::new(self.model.generate(request)))
    }

    /// Writes one text and returns it; nothing is read back from the device before its end.
    #[pyo3(signature = (**kwargs))]
    fn text(&self, py: Python<'_>, kwargs: Option<&Bound<'_, PyDict>>) -> PyResult<String> {
        let request: Request = options(kwargs)?;
        Ok(wait(py, self.model.text(request))?.map_err(Failure::from)?)
    }

    /// Log-likelihoods of items: each a text, `{"context", "choices"}` or `{"prefix", "middle", "suffix"}`.
    #[pyo3(signature = (items, **kwargs))]
    fn score<'py>(
        &self,
        py: Python<'py>,
        items: &Bound<'py, PyAny>,
        kwargs: Option<&Bound<'py, PyDict>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let options: ScoreOptions = options(kwargs)?;
        let items: Vec<ScoreItem> = pythonize::depythonize(items).map_err(|_| {
            Failure::Option(
                "each item is a text, {\"context\": …, \"choices\": […]} or {\"prefix\": …, \"middle\": …, \"suffix\": …}".into(),
            )
        })?;
        let scored = wait(py, self.model.score(items, options))?.map_err(Failure::from)?;
        value(py, &scored)
    }

    /// How well the model predicts documents.
    #[pyo3(signature = (documents, *, alpha_0=None, orders=None, draws=None, seed=None, length=None, per_document=false))]
    #[allow(clippy::too_many_arguments, reason = "keyword arguments of Python")]
    fn perplexity<'py>(
        &self,
        py: Python<'py>,
        documents: Vec<String>,
        alpha_0: Option<f64>,
        orders: Option<u32>,
        draws: Option<u32>,
        seed: Option<u64>,
        length: Option<usize>,
        per_document: bool,
    ) -> PyResult<Bound<'py, PyAny>> {
        let options = PerplexityOptions {
            likelihood: esolm::Likelihood {
                alpha_0,
                orders,
                draws,
                seed,
                batch: None,
            },
            length,
            per_document,
            ..PerplexityOptions::default()
        };
        let corpus = Corpus::Documents(documents);
        let measured = wait(py, self.model.perplexity(corpus, options))?.map_err(Failure::from)?;
        value(py, &measured)
    }

    /// Logits of one pass as bytes of f32, `[rows, V]`: `esolm.Model.logits` makes an array of them.
    fn _logits<'py>(
        &self,
        py: Python<'py>,
        mode: &str,
        order: Vec<Vec<u32>>,
        tokens: Vec<Vec<u32>>,
        clean: Option<Vec<Vec<u32>>>,
    ) -> PyResult<Bound<'py, PyBytes>> {
        let pass = Forward::Sorted {
            mode: match mode {
                "causal" => MaskMode::Causal,
                "bidirectional" => MaskMode::Bidirectional,
                "mixed" => MaskMode::Mixed,
                "mixed2" => MaskMode::Mixed2,
                other => {
                    return Err(Failure::Option(format!(
                        "mode is {other:?}; it must be \"causal\", \"bidirectional\", \"mixed\" or \"mixed2\""
                    ))
                    .into());
                }
            },
            sort_idx: order,
            zt_sorted: tokens,
            x0_sorted: clean,
        };
        let logits = wait(py, self.model.forward(pass))?.map_err(Failure::from)?;
        let bytes: Vec<u8> = logits.into_iter().flat_map(f32::to_ne_bytes).collect();
        Ok(PyBytes::new(py, &bytes))
    }

    /// Tokens of a text.
    fn encode(&self, text: &str) -> PyResult<Vec<u32>> {
        Ok(self.codec()?.encode(text).map_err(Failure::from)?)
    }

    /// Text of tokens, special ones written with their names.
    fn decode(&self, tokens: Vec<u32>) -> PyResult<String> {
        Ok(self.codec()?.decode(&tokens))
    }

    fn __repr__(&self) -> String {
        format!("<esolm.Model {} on {}>", self.model.name(), self.model.device())
    }
}

impl Model {
    fn codec(&self) -> Result<&TextCodec, Failure> {
        self.model
            .codec()
            .ok_or_else(|| esolm::Error::NeedsTokenizer.into())
    }
}
