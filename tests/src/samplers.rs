//! Recorded runs of the samplers that decoders were published with, token for token, and the answers of small chat models.
//!
//! Every `traces/NAME.json` of a known kind is a run; the logits and the random numbers of its steps stand beside it in
//! `NAME.safetensors`. Every `chat/golden_NAME.json` of a known kind holds answers.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use esolm::Request;
use esolm::checkpoint::{Checkpoint, OpenOptions};
use esolm::config::{Family, ReadAs};
use esolm::engine::Engine;
use esolm::executor::Draw;
use esolm::plan::{BlockRules, Plan, PlanOptions, PromptTail, Schedule};
use esolm::reveal::{CERTAIN, Confidence, Rule, confidence};
use esolm::rows::StepRows;
use esolm::sampler::{MASK_LOGIT, NoiseSource, Sampler, sample_row};
use esolm::stop::Finish;
use esolm::text::TextCodec;
use pollster::block_on;
use serde_json::Value;

use crate::checks::assert_close;
use crate::decoders::{LOGITS, folder};
use crate::{Golden, OnDevice};

/// Largest difference of confidences that counts as the published code's.
const CONFIDENCE: f64 = 2e-5;
/// Noise that no logit makes up for.
const CERTAINLY: f32 = 1e9;

/// How many traces ran, and how many of kinds that no model that is run has.
#[derive(Debug, Default)]
pub struct Ran {
    /// Of each kind.
    pub kinds: BTreeMap<String, usize>,
    /// Traces that predict a token from the place before it, which Dream does, and it is refused by name.
    pub shifted: usize,
}

/// Runs every trace.
///
/// # Panics
/// Where places, logits, confidences or tokens differ, or there is no trace at all.
pub fn check_traces(mut load: impl FnMut(&Checkpoint) -> OnDevice) -> Ran {
    let mut ran = Ran::default();
    let mut devices: BTreeMap<(PathBuf, bool), (Checkpoint, OnDevice)> = BTreeMap::new();
    for file in files(&folder().join("traces"), "") {
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
enum Kind {
    Mdlm,
    Infill,
    Bd3Lm,
    Card,
    /// SDAR's own script.
    Sdar,
    /// The version that SDAR is evaluated with.
    SdarEvaluation,
}

impl Kind {
    fn of(json: &Value) -> Option<Self> {
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

    fn family(self) -> Family {
        match self {
            Self::Mdlm | Self::Infill => Family::Mdlm,
            _ => Family::Bd3Lm,
        }
    }

    fn is_sdar(self) -> bool {
        matches!(self, Self::Sdar | Self::SdarEvaluation)
    }

    /// What is asked for where it is not the model's own way.
    fn tail(self) -> Option<PromptTail> {
        match self {
            Self::Infill => Some(PromptTail::Shared),
            Self::Card => Some(PromptTail::Blind),
            _ => None,
        }
    }
}

/// JSON files of a folder whose names begin so.
fn files(folder: &Path, begin: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| {
        let name = path.file_name().unwrap().to_string_lossy();
        name.starts_with(begin) && name.ends_with(".json")
    });
    files.sort();
    files
}

fn read(file: &Path) -> Value {
    let json = std::fs::read(file).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
    serde_json::from_slice(&json).unwrap_or_else(|e| panic!("{}: {e}", file.display()))
}

fn text<'a>(json: &'a Value, field: &str) -> &'a str {
    let text = json[field].as_str();
    text.unwrap_or_else(|| panic!("no {field}"))
}

fn numbers(list: &Value) -> Vec<u32> {
    let list = list.as_array().unwrap_or_else(|| panic!("no list: {list}"));
    list.iter().map(|id| id.as_u64().unwrap() as u32).collect()
}

/// A number that may be left out.
fn size(options: &Value, field: &str) -> Option<usize> {
    options[field].as_u64().map(|size| size as usize)
}

fn needed(options: &Value, field: &str) -> usize {
    size(options, field).unwrap_or_else(|| panic!("no {field} in {options}"))
}

fn open(folder: &Path, json: &Value, kind: Kind) -> Checkpoint {
    let options = OpenOptions {
        read_as: ReadAs {
            family: (!kind.is_sdar()).then_some(kind.family()),
            block_size: size(&json["options"], "block_size")
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
    /// Places that are masked and could become known.
    places: Vec<u32>,
    drawn: Vec<u32>,
    confidences: Vec<f64>,
    least: usize,
    /// Places and tokens.
    known: BTreeMap<u32, u32>,
    /// `[places, V]`.
    logits: Vec<f32>,
    /// Gumbel values `[places, V]`, where the draw was random.
    noise: Option<Vec<f32>>,
    /// Confidences that do not depend on the logits.
    random: Option<Vec<f32>>,
}

struct Trace {
    name: String,
    json: Value,
    plan: Plan,
    sampler: Sampler,
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
        let new = size(options, "max_new_tokens").or(size(options, "gen_length"));
        let new = new.unwrap_or(0);
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
        let temperature = options["temperature"].as_f64().unwrap_or(0.0);
        let sampler = Sampler {
            temperature: temperature as f32,
            top_k: size(options, "top_k").filter(|&k| k > 0).map(|k| k as u32),
            top_p: options["top_p"]
                .as_f64()
                .map(|p| p as f32)
                .filter(|&p| p < 1.0),
            ..Sampler::default()
        };
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
        // What is written is read.
        assert_eq!(Plan::from_json(&plan.to_json()).unwrap(), plan, "{name}");
        let list = json["steps"].as_array().unwrap();
        let tensors = Tensors::of(&golden, config.vocab_size);
        Self {
            steps: list.iter().map(|step| tensors.step(step)).collect(),
            last: numbers(&json["final"]),
            name,
            json,
            plan,
            sampler,
        }
    }

    /// Tokens that are never drawn, and those that only count as impossible in a confidence.
    fn suppressed(&self) -> [Vec<u32>; 2] {
        let options = &self.json["options"];
        ["suppress_tokens", "begin_suppress_tokens"].map(|field| match &options[field] {
            Value::Null => Vec::new(),
            list => numbers(list),
        })
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
            // An end-of-text token ended the text.
            let Some(recorded) = recorded.next() else {
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
            let got = match recorded.random.is_some() || !self.suppressed().concat().is_empty() {
                true => self.choose_here(&what, engine, &step, recorded),
                false => {
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
        // Places that are known already are drawn at too, and whatever comes of it is given up.
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
        let draw = Draw {
            sampler: self.sampler,
            seed: 0,
            noise: noise.as_deref(),
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
            let Some(got) = confidence(by, &self.sampler, logits, mask, token) else {
                continue;
            };
            let got = f64::from(got) / f64::from(CERTAIN);
            // The published code counts the mask as a token that can be drawn, so its shares are smaller by what that has.
            let least = got * (1.0 - self.share_of_mask(by, logits)) - CONFIDENCE;
            assert!(
                (least..got + CONFIDENCE).contains(&want),
                "{what}: {got} for {want} at {}",
                recorded.places[row]
            );
        }
    }

    /// The mask's part of all tokens' probability.
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

    /// Draws and chooses here where the recorded run did what no executor is asked to: confidences that are given numbers, and tokens that are
    /// suppressed.
    fn choose_here(
        &self,
        what: &str,
        engine: &mut Engine,
        step: &StepRows,
        recorded: &Recorded,
    ) -> BTreeMap<u32, u32> {
        let (vocab, mask) = (self.plan.vocab_size, self.plan.mask_index);
        let [never, unsure] = self.suppressed();
        let without = |logits: &mut [f32], tokens: &[u32]| {
            for &token in tokens {
                logits[token as usize] = MASK_LOGIT;
            }
        };
        let mut drawn: Vec<(f64, u32, u32)> = Vec::new();
        for (row, logits) in recorded.logits.chunks(vocab).enumerate() {
            let mut logits = logits.to_vec();
            without(&mut logits, &never);
            let noise = match &recorded.noise {
                Some(noise) => NoiseSource::Given(&noise[row * vocab..][..vocab]),
                None => NoiseSource::None,
            };
            let token = sample_row(&logits, mask, &self.sampler, noise);
            assert_eq!(token, recorded.drawn[row], "{what}");
            without(&mut logits, &unsure);
            let by = self.plan.reveal.unwrap().by;
            let own = match &recorded.random {
                Some(random) => f64::from(random[row]),
                None => {
                    let own = confidence(by, &self.sampler, &logits, mask, token).unwrap();
                    f64::from(own) / f64::from(CERTAIN)
                }
            };
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
        };
        engine.step(&only, &[0], &draw).unwrap();
        known
    }

    /// Where no random number matters, a run of the plan writes the same.
    fn run_as_planned(&self, engine: &mut Engine) {
        let is_greedy = self.sampler.temperature == 0.0 || self.sampler.top_k == Some(1);
        if !is_greedy
            || self.steps.iter().any(|step| step.random.is_some())
            || !self.suppressed().concat().is_empty()
        {
            return;
        }
        for observe in [false, true] {
            let draw = Draw {
                sampler: self.sampler,
                seed: 1,
                noise: None,
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

/// How the published sampler chooses.
fn rule(options: &Value, kind: Kind) -> Rule {
    let remasking = match kind {
        Kind::Sdar => text(options, "remasking_strategy"),
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
        (Kind::Sdar, "low_confidence_dynamic") => options["confidence_threshold"].as_f64(),
        (Kind::SdarEvaluation, _) => options["threshold"].as_f64(),
        _ => None,
    };
    // Beyond it; nothing is beyond 1.
    let beyond = threshold.filter(|&t| t < 1.0).map(|t| (t as f32).next_up());
    Rule {
        by,
        threshold: beyond,
    }
}

/// The numbers of all steps, one after the other.
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

/// Asks every recorded question; returns how many there were.
///
/// # Panics
/// Where an answer differs, or there is none.
pub fn check_answers(mut load: impl FnMut(&Checkpoint) -> OnDevice) -> usize {
    let mut asked = 0;
    for file in files(&folder().join("chat"), "golden_") {
        let json = read(&file);
        let Some(kind) = Kind::of(&json).filter(|kind| !kind.is_sdar()) else {
            continue;
        };
        let mut devices: BTreeMap<usize, (Checkpoint, OnDevice)> = BTreeMap::new();
        for run in json["runs"].as_array().unwrap() {
            let options = &run["options"];
            let block = needed(options, "block_size");
            let (checkpoint, device) = devices.entry(block).or_insert_with(|| {
                let said = serde_json::json!({"mask_id": json["mask_id"], "options": options});
                let checkpoint = open(&folder().join(text(&json, "model")), &said, kind);
                let device = load(&checkpoint);
                (checkpoint, device)
            });
            let tokenizer = folder()
                .join(text(&json, "tokenizer"))
                .join("tokenizer.json");
            let codec = TextCodec::from_file(&tokenizer, checkpoint.config()).unwrap();
            let what = format!("{}: {}", file.display(), run["messages"]);
            check_answer(&what, run, kind, checkpoint, &codec, &mut device.0);
            asked += 1;
        }
    }
    assert!(asked > 0, "no answer");
    asked
}

fn check_answer(
    what: &str,
    run: &Value,
    kind: Kind,
    checkpoint: &Checkpoint,
    codec: &TextCodec,
    engine: &mut Engine,
) {
    let options = &run["options"];
    let (block, steps) = (needed(options, "block_size"), needed(options, "steps"));
    let new = needed(options, "max_new_tokens");
    let prompt = numbers(&run["prompt"]);
    let request = Request {
        length: Some(prompt.len() + new),
        steps: Some(match kind.family() {
            Family::Bd3Lm => steps.div_ceil(new.div_ceil(block)),
            _ => steps,
        }),
        block_size: Some(block),
        temperature: options["temperature"].as_f64().map(|t| t as f32),
        ..Request::default()
    };
    let resolved = request
        .resolve_tokens(checkpoint.config(), Some(codec), &prompt)
        .unwrap_or_else(|error| panic!("{what}: {error}"));
    let plan = resolved.plan().unwrap();
    let draw = Draw {
        sampler: resolved.sampler(0),
        seed: 0,
        noise: None,
    };
    let mut watch = resolved.watch(
        0,
        plan.output(&plan.initial_tokens()).swap_remove(0),
        Some(codec),
    );
    let mut under_way = engine.run(&plan, draw, true).unwrap();
    while let Some(step) = block_on(under_way.next()).unwrap() {
        for revealed in step.revealed {
            watch.reveal(revealed.position, revealed.token);
        }
        if watch.look() {
            under_way.end(0);
        }
    }
    let written = block_on(under_way.stop()).unwrap().tokens.swap_remove(0);
    let generated = numbers(&run["generated"]);
    // What is behind the block that ended the text was not asked for.
    let own = &written[prompt.len()..][..generated.len()];
    assert_eq!(own, generated, "{what}");
    let rest = &written[prompt.len() + generated.len()..];
    assert!(
        rest.contains(&plan.mask_index) || rest.is_empty(),
        "{what}: it goes on"
    );
    let (kept, ending) = watch.finish(written.clone());
    if kind.family() == Family::Bd3Lm && generated.len() < new {
        assert_eq!(ending.finish, Finish::Eos, "{what}");
        assert!(ending.is_early, "{what}");
    }
    let answer = codec.text(&kept, prompt.len());
    let question = codec.decode_plain(&prompt);
    let answer = answer.strip_prefix(&question).unwrap_or(&answer);
    assert_eq!(answer.trim(), text(run, "text").trim(), "{what}");
}
