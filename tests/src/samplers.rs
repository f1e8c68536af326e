//! Recorded runs of the samplers published with decoders, token for token.
//!
//! Every `traces/NAME.json` of a known kind is a run; the logits and random numbers of its steps are in
//! `NAME.safetensors` next to it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use esolm::checkpoint::{Checkpoint, OpenOptions};
use esolm::config::{Family, ReadAs};
use esolm::engine::Engine;
use esolm::executor::Draw;
use esolm::plan::{BlockRules, Plan, PlanOptions, PromptTail, Schedule};
use esolm::reveal::{CERTAIN, Confidence, Rule, confidence};
use esolm::rows::StepRows;
use esolm::sampler::{NoiseSource, Sampler, sample_row, suppress};
use pollster::block_on;
use serde_json::Value;

use crate::checks::assert_close;
use crate::decoders::{LOGITS, folder};
use crate::{Golden, OnDevice};

/// Maximum difference from the published code's confidences.
const CONFIDENCE: f64 = 2e-5;
/// Noise larger than any difference of logits.
const CERTAINLY: f32 = 1e9;

/// How many traces ran, and how many belong to models that are not supported.
#[derive(Debug, Default)]
pub struct Ran {
    /// By kind.
    pub kinds: BTreeMap<String, usize>,
    /// Traces that predict a token from the position before it, as Dream does, which is rejected by name.
    pub shifted: usize,
}

/// Runs every trace.
///
/// # Panics
/// If positions, logits, confidences or tokens differ, or there is no trace.
pub fn check_traces(mut load: impl FnMut(&Checkpoint) -> OnDevice) -> Ran {
    let mut ran = Ran::default();
    let mut devices: BTreeMap<(PathBuf, bool), (Checkpoint, OnDevice)> = BTreeMap::new();
    for file in files(&folder().join("traces")) {
        let json = read(&file);
        let Some(kind) = Kind::of(&json) else {
            println!("{}: of another kind", file.display());
            continue;
        };
        if json["options"]["right_shift_logits"] == true {
            println!(
                "{}: predicts from the place before, as only models do that are refused",
                file.display()
            );
            ran.shifted += 1;
            continue;
        }
        let model = folder().join(text(&json, "model"));
        let key = (model.clone(), kind.family() == Family::Mdlm);
        let (checkpoint, device) = devices.entry(key).or_insert_with(|| {
            let checkpoint = open(&model, &json, kind);
            let device = load(&checkpoint);
            (checkpoint, device)
        });
        let trace = Trace::read(&file, json, kind, checkpoint);
        let largest = trace.run(&mut device.0);
        trace.run_as_planned(&mut device.0);
        println!("{}: largest difference {largest:e}", trace.name);
        let name = text(&trace.json, "kind").to_string();
        *ran.kinds.entry(name).or_default() += 1;
    }
    assert!(!ran.kinds.is_empty(), "no trace");
    ran
}

/// The published samplers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Mdlm,
    Infill,
    Bd3Lm,
    Card,
    /// SDAR's own script.
    Sdar,
    /// The version used to evaluate SDAR.
    SdarEvaluation,
}

impl Kind {
    pub(crate) fn of(json: &Value) -> Option<Self> {
        Some(match json["kind"].as_str()? {
            "mdlm" => Self::Mdlm,
            "mdlm_infill" => Self::Infill,
            "bd3lm" => Self::Bd3Lm,
            "bd3lm_card" => Self::Card,
            "sdar_generate" => Self::Sdar,
            "sdar_eval" => Self::SdarEvaluation,
            _ => return None,
        })
    }

    pub(crate) fn family(self) -> Family {
        match self {
            Self::Mdlm | Self::Infill => Family::Mdlm,
            _ => Family::Bd3Lm,
        }
    }

    pub(crate) fn is_sdar(self) -> bool {
        matches!(self, Self::Sdar | Self::SdarEvaluation)
    }

    /// The prompt tail to request, if it is not the model's default.
    pub(crate) fn tail(self) -> Option<PromptTail> {
        match self {
            Self::Infill => Some(PromptTail::Shared),
            Self::Card => Some(PromptTail::Blind),
            _ => None,
        }
    }
}

/// JSON files of a folder.
pub(crate) fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.extension().is_some_and(|end| end == "json"));
    files.sort();
    files
}

pub(crate) fn read(file: &Path) -> Value {
    let json = std::fs::read(file).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
    serde_json::from_slice(&json).unwrap_or_else(|e| panic!("{}: {e}", file.display()))
}

pub(crate) fn text<'a>(json: &'a Value, field: &str) -> &'a str {
    let text = json[field].as_str();
    text.unwrap_or_else(|| panic!("no {field}"))
}

pub(crate) fn numbers(list: &Value) -> Vec<u32> {
    let list = list.as_array().unwrap_or_else(|| panic!("no list: {list}"));
    list.iter().map(|id| id.as_u64().unwrap() as u32).collect()
}

/// An optional number.
pub(crate) fn size(options: &Value, field: &str) -> Option<usize> {
    options[field].as_u64().map(|size| size as usize)
}

pub(crate) fn needed(options: &Value, field: &str) -> usize {
    size(options, field).unwrap_or_else(|| panic!("no {field} in {options}"))
}

pub(crate) fn open(folder: &Path, json: &Value, kind: Kind) -> Checkpoint {
    let options = OpenOptions {
        read_as: ReadAs {
            family: (!kind.is_sdar()).then_some(kind.family()),
            block_size: size(&json["options"], "block_size")
                .or(size(&json["options"], "block_length"))
                .filter(|_| kind.family() == Family::Bd3Lm),
            mask: size(json, "mask_id").map(|mask| mask as u32),
        },
        ..OpenOptions::default()
    };
    Checkpoint::open(&folder.to_string_lossy(), &options)
        .unwrap_or_else(|error| panic!("{}: {error}", folder.display()))
}

/// One recorded step.
struct Recorded {
    /// Positions that are masked and could become known.
    places: Vec<u32>,
    drawn: Vec<u32>,
    confidences: Vec<f64>,
    least: usize,
    /// Positions and tokens.
    known: BTreeMap<u32, u32>,
    /// `[positions, V]`.
    logits: Vec<f32>,
    /// Gumbel values `[positions, V]`, if the draw was random.
    noise: Option<Vec<f32>>,
    /// Confidences that do not depend on the logits.
    random: Option<Vec<f32>>,
}

struct Trace {
    name: String,
    json: Value,
    plan: Plan,
    sampler: Sampler,
    /// Tokens that are never drawn, and those that only have confidence 0.
    suppressed: [Vec<u32>; 2],
    steps: Vec<Recorded>,
    last: Vec<u32>,
}

impl Trace {
    fn read(file: &Path, json: Value, kind: Kind, checkpoint: &Checkpoint) -> Self {
        let name = file.display().to_string();
        let golden = Golden::read(&file.with_extension("safetensors"));
        let config = checkpoint.config();
        let options = &json["options"];
        let mask = config.mask_index;
        let block = size(options, "block_size").or(size(options, "block_length"));
        let block = block.unwrap_or_else(|| panic!("{name}: no length of a block"));
        let prompt = numbers(&json["prompt"]);
        let new = new_tokens(options, prompt.len());
        let length = match kind.is_sdar() {
            true => (prompt.len() + new).next_multiple_of(block),
            false => prompt.len() + new,
        };
        let steps = match kind {
            Kind::Sdar | Kind::SdarEvaluation => needed(options, "denoising_steps"),
            Kind::Bd3Lm | Kind::Card => needed(options, "steps").div_ceil(new.div_ceil(block)),
            Kind::Mdlm | Kind::Infill => needed(options, "steps"),
        };
        let known = (0..).zip(prompt).filter(|&(_, token)| token != mask);
        let sampler = sampler(options, kind);
        let plan_options = PlanOptions {
            length,
            steps,
            schedule: Schedule::Confidence,
            reveal: rule(options, kind),
            known: vec![known.collect()],
            block_size: Some(block),
            block_rules: Some(BlockRules::new(&config.decoder.unwrap(), kind.tail())),
            ..PlanOptions::new(config, 1, steps, 0)
        };
        let plan = Plan::new(&plan_options).unwrap_or_else(|e| panic!("{name}: {e}"));
        // What is written can be read.
        assert_eq!(Plan::from_json(&plan.to_json()).unwrap(), plan, "{name}");
        let list = json["steps"].as_array().unwrap();
        let tensors = Tensors::of(&golden, config.vocab_size);
        Self {
            steps: list.iter().map(|step| tensors.step(step)).collect(),
            last: numbers(&json["final"]),
            suppressed: suppressed(options),
            name,
            json,
            plan,
            sampler,
        }
    }

    /// The published sampler stopped before its last step, as it does at an end-of-text token.
    fn check_end(&self) {
        let prompt = numbers(&self.json["prompt"]).len();
        let eos = size(&self.json, "eos_id").map(|eos| eos as u32);
        let stops = match &self.json["stop_ids"] {
            Value::Array(_) => numbers(&self.json["stop_ids"]),
            _ => Vec::new(),
        };
        let is_end = |token: &u32| Some(*token) == eos || stops.contains(token);
        let is_over = self.last[prompt..].iter().any(is_end);
        assert!(is_over, "{}: nothing ends it", self.name);
    }

    /// Runs the recorded steps with their random numbers; returns the largest difference of logits.
    fn run(&self, engine: &mut Engine) -> f32 {
        let Self { plan, name, .. } = self;
        let mask = plan.mask_index;
        let mut tokens = plan.initial_tokens();
        engine.start(&plan.layout(), &tokens).unwrap();
        let mut recorded = self.steps.iter();
        let mut largest = 0.0f32;
        for (number, planned) in plan.sequences[0].steps.iter().enumerate() {
            let stretch = planned.start as usize..planned.end as usize;
            let places = plan.sequences[0].order[stretch].iter().copied();
            let masked: Vec<u32> = places.filter(|&p| tokens[p as usize] == mask).collect();
            if masked.is_empty() {
                continue;
            }
            let Some(recorded) = recorded.next() else {
                self.check_end();
                break;
            };
            let what = format!("{name}, step {number}");
            assert_eq!(recorded.places, masked, "{what}");
            let least = planned.least.unwrap() as usize;
            assert_eq!(
                least.min(masked.len()),
                recorded.least.min(masked.len()),
                "{what}: how many become known"
            );
            let step = plan.step_rows(number);
            let all = block_on(engine.logits(&step)).unwrap();
            let vocab = plan.vocab_size;
            let sampled: Vec<u32> = (step.sampled.iter())
                .map(|&row| step.rows[row as usize].target)
                .collect();
            let rows = sampled.iter().zip(all.chunks(vocab));
            let own: Vec<f32> = rows
                .filter(|(place, _)| masked.contains(place))
                .flat_map(|(_, logits)| logits.iter().copied())
                .collect();
            largest = largest.max(assert_close(&what, &own, &recorded.logits, LOGITS));
            let got = match &recorded.random {
                Some(random) => self.choose_here(&what, engine, &step, recorded, random),
                None => {
                    self.check_confidences(&what, recorded);
                    self.reveal(engine, number, &step, &sampled, recorded)
                }
            };
            assert_eq!(got, recorded.known, "{what}");
            for (&place, &token) in &got {
                tokens[place as usize] = token;
            }
        }
        assert!(
            recorded.next().is_none(),
            "{name}: the plan has fewer steps"
        );
        assert_eq!(block_on(engine.tokens()).unwrap(), tokens, "{name}");
        let (written, rest) = tokens.split_at(self.last.len());
        assert_eq!(written, self.last, "{name}");
        assert!(rest.iter().all(|&token| token == mask), "{name}");
        largest
    }

    /// The device draws with the recorded noise, and chooses.
    fn reveal(
        &self,
        engine: &mut Engine,
        number: usize,
        step: &StepRows,
        sampled: &[u32],
        recorded: &Recorded,
    ) -> BTreeMap<u32, u32> {
        let vocab = self.plan.vocab_size;
        // Positions that are already known are drawn too, and the result is discarded.
        let noise = recorded.noise.as_ref().map(|noise| {
            let mut rows = noise.chunks(vocab);
            let values = sampled
                .iter()
                .flat_map(|place| match recorded.places.contains(place) {
                    true => rows.next().unwrap().to_vec(),
                    false => vec![0.0; vocab],
                });
            values.collect::<Vec<f32>>()
        });
        let [suppressed, unsure] = &self.suppressed;
        let draw = Draw {
            sampler: self.sampler,
            seed: 0,
            noise: noise.as_deref(),
            suppressed,
            unsure,
        };
        let choice = self.plan.choice(number, |_| true).unwrap();
        engine.reveal(step, &[0], &draw, &choice).unwrap();
        let outcome = block_on(engine.outcome(true)).unwrap();
        let pairs = sampled.iter().copied().zip(outcome.tokens);
        pairs
            .filter(|&(_, token)| token != self.plan.mask_index)
            .collect()
    }

    /// Confidences of the recorded logits and draws.
    fn check_confidences(&self, what: &str, recorded: &Recorded) {
        let by = self.plan.reveal.unwrap().by;
        let rows = recorded.logits.chunks(self.plan.vocab_size);
        for (row, logits) in rows.enumerate() {
            let (token, want) = (recorded.drawn[row], recorded.confidences[row]);
            let mask = self.plan.mask_index;
            let mut logits = logits.to_vec();
            self.suppressed
                .iter()
                .for_each(|tokens| suppress(&mut logits, tokens));
            let Some(got) = confidence(by, &self.sampler, &logits, mask, token) else {
                continue;
            };
            let got = f64::from(got) / f64::from(CERTAIN);
            // The published code counts the mask as a token that can be drawn, so its probabilities are smaller by the
            // mask's share.
            let share = match self.suppressed.concat().contains(&mask) {
                true => 0.0,
                false => self.share_of_mask(by, &logits),
            };
            let least = got * (1.0 - share) - CONFIDENCE;
            assert!(
                (least..got + CONFIDENCE).contains(&want),
                "{what}: {got} for {want} at {}",
                recorded.places[row]
            );
        }
    }

    /// The mask's share of the total probability.
    fn share_of_mask(&self, by: Confidence, logits: &[f32]) -> f64 {
        let temperature = match by {
            Confidence::Tempered | Confidence::Drawn if self.sampler.temperature > 0.0 => {
                f64::from(self.sampler.temperature)
            }
            _ => 1.0,
        };
        let weight = |logit: &f32| (f64::from(*logit) / temperature).exp();
        weight(&logits[self.plan.mask_index as usize]) / logits.iter().map(weight).sum::<f64>()
    }

    /// Draws and chooses here if the recorded run did something that no executor supports: given confidences.
    fn choose_here(
        &self,
        what: &str,
        engine: &mut Engine,
        step: &StepRows,
        recorded: &Recorded,
        random: &[f32],
    ) -> BTreeMap<u32, u32> {
        let (vocab, mask) = (self.plan.vocab_size, self.plan.mask_index);
        let mut drawn: Vec<(f64, u32, u32)> = Vec::new();
        for (row, logits) in recorded.logits.chunks(vocab).enumerate() {
            let mut logits = logits.to_vec();
            suppress(&mut logits, &self.suppressed[0]);
            let noise = match &recorded.noise {
                Some(noise) => NoiseSource::Given(&noise[row * vocab..][..vocab]),
                None => NoiseSource::None,
            };
            let token = sample_row(&logits, mask, &self.sampler, noise);
            assert_eq!(token, recorded.drawn[row], "{what}");
            let own = f64::from(random[row]);
            assert!(
                (own - recorded.confidences[row]).abs() < CONFIDENCE,
                "{what}"
            );
            drawn.push((own, recorded.places[row], token));
        }
        drawn.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
        drawn.truncate(recorded.least);
        let known: BTreeMap<u32, u32> = (drawn.into_iter())
            .map(|(_, place, token)| (place, token))
            .collect();
        // The device is made to draw the same.
        let (mut only, mut noise) = (step.clone(), Vec::new());
        only.sampled
            .retain(|&row| known.contains_key(&step.rows[row as usize].target));
        for &row in &only.sampled {
            let mut values = vec![0.0; vocab];
            values[known[&step.rows[row as usize].target] as usize] = CERTAINLY;
            noise.append(&mut values);
        }
        let draw = Draw {
            sampler: Sampler::default(),
            seed: 0,
            noise: Some(&noise),
            ..Draw::default()
        };
        engine.step(&only, &[0], &draw).unwrap();
        known
    }

    /// If no random numbers matter, running the plan writes the same text.
    fn run_as_planned(&self, engine: &mut Engine) {
        let is_greedy = self.sampler.temperature == 0.0 || self.sampler.top_k == Some(1);
        if !is_greedy || self.steps.iter().any(|step| step.random.is_some()) {
            return;
        }
        let [suppressed, unsure] = &self.suppressed;
        for observe in [false, true] {
            let draw = Draw {
                sampler: self.sampler,
                seed: 1,
                noise: None,
                suppressed,
                unsure,
            };
            let run = engine.run(&self.plan, draw, observe).unwrap();
            let written = block_on(run.finish()).unwrap();
            for (place, &token) in self.last.iter().enumerate() {
                // A run that an end-of-text token ended has masks.
                if token != self.plan.mask_index {
                    assert_eq!(written.tokens[0][place], token, "{} at {place}", self.name);
                }
            }
        }
    }
}

/// Number of tokens to write; options may include the prompt.
pub(crate) fn new_tokens(options: &Value, prompt: usize) -> usize {
    let new = ["max_new_tokens", "gen_length"].map(|field| size(options, field));
    let in_all = size(options, "max_length").map(|length| length - prompt);
    new.into_iter()
        .chain([in_all])
        .flatten()
        .next()
        .unwrap_or(0)
}

/// Tokens that are never drawn, and those that only have confidence 0.
pub(crate) fn suppressed(options: &Value) -> [Vec<u32>; 2] {
    ["suppress_tokens", "begin_suppress_tokens"].map(|field| match &options[field] {
        Value::Null => Vec::new(),
        list => numbers(list),
    })
}

/// How the published sampler draws.
pub(crate) fn sampler(options: &Value, kind: Kind) -> Sampler {
    let own = if kind.is_sdar() { 1.0 } else { 0.0 };
    let top_p = options["top_p"].as_f64().map(|p| p as f32);
    Sampler {
        temperature: options["temperature"].as_f64().unwrap_or(own) as f32,
        top_k: size(options, "top_k").filter(|&k| k > 0).map(|k| k as u32),
        top_p: top_p.filter(|&p| p > 0.0 && p < 1.0),
        ..Sampler::default()
    }
}

/// How the published sampler chooses.
pub(crate) fn rule(options: &Value, kind: Kind) -> Rule {
    let remasking = match kind {
        Kind::Sdar => (options["remasking_strategy"].as_str()).unwrap_or("low_confidence_dynamic"),
        _ => options["remasking"].as_str().unwrap_or("low_confidence"),
    };
    let by = match (remasking, kind) {
        ("random", _) => Confidence::Random,
        ("sequential", _) => Confidence::Leftmost,
        (_, Kind::Sdar) => Confidence::Drawn,
        (_, Kind::SdarEvaluation) => Confidence::Tempered,
        _ => Confidence::Model,
    };
    let threshold = match (kind, remasking) {
        (Kind::Sdar, "low_confidence_dynamic") => {
            Some(options["confidence_threshold"].as_f64().unwrap_or(0.85))
        }
        (Kind::SdarEvaluation, _) => options["threshold"].as_f64(),
        _ => None,
    };
    // Greater than the threshold; nothing is greater than 1.
    let beyond = threshold.filter(|&t| t < 1.0).map(|t| (t as f32).next_up());
    Rule {
        by,
        threshold: beyond,
    }
}

/// The numbers of all steps, concatenated.
struct Tensors {
    vocab: usize,
    logits: Vec<f32>,
    noise: Option<Vec<f32>>,
    random: Option<Vec<f32>>,
}

impl Tensors {
    fn of(golden: &Golden, vocab: usize) -> Self {
        let some = |name: &str| golden.has(name).then(|| golden.f32(name));
        let gumbel = |u: f32| -(-f64::from(u).ln()).ln() as f32;
        // A token is the largest p / e, e an exponential number.
        let exponential = |e: f32| -f64::from(e).ln() as f32;
        let uniforms = some("uniform").or(some("uniforms"));
        let noise = uniforms.map(|all| all.into_iter().map(gumbel).collect());
        let exponentials = some("exp_noise");
        Self {
            vocab,
            logits: golden.f32("logits"),
            noise: noise.or(exponentials.map(|all| all.into_iter().map(exponential).collect())),
            random: some("rand"),
        }
    }

    fn step(&self, json: &Value) -> Recorded {
        let rows = numbers(&json["rows"]);
        let (rows, vocab) = (rows[0] as usize..rows[1] as usize, self.vocab);
        let values = rows.start * vocab..rows.end * vocab;
        let confidences = json["conf"].as_array().unwrap().iter();
        let places = numbers(&json["transferred"]).into_iter();
        Recorded {
            places: numbers(&json["pos"]),
            drawn: numbers(&json["x0"]),
            confidences: confidences.map(|c| c.as_f64().unwrap()).collect(),
            least: needed(json, "k"),
            known: places.zip(numbers(&json["tokens"])).collect(),
            logits: self.logits[values.clone()].to_vec(),
            noise: self.noise.as_ref().map(|all| all[values].to_vec()),
            random: self.random.as_ref().map(|all| all[rows].to_vec()),
        }
    }
}
