//! A loaded model.

use std::cell::RefCell;

use esolm::checkpoint::Checkpoint;
use esolm::config::{AttentionKind, ConfigError, Family, ModelConfig, ReadAs};
use esolm::plan::Plan;
use esolm::sampler::{Crossing, Sampler};
use esolm::text::TextCodec;
use esolm::trace::Header;
use esolm::{
    Activations, Chat, ChatOptions, DeviceInfo, Error, LoadOptions, Model, ModelFiles, Precision,
    Recommended, ScoreItem, Weights,
};
use serde::{Deserialize, Serialize};
use wasm_bindgen::prelude::wasm_bindgen;

use crate::abort::{AbortSignal, unless_aborted};
use crate::chat::{WasmAnswer, messages, options};
use crate::error::Failure;
use crate::json::{json, parse};
use crate::run::WasmRun;
use crate::source::Source;

/// Filters that restrict which tokens a replay draws from.
#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct Filters {
    top_k: Option<u32>,
    top_p: Option<f32>,
    top_p_crossing: Crossing,
    min_p: Option<f32>,
}

/// How a model is loaded.
#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct Load {
    device: Option<String>,
    /// `None`: as stored.
    weights: Option<Weights>,
    activations: Activations,
    kv_cache: Precision,
    variants: String,
    raw_weights: bool,
    /// MDLM or BD3-LM, for a decoder that can be either.
    #[serde(rename = "as")]
    family: Option<Family>,
    /// Tokens per block of such a BD3-LM.
    block_size: Option<usize>,
    /// The model's name in traces.
    name: String,
}

/// What the model is, and what it runs on.
#[derive(Serialize)]
struct Info<'a> {
    family: Family,
    attention: AttentionKind,
    hidden: usize,
    n_blocks: usize,
    n_heads: usize,
    length: usize,
    vocab_size: usize,
    mask_index: u32,
    alpha_0: Option<f64>,
    block_size: Option<usize>,
    parameters: u64,
    bos: Option<u32>,
    eos: Option<u32>,
    has_tokenizer: bool,
    recommended: &'a Recommended,
    file_bytes: u64,
    /// For models that can hold a conversation.
    chat: Option<Talks>,
    device: Device<'a>,
}

/// How a model converses.
#[derive(Serialize)]
struct Talks {
    /// Whether its template has a switch for thinking.
    think: bool,
}

#[derive(Serialize)]
struct Device<'a> {
    #[serde(flatten)]
    info: &'a DeviceInfo,
    /// A one-line description for users.
    text: String,
}

/// The first line of a trace, with the plan.
#[derive(Serialize)]
struct Planned {
    #[serde(flatten)]
    header: Header,
    plan: Plan,
}

/// How a model is to be held in memory.
#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct Holding {
    weights: Option<Weights>,
    #[serde(rename = "as")]
    family: Option<Family>,
    block_size: Option<usize>,
}

/// Memory that a model needs, in bytes.
#[derive(Serialize)]
struct MemoryNeeded {
    /// Its weights, and buffers used while they are read.
    model: u64,
    /// The cache of a text as long as the context.
    cache: u64,
}

/// The memory that a model needs, as JSON, from its configuration (the text of config.json) alone. `options` is JSON:
/// `weights`, f32 by default, and what the configuration leaves open.
///
/// # Errors
/// If the configuration is not that of a supported model.
#[wasm_bindgen]
pub fn memory_needed(config: &str, options: &str) -> Result<String, Failure> {
    let Holding {
        weights,
        family,
        block_size,
    } = parse(options)?;
    let mut read_as = ReadAs {
        family,
        block_size,
        mask: None,
    };
    let mut read = ModelConfig::from_json_as(config, &read_as);
    if let Err(ConfigError::Open(open)) = &read {
        // Settings that only the model's other files or the user can supply make no difference to the memory needed.
        read_as.family = read_as.family.or(open.model_type.map(|_| Family::Mdlm));
        read_as.block_size = read_as.block_size.or(open.block_size.then_some(1));
        read_as.mask = open.mask.then_some(0);
        read = ModelConfig::from_json_as(config, &read_as);
    }
    let config = read.map_err(|error| Failure::new("checkpoint", error.to_string()))?;
    let [model, cache] = esolm::cpu::memory_needed(&config, weights.unwrap_or_default());
    json(&MemoryNeeded { model, cache })
}

/// A model on a device. Its calls run one after the other. A call that takes a signal ends after the current pass when
/// the signal is aborted.
#[wasm_bindgen]
pub struct WasmModel {
    model: Model,
    /// The conversation, which tracks what is in the cache; the messages are passed with each call.
    chat: RefCell<Option<Chat>>,
    parameters: u64,
    file_bytes: u64,
}

#[wasm_bindgen]
impl WasmModel {
    /// Loads a model, one block at a time. `options` is JSON.
    ///
    /// # Errors
    /// If the checkpoint or the tokenizer is not usable, the device does not exist, or memory does not suffice.
    pub async fn load(source: Source, options: String) -> Result<WasmModel, Failure> {
        let options: Load = parse(&options)?;
        let load = LoadOptions {
            device: options.device.as_deref().unwrap_or("auto").parse()?,
            weights: options.weights,
            activations: options.activations,
            kv_cache: options.kv_cache,
            variants: options.variants.parse()?,
        };
        let mut checkpoint = Checkpoint::from_source(
            source.config().as_deref(),
            source.tokenizer().as_deref(),
            source.parts(),
            options.raw_weights,
            ReadAs {
                family: options.family,
                block_size: options.block_size,
                mask: None,
            },
        )
        .await?;
        if let Some(json) = source.generation() {
            checkpoint = checkpoint.with_generation_config(&json, "generation_config.json")?;
        }
        checkpoint = checkpoint.with_chat_files(source.chat_files());
        let codec = TextCodec::of_checkpoint(&checkpoint)?;
        let (parameters, file_bytes) = (checkpoint.count(), checkpoint.file_bytes());
        let files = ModelFiles::new(&options.name, checkpoint, codec);
        let model = Model::load(files, load).await?;
        // The reason why a model cannot converse is reported when `chat` is called.
        let chat = Chat::new(&model, ChatOptions::default()).ok();
        Ok(Self {
            parameters,
            file_bytes,
            model,
            chat: RefCell::new(chat),
        })
    }

    /// What the model is and what it runs on, as JSON.
    ///
    /// # Errors
    /// None known.
    pub fn info(&self) -> Result<String, Failure> {
        let ModelConfig {
            family,
            attention,
            hidden,
            n_blocks,
            n_heads,
            length,
            vocab_size,
            mask_index,
            alpha_0,
            block_size,
            bos,
            eos,
            ..
        } = *self.model.config();
        let ends = self.model.codec().map(TextCodec::ends);
        json(&Info {
            family,
            attention,
            hidden,
            n_blocks,
            n_heads,
            length,
            vocab_size,
            mask_index,
            alpha_0,
            block_size,
            parameters: self.parameters,
            bos: ends.as_ref().map_or(bos, |ends| ends.bos),
            eos: ends.as_ref().map_or(eos, |ends| ends.eos),
            has_tokenizer: ends.is_some(),
            recommended: self.model.recommended(),
            file_bytes: self.file_bytes,
            chat: self.chat.borrow().as_ref().map(|chat| Talks {
                think: chat.asks_for_thinking(),
            }),
            device: Device {
                info: self.model.device(),
                text: self.model.device().to_string(),
            },
        })
    }

    /// The first line of a trace, with the plan for `request` (JSON), as JSON; runs no pass of the network. The default
    /// seed is 0.
    ///
    /// # Errors
    /// If the request does not fit the model.
    pub fn plan(&self, request: &str) -> Result<String, Failure> {
        let (header, plan) = self.model.plan(&parse(request)?)?;
        json(&Planned { header, plan })
    }

    /// A generation of the texts that `request` (JSON) asks for. It starts when its first event is requested.
    ///
    /// # Errors
    /// If the request cannot be parsed; if it does not fit the model, the first event says so.
    pub fn start(&self, request: &str) -> Result<WasmRun, Failure> {
        Ok(self.model.generate(parse(request)?).into())
    }

    /// An answer to a conversation, `said` (JSON of its messages). It starts when its first event is requested; what is
    /// still in the cache from the previous answer is not recomputed.
    ///
    /// # Errors
    /// If the model cannot converse, or the arguments cannot be parsed.
    pub fn chat(&self, said: &str, how: &str) -> Result<WasmAnswer, Failure> {
        let mut chat = self.chat.borrow_mut();
        let chat = match &mut *chat {
            Some(chat) => chat,
            none => none.insert(Chat::new(&self.model, ChatOptions::default())?),
        };
        chat.options = options(how)?;
        chat.set_messages(messages(said)?);
        Ok(chat.answer().into())
    }

    /// Encodes a text.
    ///
    /// # Errors
    /// If there is no tokenizer, or it cannot encode the text.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, Failure> {
        Ok(self.codec()?.encode(text)?)
    }

    /// Decodes tokens; special tokens are written as their names.
    ///
    /// # Errors
    /// If there is no tokenizer.
    pub fn decode(&self, tokens: &[u32]) -> Result<String, Failure> {
        Ok(self.codec()?.decode(tokens))
    }

    /// The log-likelihoods of `item` as JSON: a text, a context with choices, or a prefix, a middle and a suffix. Both
    /// arguments are JSON.
    ///
    /// # Errors
    /// If the item or the options do not fit the model, the device fails, or the call is aborted.
    pub async fn score(
        &self,
        item: String,
        options: String,
        signal: Option<AbortSignal>,
    ) -> Result<String, Failure> {
        let item: ScoreItem = serde_json::from_str(&item).map_err(|_| {
            Failure::new(
                "option",
                "a score needs a text, a context with choices, or a prefix, a middle and a suffix; give one of them",
            )
        })?;
        let call = self.model.score(vec![item], parse(&options)?);
        let scored = unless_aborted(signal, call).await?;
        json(&scored.first())
    }

    /// Logits of one pass over the rows that `pass` (JSON) describes, `[rows, V]`; the mask token's column is
    /// unchanged.
    ///
    /// # Errors
    /// If the rows do not fit the model, the device fails, or the call is aborted.
    pub async fn forward(
        &self,
        pass: String,
        signal: Option<AbortSignal>,
    ) -> Result<Vec<f32>, Failure> {
        unless_aborted(signal, self.model.forward(parse(&pass)?)).await
    }

    /// Runs a plan (JSON) with recorded uniforms `[sequences, slots, V]`, drawing from the tokens that `filters` (JSON)
    /// allow.
    ///
    /// # Errors
    /// If plan or uniforms do not fit the model, the device fails, or the call is aborted.
    pub async fn replay(
        &self,
        plan: String,
        uniforms: Vec<f64>,
        filters: Option<String>,
        signal: Option<AbortSignal>,
    ) -> Result<WasmReplay, Failure> {
        let Filters {
            top_k,
            top_p,
            top_p_crossing,
            min_p,
        } = filters.map_or(Ok(Filters::default()), |filters| parse(&filters))?;
        let sampler = Sampler {
            top_k,
            top_p,
            top_p_crossing,
            min_p,
            ..Sampler::default()
        };
        let call = (self.model).replay(Plan::from_json(&plan)?, uniforms, sampler);
        Ok(WasmReplay(unless_aborted(signal, call).await?))
    }

    /// GPU memory that the engine has reserved now, bytes; 0 on the CPU.
    ///
    /// # Errors
    /// If the engine has crashed.
    pub async fn device_bytes(&self) -> Result<f64, Failure> {
        Ok(self.model.counters().await?.peak_bytes as f64)
    }

    /// Closes the model. Its memory is free once the promise settles; after `free()`, some time later.
    pub async fn close(self) {
        drop(self.chat);
        self.model.close().await;
    }
}

impl WasmModel {
    fn codec(&self) -> Result<&TextCodec, Error> {
        self.model.codec().ok_or(Error::NeedsTokenizer)
    }
}

/// A replayed trace.
#[wasm_bindgen]
pub struct WasmReplay(esolm::Replay);

#[wasm_bindgen]
impl WasmReplay {
    /// Logits `[sequences, slots, V]`, zeros where nothing was sampled.
    #[wasm_bindgen(getter)]
    pub fn logits(&self) -> Vec<f32> {
        self.0.logits.clone()
    }

    /// JSON of the tokens in natural order.
    ///
    /// # Errors
    /// None known.
    pub fn sample(&self) -> Result<String, Failure> {
        json(&self.0.sample)
    }

    /// JSON of the tokens in sorted order.
    ///
    /// # Errors
    /// None known.
    pub fn tokens_sorted(&self) -> Result<String, Failure> {
        json(&self.0.tokens_sorted)
    }
}
