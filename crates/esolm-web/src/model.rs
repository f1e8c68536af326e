//! A loaded model.

use std::cell::{Cell, RefCell, RefMut};
use std::f64::consts::LN_2;
use std::rc::Rc;

use esolm::checkpoint::Checkpoint;
use esolm::config::{Family, ModelConfig, Prepend};
use esolm::documents;
use esolm::likelihood::{Asked, evaluate};
use esolm::passes::Window;
use esolm::plan::Plan;
use esolm::request::Resolved;
use esolm::rows::forward_rows;
use esolm::text::TextCodec;
use esolm::{DeviceInfo, Engine, GenerateOptions};
use serde::Serialize;
use wasm_bindgen::prelude::wasm_bindgen;

use crate::error::{Failure, json, parse};
use crate::request::{Forward, Generate, Load, Middle, Score};
use crate::run::{Header, WasmRun};
use crate::source::Source;

/// What a model and its run hold together.
pub struct Shared {
    engine: RefCell<Option<Engine>>,
    pub codec: Option<TextCodec>,
    pub running: Cell<bool>,
}

impl Shared {
    /// The engine, for one call.
    pub fn engine(&self) -> Result<RefMut<'_, Engine>, Failure> {
        let engine = self.engine.try_borrow_mut().map_err(|_| Failure::busy())?;
        RefMut::filter_map(engine, Option::as_mut)
            .map_err(|_| Failure::new("internal", "the model was freed; load it again"))
    }

    /// The engine, where no run is under way.
    fn idle(&self) -> Result<RefMut<'_, Engine>, Failure> {
        if self.running.get() {
            return Err(Failure::busy());
        }
        self.engine()
    }
}

/// What the model is and what runs it.
#[derive(Serialize)]
struct Info<'a> {
    family: Family,
    hidden: usize,
    n_blocks: usize,
    n_heads: usize,
    length: usize,
    vocab_size: usize,
    mask_index: u32,
    alpha_0: Option<f64>,
    parameters: usize,
    bos: Option<u32>,
    eos: Option<u32>,
    has_tokenizer: bool,
    file_bytes: u64,
    device: Device<'a>,
}

#[derive(Serialize)]
struct Device<'a> {
    #[serde(flatten)]
    info: &'a DeviceInfo,
    /// One line for people.
    text: String,
}

/// What a text scored.
#[derive(Serialize)]
struct Scored {
    logp: f64,
    exact: bool,
    tokens: usize,
    bytes: usize,
    nats_per_token: Option<f64>,
    bits_per_byte: Option<f64>,
}

/// A model on a device.
#[wasm_bindgen]
pub struct WasmModel {
    shared: Rc<Shared>,
    config: ModelConfig,
    info: String,
}

#[wasm_bindgen]
impl WasmModel {
    /// Loads a model, a block at a time. `options` is JSON.
    ///
    /// # Errors
    /// When the checkpoint or the tokenizer are not usable, there is no such device, or memory does not suffice.
    pub async fn load(source: Source, options: String) -> Result<WasmModel, Failure> {
        let options: Load = parse(&options)?;
        let engine_options = options.options()?;
        let ckpt = Checkpoint::from_source(
            source.config().as_deref(),
            Box::new(source.weights()),
            options.raw_weights,
        )
        .await?;
        let config = ckpt.config().clone();
        // Before anything is uploaded: a wrong tokenizer is found at once.
        let codec = match (source.tokenizer(), ckpt.tokenizer_json()) {
            (Some(text), _) => Some(TextCodec::from_bytes(text.as_bytes(), &config)?),
            (None, Some(text)) => Some(TextCodec::from_bytes(text.as_bytes(), &config)?),
            (None, None) => None,
        };
        let engine = Engine::load(&ckpt, &engine_options).await?;
        let parameters = ckpt
            .tensors()
            .map(|t| t.shape.iter().product::<usize>())
            .sum();
        let ends = codec.as_ref().map(TextCodec::ends);
        let info = json(&Info {
            family: config.family,
            hidden: config.hidden,
            n_blocks: config.n_blocks,
            n_heads: config.n_heads,
            length: config.length,
            vocab_size: config.vocab_size,
            mask_index: config.mask_index,
            alpha_0: config.alpha_0,
            parameters,
            bos: ends.map_or(config.bos, |ends| ends.bos),
            eos: ends.map_or(config.eos, |ends| ends.eos),
            has_tokenizer: codec.is_some(),
            file_bytes: ckpt.file_bytes(),
            device: Device {
                info: engine.device(),
                text: engine.device().to_string(),
            },
        })?;
        Ok(Self {
            shared: Rc::new(Shared {
                engine: RefCell::new(Some(engine)),
                codec,
                running: Cell::new(false),
            }),
            config,
            info,
        })
    }

    /// JSON of what the model is and what runs it.
    pub fn info(&self) -> String {
        self.info.clone()
    }

    /// JSON of a trace's first line with the plan for `request` (JSON), without any pass of the network.
    ///
    /// # Errors
    /// When the request does not fit the model.
    pub fn plan(&self, request: &str) -> Result<String, Failure> {
        let (_, _, header) = self.planned(&parse(request)?)?;
        Ok(header)
    }

    /// Begins to write what `request` (JSON) asks for.
    ///
    /// # Errors
    /// As `plan`, when memory does not suffice, or when a run is under way.
    pub fn start(&self, request: &str) -> Result<WasmRun, Failure> {
        let request: Generate = parse(request)?;
        let mut engine = self.shared.idle()?;
        let (resolved, plan, header) = self.planned(&request)?;
        let options = GenerateOptions {
            sampler: resolved.settings.sampler(),
            seed: resolved.settings.seed,
            observe: true,
        };
        let progress = engine.begin(&plan, &options)?;
        self.shared.running.set(true);
        Ok(WasmRun::new(
            self.shared.clone(),
            resolved,
            plan,
            header,
            progress,
        ))
    }

    /// Tokens of a text.
    ///
    /// # Errors
    /// Without a tokenizer, or when it cannot encode the text.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, Failure> {
        Ok(self.codec()?.encode(text)?)
    }

    /// Text of tokens, special ones written with their names.
    ///
    /// # Errors
    /// Without a tokenizer.
    pub fn decode(&self, tokens: &[u32]) -> Result<String, Failure> {
        Ok(self.codec()?.decode(tokens))
    }

    /// JSON of the log-likelihood of the text that `request` (JSON) holds.
    ///
    /// # Errors
    /// When the text does not fit the model, or a run is under way.
    #[allow(clippy::await_holding_refcell_ref)]
    pub async fn score(&self, request: String) -> Result<String, Failure> {
        let request: Score = parse(&request)?;
        let asked = Asked {
            alpha_0: request.alpha_0,
            orders: request.orders,
            draws: request.draws,
        };
        let options = asked
            .of(&self.config, request.seed()?, None)
            .map_err(|error| Failure::new("option", error.to_string()))?;
        let (windows, bytes) = self.windows(&request)?;
        let mut engine = self.shared.idle()?;
        let scores = evaluate(&mut engine, &windows, None, &options, &mut |_, _| true)
            .await?
            .unwrap_or_default();
        let logp = 0.0 + scores.iter().map(|s| s.log_likelihood()).sum::<f64>();
        let tokens = scores.iter().map(|score| score.tokens).sum();
        let share = |n: usize| (n > 0).then(|| -logp / n as f64);
        json(&Scored {
            logp,
            exact: options.orders > 0,
            tokens,
            bytes,
            nats_per_token: share(tokens),
            bits_per_byte: share(bytes).map(|nats| nats / LN_2),
        })
    }

    /// Logits of one pass over the rows that `request` (JSON) describes, `[rows, V]`, the mask token's column untouched.
    ///
    /// # Errors
    /// When the rows do not fit the model, or a run is under way.
    #[allow(clippy::await_holding_refcell_ref)]
    pub async fn forward(&self, request: String) -> Result<Vec<f32>, Failure> {
        let request: Forward = parse(&request)?;
        let (layout, tokens, step) = forward_rows(
            request.mode,
            request.x0_sorted.is_some(),
            &request.sort_idx,
            &request.zt_sorted,
            request.x0_sorted.as_deref(),
            self.config.mask_index,
            self.config.vocab_size,
        )?;
        let mut engine = self.shared.idle()?;
        Ok(engine.forward(&layout, &tokens, &step).await?)
    }

    /// Runs a plan (JSON) with recorded uniforms `[sequences, slots, V]`.
    ///
    /// # Errors
    /// When plan and uniforms do not fit the model, or a run is under way.
    #[allow(clippy::await_holding_refcell_ref)]
    pub async fn replay(
        &self,
        plan: String,
        uniforms: Vec<f64>,
        top_p: Option<f32>,
    ) -> Result<WasmReplay, Failure> {
        let plan = Plan::from_json(&plan)?;
        if plan.vocab_size != self.config.vocab_size || plan.mask_index != self.config.mask_index {
            return Err(Failure::new(
                "plan",
                format!(
                    "the plan is for a vocabulary of {}, but the model's is {}; give a plan made for this model",
                    plan.vocab_size, self.config.vocab_size
                ),
            ));
        }
        let mut engine = self.shared.idle()?;
        let replay = engine.replay(&plan, &uniforms, top_p).await?;
        Ok(WasmReplay {
            sample: json(&replay.sample)?,
            tokens_sorted: json(&replay.tokens_sorted)?,
            logits: replay.logits,
        })
    }

    /// GPU memory that the engine has reserved now, bytes; 0 on the CPU.
    ///
    /// # Errors
    /// While another call is under way.
    pub fn device_bytes(&self) -> Result<f64, Failure> {
        let engine = self.shared.engine()?;
        Ok(engine
            .gpu()
            .map_or(0.0, |gpu| gpu.gpu().reserved_bytes() as f64))
    }
}

impl WasmModel {
    fn codec(&self) -> Result<&TextCodec, Failure> {
        self.shared.codec.as_ref().ok_or_else(|| {
            Failure::new(
                "tokenizer",
                "the model was loaded without a tokenizer; load it with its tokenizer.json",
            )
        })
    }

    /// What a request comes to: settings, plan, and the JSON of both.
    fn planned(&self, request: &Generate) -> Result<(Resolved, Plan, String), Failure> {
        let config = request.config(&self.config)?;
        let resolved = (request.request()?).resolve(&config, self.shared.codec.as_ref())?;
        let mut plan = resolved.plan()?;
        if request.attempts.len() > resolved.settings.batch {
            return Err(Failure::new(
                "option",
                format!(
                    "there are attempts for {} texts, but {} are written; give one for each",
                    request.attempts.len(),
                    resolved.settings.batch
                ),
            ));
        }
        for (index, &attempt) in request.attempts.iter().enumerate() {
            if attempt > 0 {
                resolved.redraw(&mut plan, &[index], attempt)?;
            }
        }
        let header = json(&Header::new(&resolved, &config, &plan))?;
        Ok((resolved, plan, header))
    }

    /// The windows of a text to score, and its bytes.
    fn windows(&self, request: &Score) -> Result<(Vec<Window>, usize), Failure> {
        let codec = self.codec()?;
        let config = &self.config;
        let opens = request.bos != Some(false) && config.prepend == Prepend::None;
        let ends = codec.ends();
        let opening = ends.bos.or(ends.eos).filter(|_| opens);
        let overlap = config.family == Family::Ar && config.prepend == Prepend::None;
        match (&request.text, &request.infill) {
            (Some(text), None) => {
                let tokens = codec.encode(text)?;
                let windows = documents::alone(&tokens, opening, config.length, overlap, 0);
                Ok((windows, text.len()))
            }
            (None, Some(_)) if config.family == Family::Ar => Err(Failure::new(
                "option",
                "an AR model does not read what comes after a gap; give an Eso-LM or an MDLM",
            )),
            (
                None,
                Some(Middle {
                    prefix,
                    middle,
                    suffix,
                }),
            ) => {
                let [prefix, middle, suffix] = documents::spaces_after(prefix, middle, suffix);
                let mut before: Vec<u32> = opening.into_iter().collect();
                before.extend(codec.encode(&prefix)?);
                let (window, _) = documents::between(
                    &before,
                    &codec.encode(&middle)?,
                    &codec.encode(&suffix)?,
                    config.length,
                    overlap,
                    0,
                )
                .map_err(|error| Failure::new("text", format!("the request {error}")))?;
                Ok((vec![window], middle.len()))
            }
            _ => Err(Failure::new(
                "option",
                "a score needs either a text, or a prefix, a middle and a suffix; give one of them",
            )),
        }
    }
}

impl Drop for WasmModel {
    /// Gives the GPU memory back.
    fn drop(&mut self) {
        // A call under way holds the engine to its end, and gives it up then.
        if let Ok(mut engine) = self.shared.engine.try_borrow_mut()
            && let Some(engine) = engine.take()
        {
            // On a lost device there is nothing to give back.
            let _ = engine.close();
        }
    }
}

/// A replayed trace.
#[wasm_bindgen]
pub struct WasmReplay {
    sample: String,
    tokens_sorted: String,
    logits: Vec<f32>,
}

#[wasm_bindgen]
impl WasmReplay {
    /// Logits `[sequences, slots, V]`, zeros where nothing was sampled.
    #[wasm_bindgen(getter)]
    pub fn logits(&self) -> Vec<f32> {
        self.logits.clone()
    }

    /// JSON of the tokens in natural order.
    pub fn sample(&self) -> String {
        self.sample.clone()
    }

    /// JSON of the tokens in sorted order.
    pub fn tokens_sorted(&self) -> String {
        self.tokens_sorted.clone()
    }
}
