//! Texts whose tokens are chosen by confidence: compared with a plain loop, with and without a cache, watched or not.

use esolm::checkpoint::Checkpoint;
use esolm::config::{Family, ModelConfig};
use esolm::engine::{Engine, Written};
use esolm::executor::Draw;
use esolm::plan::{Plan, PlanOptions, Schedule};
use esolm::reveal::{Confidence, Rule};
use esolm::rng::step_seed;
use esolm::rows::StepRows;
use esolm::sampler::{NoiseSource, Sampler, sample_row};
use pollster::block_on;

use crate::{blocks, golden};

/// Seed of every case.
const SEED: u64 = 11;

/// A plan, and how its tokens are drawn.
pub struct Case {
    /// Its name.
    pub name: String,
    /// The plan's options.
    pub options: PlanOptions,
    /// How tokens are drawn.
    pub sampler: Sampler,
}

impl Case {
    /// Makes the plan.
    pub fn plan(&self) -> Plan {
        Plan::new(&self.options).unwrap()
    }

    /// Its sampler.
    pub fn draw(&self) -> Draw<'static> {
        Draw {
            sampler: self.sampler,
            seed: SEED,
            ..Draw::default()
        }
    }

    /// The plan with the steps of only one sequence, `index`.
    fn alone(&self, index: usize) -> Self {
        Self {
            name: format!("{}, sequence {index} alone", self.name),
            options: PlanOptions {
                known: vec![self.options.known[index].clone()],
                first_sequence: self.options.first_sequence + index as u32,
                ..self.options.clone()
            },
            sampler: self.sampler,
        }
    }
}

/// Networks with confidence schedules, in a block or in the whole text.
pub fn checkpoints() -> [Checkpoint; 2] {
    [blocks::checkpoint(), golden::checkpoint("mdlm")]
}

/// Every kind of confidence, with and without thresholds, prompts and gaps.
pub fn cases(config: &ModelConfig) -> Vec<Case> {
    let some = |positions: &[u32]| positions.iter().map(|&p| (p, 5 + p)).collect::<Vec<_>>();
    let known = vec![
        some(&[0]),
        some(&[0, 1, 2, 3, 4, 5, 9]),
        // If nothing is known, all rows of an MDLM are equal except for rounding.
        some(&[8, 30]),
        (0..config.length as u32).map(|p| (p, 7)).collect(),
    ];
    let filter = Sampler {
        temperature: 0.7,
        top_k: Some(20),
        top_p: Some(0.9),
        ..Sampler::default()
    };
    let greedy = Sampler {
        temperature: 0.0,
        ..Sampler::default()
    };
    [
        (Confidence::Model, None, Sampler::default(), 3),
        (Confidence::Model, Some(0.3), Sampler::default(), 100),
        (Confidence::Model, Some(0.2), greedy, 100),
        (Confidence::Tempered, Some(0.4), filter, 2),
        (Confidence::Drawn, Some(0.5f32.next_up()), filter, 100),
        (Confidence::Random, None, Sampler::default(), 4),
        (Confidence::Leftmost, None, filter, 100),
    ]
    .into_iter()
    .map(|(by, threshold, sampler, steps)| Case {
        name: format!("{by:?} {threshold:?} in {steps} steps"),
        options: PlanOptions {
            schedule: Schedule::Confidence,
            reveal: Rule { by, threshold },
            known: known.clone(),
            first_sequence: 3,
            ..PlanOptions::new(config, 1, steps, SEED)
        },
        sampler,
    })
    .collect()
}

/// Runs a case, watched or not.
pub fn run(engine: &mut Engine, case: &Case, is_watched: bool) -> Written {
    let plan = case.plan();
    let mut run = engine.run(&plan, case.draw(), is_watched).unwrap();
    if !is_watched {
        return block_on(run.finish()).unwrap();
    }
    let mut texts = plan.output(&plan.initial_tokens());
    let (mut passes, mut last) = (0, None);
    while let Some(step) = block_on(run.next()).unwrap() {
        passes += 1;
        assert!(last < Some(step.step), "{}", case.name);
        last = Some(step.step);
        for revealed in step.revealed {
            let place = &mut texts[revealed.sequence as usize][revealed.position as usize];
            assert_eq!(*place, plan.mask_index, "{}: a token twice", case.name);
            *place = revealed.token;
        }
    }
    let written = block_on(run.stop()).unwrap();
    assert!(written.is_finished);
    assert_eq!(written.nfe, passes, "{}", case.name);
    assert_eq!(written.tokens, texts, "{}", case.name);
    written
}

/// The rows of a step that draw, and their logits.
fn drawing(engine: &mut Engine, step: &StepRows) -> Vec<Vec<f32>> {
    let vocab = engine.config().vocab_size;
    let logits = block_on(engine.logits(step)).unwrap();
    logits.chunks(vocab).map(<[f32]>::to_vec).collect()
}

/// One sequence written by a plain loop that chooses with probabilities in f64, and runs every step of its plan.
fn written_out(engine: &mut Engine, case: &Case) -> Vec<u32> {
    let plan = case.plan();
    let (mask, rule) = (plan.mask_index, plan.reveal.unwrap());
    let mut tokens = plan.initial_tokens();
    for number in 0..plan.nfe() {
        let planned = plan.sequences[0].steps[number];
        let seed = step_seed(SEED, number as u32);
        // Everything is recomputed from the current tokens.
        engine.start(&plan.layout(), &tokens).unwrap();
        let step = plan.uncached().step_rows(number);
        let logits = drawing(engine, &step);
        let mut drawn: Vec<(f64, u32, u32)> = Vec::new();
        for (&row, logits) in step.sampled.iter().zip(&logits) {
            let place = step.rows[row as usize].target;
            if tokens[place as usize] != mask {
                continue;
            }
            let noise = NoiseSource::Seeded {
                seed,
                sequence: plan.sequences[0].sequence,
                position: place,
            };
            let token = sample_row(logits, mask, &case.sampler, noise);
            let confidence = probability(rule.by, &case.sampler, logits, mask, token);
            let random = rule.by.of_key(seed, [plan.sequences[0].sequence, place]);
            drawn.push((random.map_or(confidence, f64::from), place, token));
        }
        drawn.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
        let beyond = |confidence: f64| rule.threshold.is_some_and(|t| confidence >= f64::from(t));
        for (index, (confidence, place, token)) in drawn.into_iter().enumerate() {
            if index < planned.least.unwrap() as usize || beyond(confidence) {
                tokens[place as usize] = token;
            }
        }
    }
    tokens
}

fn probability(by: Confidence, sampler: &Sampler, logits: &[f32], mask: u32, token: u32) -> f64 {
    let temperature = match by {
        Confidence::Model => 1.0,
        _ if sampler.temperature == 0.0 => 1.0,
        _ => f64::from(sampler.temperature),
    };
    let weight = |v: usize| (f64::from(logits[v]) / temperature).exp();
    let mut all: Vec<usize> = (0..logits.len()).filter(|&v| v != mask as usize).collect();
    if by == Confidence::Drawn && sampler.temperature > 0.0 {
        all.sort_by(|&a, &b| logits[b].total_cmp(&logits[a]));
        all.truncate(sampler.top_k.map_or(usize::MAX, |k| k as usize));
        let mass: f64 = all.iter().map(|&v| weight(v)).sum();
        let mut sum = 0.0;
        let p = f64::from(sampler.top_p.unwrap_or(1.0));
        all.retain(|&v| {
            let is_kept = sum < p * mass;
            sum += weight(v);
            is_kept
        });
    }
    weight(token as usize) / all.into_iter().map(weight).sum::<f64>()
}

/// Every case on one executor; returns how many passes thresholds saved.
///
/// # Panics
/// If texts differ that must not.
pub fn check(load: impl Fn(&Checkpoint) -> Engine) -> usize {
    let mut saved = 0;
    for ckpt in checkpoints() {
        let mut engine = load(&ckpt);
        for case in cases(ckpt.config()) {
            let name = format!("{}: {}", ckpt.config().family, case.name);
            let plan = case.plan();
            let quiet = run(&mut engine, &case, false);
            assert_eq!(run(&mut engine, &case, true).tokens, quiet.tokens, "{name}");
            match case.options.reveal.threshold {
                None => assert_eq!(quiet.nfe, plan.nfe(), "{name}"),
                Some(_) => saved += plan.nfe() - quiet.nfe,
            }
            assert_eq!(
                every_step(&mut engine, &case, false),
                quiet.tokens,
                "{name}"
            );
            if ckpt.config().family == Family::Bd3Lm {
                let uncached = every_step(&mut engine, &case, true);
                assert_eq!(uncached, quiet.tokens, "{name}, uncached");
            }
            for (index, tokens) in quiet.tokens.iter().enumerate() {
                let alone = case.alone(index);
                let text = run(&mut engine, &alone, index % 2 == 0).tokens;
                assert_eq!(text[0], *tokens, "{name}, sequence {index}");
                if !alone.plan().sequences[0].steps.is_empty() {
                    assert_eq!(written_out(&mut engine, &alone), *tokens, "{name} {index}");
                }
            }
        }
    }
    saved
}

/// Runs every step of a plan, including those in which nothing is masked.
fn every_step(engine: &mut Engine, case: &Case, is_uncached: bool) -> Vec<Vec<u32>> {
    let mut plan = case.plan();
    if is_uncached {
        plan = plan.uncached();
    }
    let ids = plan.ids();
    engine
        .start(&plan.layout(), &plan.initial_tokens())
        .unwrap();
    for number in 0..plan.nfe() {
        let draw = Draw {
            seed: step_seed(SEED, number as u32),
            ..case.draw()
        };
        let choice = plan.choice(number, |_| true).unwrap();
        let step = plan.step_rows(number);
        engine.reveal(&step, &ids, &draw, &choice).unwrap();
    }
    plan.output(&block_on(engine.tokens()).unwrap())
}
