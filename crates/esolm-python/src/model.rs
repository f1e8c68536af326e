//! A loaded model.

use std::path::PathBuf;
use std::sync::Mutex;

use esolm::text::TextCodec;
use esolm::{
    Chat, ChatOptions, Corpus, Echo, Error, Forward, Likelihood, Message, PerplexityOptions,
    Request, ScoreItem, ScoreOptions,
};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::error::Failure;
use crate::files::{self, Device, Info, Load, Loaded, Talks};
use crate::run::{Answering, Generation, UnderWay, lock};
use crate::value::{argument, fields, options, plain, read, value};
use crate::wait::{Held, wait, wait_for};

/// What there is to compute with: the adapters of this machine.
#[pyfunction]
pub fn devices(py: Python<'_>) -> PyResult<Bound<'_, PyAny>> {
    let found = py.detach(esolm::adapters);
    value(py, &found)
}

/// A loaded model. Its calls are carried out one after the other, whichever thread makes them.
#[pyclass(frozen, module = "esolm._esolm")]
pub struct Model {
    /// The conversation, which knows what of it stands in the cache; the messages come with each call. It is dropped before the model, as it
    /// holds the model too.
    chat: Mutex<Option<Chat>>,
    model: Held<esolm::Model>,
    info: Py<PyAny>,
    under_way: UnderWay,
}

/// How texts that are scored are said, with what a corpus has besides.
#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct Measure {
    alpha_0: Option<f64>,
    orders: Option<u32>,
    draws: Option<u32>,
    #[serde(with = "esolm::trace::optional_seed")]
    seed: Option<u64>,
    batch: Option<usize>,
    length: Option<usize>,
    max_windows: Option<usize>,
    ascii_only: bool,
    per_document: bool,
    bos: Option<bool>,
}

/// What was measured, with the figures of single documents.
#[derive(Serialize)]
struct Measured<'a> {
    #[serde(flatten)]
    all: &'a esolm::Perplexity,
    per_document: Vec<Document<'a>>,
}

#[derive(Serialize)]
struct Document<'a> {
    index: usize,
    #[serde(flatten)]
    score: &'a esolm::Score,
}

/// A token with its log-probability.
#[derive(Serialize)]
struct Told {
    token: u32,
    logprob: f32,
    /// The most likely ones, the most likely one first.
    top: Vec<(u32, f32)>,
}

#[pymethods]
impl Model {
    /// Loads what a source names, without one the small model inside the package.
    #[staticmethod]
    fn load(py: Python<'_>, given: Option<PathBuf>, how: &Bound<'_, PyDict>) -> PyResult<Self> {
        let load: Load = options(how)?;
        let how = load.options()?;
        let source = files::source(given)?;
        let files = wait_for(py, move || load.open(source.as_deref()))??;
        let info = value(py, &Info::of(&files))?;
        let model = wait(py, esolm::Model::load(files, how))?.map_err(Failure::from)?;
        let model = Held::new(model);
        // Why another model cannot be talked to is told when somebody tries.
        let chat = Chat::new(&model, ChatOptions::default()).ok();
        let loaded = value(
            py,
            &Loaded {
                chat: chat.as_ref().map(|chat| Talks {
                    think: chat.asks_for_thinking(),
                }),
                device: Device {
                    info: model.device(),
                    text: model.device().to_string(),
                },
            },
        )?;
        info.cast::<PyDict>()?
            .update(loaded.cast::<PyDict>()?.as_mapping())?;
        Ok(Self {
            chat: Mutex::new(chat),
            model,
            info: info.unbind(),
            under_way: UnderWay::new(),
        })
    }

    /// What the model is, and what runs it.
    #[getter]
    fn info(&self, py: Python<'_>) -> Py<PyAny> {
        self.info.clone_ref(py)
    }

    /// Texts step by step. They begin when the first step is asked for.
    fn generate(&self, how: &Bound<'_, PyDict>) -> PyResult<Generation> {
        self.under_way.check()?;
        let request: Request = options(how)?;
        let run = self.model.generate(request);
        Ok(Generation::new(run, self.under_way.clone()))
    }

    /// Whole texts. Nothing is read back from a GPU before their end.
    fn texts(&self, py: Python<'_>, how: &Bound<'_, PyDict>) -> PyResult<Vec<String>> {
        let request: Request = options(how)?;
        let run = self.model.generate(request).unobserved();
        Ok(self.call(py, run.finish())?.text)
    }

    /// An answer to a conversation.
    fn chat(&self, said: &Bound<'_, PyAny>, how: &Bound<'_, PyDict>) -> PyResult<Answering> {
        self.under_way.check()?;
        let messages: Vec<Message> = argument("messages", said)?;
        let mut how = fields(how)?;
        let mut own = |name: &str| how.remove(name).unwrap_or(Value::Null);
        let (max_tokens, think) = (own("max_tokens"), own("think"));
        let options = ChatOptions {
            max_tokens: read(max_tokens).map_err(|failure| failure.about("max_tokens"))?,
            think: read(think).map_err(|failure| failure.about("think"))?,
            request: read(Value::Object(how))?,
        };
        let mut chat = lock(&self.chat);
        let chat = match &mut *chat {
            Some(chat) => chat,
            none => {
                none.insert(Chat::new(&self.model, ChatOptions::default()).map_err(Failure::from)?)
            }
        };
        chat.options = options;
        chat.set_messages(messages);
        Ok(Answering::new(chat.answer(), self.under_way.clone()))
    }

    /// What the chat template makes of messages.
    #[pyo3(signature = (said, add_generation_prompt, think))]
    fn chat_prompt(
        &self,
        py: Python<'_>,
        said: &Bound<'_, PyAny>,
        add_generation_prompt: bool,
        think: Option<bool>,
    ) -> PyResult<String> {
        let options = ChatOptions {
            think,
            ..ChatOptions::default()
        };
        let messages: Vec<Message> = argument("messages", said)?;
        let prompt = py.detach(|| {
            // One of its own, so that the conversation under way stays as it is.
            let mut chat = Chat::new(&self.model, options)?;
            chat.set_messages(messages);
            chat.prompt(add_generation_prompt)
        });
        Ok(prompt.map_err(Failure::from)?)
    }

    /// Log-likelihoods of items: for each its scores, and what had to be done to it.
    fn score<'py>(
        &self,
        py: Python<'py>,
        items: Vec<Bound<'py, PyAny>>,
        how: &Bound<'py, PyDict>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let options: ScoreOptions = options(how)?;
        let items = items.iter().enumerate().map(|(index, item)| {
            read::<ScoreItem>(plain(&format!("item {index}"), item)?).map_err(|_| {
                let message = format!(
                    "item {index} is neither a text nor a dictionary with context and choices, or with prefix, middle and suffix; give one of these"
                );
                Failure::new("option", message).with(serde_json::json!({"index": index}))
            })
        });
        let items: Vec<ScoreItem> = items.collect::<Result<_, _>>()?;
        let scored = self.call(py, self.model.score(items, options))?;
        value(py, &scored)
    }

    /// How well the model predicts texts, or sequences of tokens in orders of their own.
    #[pyo3(signature = (documents, tokens, orders, how))]
    fn perplexity<'py>(
        &self,
        py: Python<'py>,
        documents: Option<Bound<'py, PyAny>>,
        tokens: Option<Vec<Vec<u32>>>,
        orders: Option<Vec<Vec<u32>>>,
        how: &Bound<'py, PyDict>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let measure: Measure = options(how)?;
        let options = PerplexityOptions {
            likelihood: Likelihood {
                alpha_0: measure.alpha_0,
                orders: measure.orders,
                draws: measure.draws,
                seed: measure.seed,
                batch: measure.batch,
            },
            length: measure.length,
            max_windows: measure.max_windows,
            ascii_only: measure.ascii_only,
            per_document: measure.per_document,
            bos: measure.bos,
            ..PerplexityOptions::default()
        };
        let corpus = match (documents, tokens) {
            (Some(documents), _) => Corpus::Documents(argument("documents", &documents)?),
            (None, tokens) => Corpus::Tokens {
                tokens: tokens.unwrap_or_default(),
                orders,
            },
        };
        let measured = self.call(py, self.model.perplexity(corpus, options))?;
        let per_document = measured.per_document.iter();
        let measured = Measured {
            per_document: per_document
                .map(|(index, score)| Document {
                    index: *index,
                    score,
                })
                .collect(),
            all: &measured,
        };
        value(py, &measured)
    }

    /// Log-probabilities of given tokens.
    fn echo<'py>(
        &self,
        py: Python<'py>,
        texts: Vec<(Vec<u32>, usize)>,
        alpha_0: Option<f64>,
        seed: u64,
        top: usize,
    ) -> PyResult<Bound<'py, PyAny>> {
        let echoes = texts.into_iter().map(|(tokens, given)| Echo {
            tokens,
            given,
            alpha_0,
            seed,
            top,
        });
        let told = self.call(py, self.model.echo(echoes.collect()))?;
        let told = told.into_iter().map(|text| {
            let tokens = text.into_iter().map(|token| {
                token.map(|log_prob| Told {
                    token: log_prob.token,
                    logprob: log_prob.logp,
                    top: log_prob.top,
                })
            });
            tokens.collect::<Vec<_>>()
        });
        value(py, &told.collect::<Vec<_>>())
    }

    /// Logits of one pass, as bytes of f32 `[rows, V]`.
    fn forward<'py>(
        &self,
        py: Python<'py>,
        given: &Bound<'py, PyDict>,
    ) -> PyResult<Bound<'py, PyBytes>> {
        let pass: Forward = options(given)?;
        let logits = self.call(py, self.model.forward(pass))?;
        Ok(PyBytes::new(py, bytemuck::cast_slice(&logits)))
    }

    /// Tokens of a text.
    fn encode(&self, py: Python<'_>, text: &Bound<'_, PyAny>) -> PyResult<Vec<u32>> {
        let text: String = argument("text", text)?;
        let codec = self.codec()?;
        let tokens = py.detach(|| codec.encode(&text));
        Ok(tokens.map_err(Failure::from)?)
    }

    /// Text of tokens, special ones written with their names.
    fn decode(&self, py: Python<'_>, tokens: Vec<u32>) -> PyResult<String> {
        let codec = self.codec()?;
        Ok(py.detach(|| codec.decode(&tokens)))
    }

    /// Name and device.
    fn __repr__(&self) -> String {
        format!("{} on {}", self.model.name(), self.model.device())
    }
}

impl Model {
    /// Carries a call out and waits for it.
    fn call<F, T>(&self, py: Python<'_>, call: F) -> Result<T, Failure>
    where
        F: Future<Output = Result<T, Error>> + Send,
        T: Send,
    {
        self.under_way.check()?;
        Ok(wait(py, call).map_err(Failure::Python)??)
    }

    fn codec(&self) -> Result<&TextCodec, Failure> {
        self.model
            .codec()
            .ok_or_else(|| Error::NeedsTokenizer.into())
    }
}
