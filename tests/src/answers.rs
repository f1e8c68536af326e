//! Recorded answers of small chat models, requested as by a user.
//!
//! Every JSON file of `chat/` that is of a known kind holds questions and answers.

use std::collections::BTreeMap;

use esolm::Request;
use esolm::checkpoint::Checkpoint;
use esolm::config::{Family, ModelConfig};
use esolm::engine::Engine;
use esolm::executor::Draw;
use esolm::request::TokenName;
use esolm::stop::Finish;
use esolm::text::TextCodec;
use pollster::block_on;
use serde_json::{Value, json};

use crate::OnDevice;
use crate::decoders::folder;
use crate::samplers::{
    Kind, files, needed, new_tokens, numbers, open, read, rule, sampler, size, suppressed, text,
};

/// Asks every recorded question; returns how many there were.
///
/// # Panics
/// If an answer differs, or there is none.
pub fn check_answers(mut load: impl FnMut(&Checkpoint) -> OnDevice) -> usize {
    let mut asked = 0;
    for file in files(&folder().join("chat")) {
        let json = read(&file);
        let Some(kind) = Kind::of(&json).filter(|_| json["runs"].is_array()) else {
            continue;
        };
        let mut devices: BTreeMap<usize, (Checkpoint, OnDevice)> = BTreeMap::new();
        for run in json["runs"].as_array().unwrap() {
            let options = &run["options"];
            let (checkpoint, device) = devices.entry(block(options)).or_insert_with(|| {
                let said = json!({"mask_id": json["mask_id"], "options": options});
                let checkpoint = open(&folder().join(text(&json, "model")), &said, kind);
                let device = load(&checkpoint);
                (checkpoint, device)
            });
            let config = ended(checkpoint.config(), &json);
            let tokenizer = folder().join(json["tokenizer"].as_str().unwrap_or("chat"));
            let codec = TextCodec::from_file(&tokenizer.join("tokenizer.json"), &config).unwrap();
            let what = format!("{}: {}", file.display(), run["messages"]);
            Asked {
                what,
                run,
                kind,
                config: &config,
                codec: &codec,
            }
            .check(&mut device.0);
            asked += 1;
        }
        println!("{}: {asked} so far", file.display());
    }
    assert!(asked > 0, "no answer");
    asked
}

fn block(options: &Value) -> usize {
    let sizes = ["block_size", "block_length"].map(|field| size(options, field));
    let size = sizes.into_iter().flatten().next();
    size.unwrap_or_else(|| panic!("no length of a block in {options}"))
}

/// The configuration, with the end-of-text tokens that a file names.
fn ended(config: &ModelConfig, json: &Value) -> ModelConfig {
    let mut ends = match &json["stop_ids"] {
        Value::Array(_) => numbers(&json["stop_ids"]),
        _ => Vec::new(),
    };
    ends.extend(size(json, "eos_id").map(|eos| eos as u32));
    match ends.split_first() {
        None => config.clone(),
        Some((&first, more)) => ModelConfig {
            eos: Some(first),
            more_eos: more.to_vec(),
            ..config.clone()
        },
    }
}

/// A question.
struct Asked<'a> {
    what: String,
    run: &'a Value,
    kind: Kind,
    config: &'a ModelConfig,
    codec: &'a TextCodec,
}

impl Asked<'_> {
    /// The request that a user would make.
    fn request(&self, prompt: usize, new: usize) -> Request {
        let Self { run, kind, .. } = *self;
        let (options, block) = (&run["options"], block(&run["options"]));
        let in_blocks = kind.family() == Family::Bd3Lm;
        let steps = match kind.is_sdar() {
            true => needed(options, "denoising_steps"),
            false if in_blocks => needed(options, "steps").div_ceil(new.div_ceil(block)),
            false => needed(options, "steps"),
        };
        let (sampler, rule) = (sampler(options, kind), rule(options, kind));
        let named = |tokens: Vec<u32>| tokens.into_iter().map(TokenName::Number).collect();
        let [suppress_tokens, begin_suppress_tokens] = suppressed(options).map(named);
        let length = prompt + new;
        Request {
            length: Some(match kind.is_sdar() {
                true => length.next_multiple_of(block),
                false => length,
            }),
            steps: Some(steps),
            block_size: Some(block),
            prompt_tail: kind.tail(),
            temperature: Some(sampler.temperature),
            top_k: sampler.top_k,
            top_p: sampler.top_p,
            confidence: Some(rule.by),
            confidence_threshold: rule.threshold,
            suppress_tokens,
            begin_suppress_tokens,
            ..Request::default()
        }
    }

    fn check(&self, engine: &mut Engine) {
        let Self { what, run, .. } = self;
        let prompt = numbers(&run["prompt"]);
        let new = new_tokens(&run["options"], prompt.len());
        let resolved = self
            .request(prompt.len(), new)
            .resolve_tokens(self.config, Some(self.codec), &prompt)
            .unwrap_or_else(|error| panic!("{what}: {error}"));
        let plan = resolved.plan().unwrap();
        let mask = plan.mask_index;
        let draw = Draw {
            sampler: resolved.sampler(0),
            suppressed: &resolved.suppressed,
            unsure: &resolved.unsure,
            ..Draw::default()
        };
        let known = plan.output(&plan.initial_tokens()).swap_remove(0);
        let mut watch = resolved.watch(0, known, Some(self.codec));
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
        // A published answer may be cut where it ends, or continue with masks.
        let said = generated.iter().position(|&token| token == mask);
        let generated = &generated[..said.unwrap_or(generated.len())];
        // What follows the block that ended the text was not requested.
        let own = &written[prompt.len()..][..generated.len()];
        assert_eq!(own, generated, "{what}");
        let rest = &written[prompt.len() + generated.len()..];
        let (kept, ending) = watch.finish(written.clone());
        let is_cut = kept.len() <= prompt.len() + generated.len();
        assert!(
            is_cut || rest.contains(&mask) || rest.is_empty(),
            "{what}: it goes on"
        );
        if self.kind.family() == Family::Bd3Lm && generated.len() < new {
            assert_eq!(ending.finish, Finish::Eos, "{what}");
            assert!(ending.is_early, "{what}");
        }
        let answer = self.codec.text(&kept, prompt.len());
        let question = self.codec.decode_plain(&prompt);
        let answer = answer.strip_prefix(&question).unwrap_or(&answer);
        assert_eq!(answer.trim(), text(run, "text").trim(), "{what}");
    }
}
