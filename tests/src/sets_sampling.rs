//! Recorded generations of published SetDLMs, token for token, with and without the cache.
//!
//! A `sampling.safetensors` with `TRACE.num_mask_tokens` tensors is a case; its network is the folder `owt_setdlm...`
//! next to it. The window and threshold of a trace are derived from what it did; its nucleus is in its name.

use esolm::checkpoint::Checkpoint;
use esolm::config::ModelConfig;
use esolm::engine::Engine;
use esolm::executor::Draw;
use esolm::forward_process::by_time;
use esolm::plan::{Joining, Plan, PlanOptions, Schedule, SetRules, SetRun};
use esolm::reveal::{Choice, Confidence, Outcome, Rule};
use esolm::rng::step_seed;
use esolm::rows::StepRows;
use esolm::sampler::Sampler;
use pollster::block_on;

use crate::checks::{GOLDEN, assert_close};
use crate::family::files;
use crate::sets::{beside, order, schedule};
use crate::{Golden, OnDevice};

/// Runs every trace of every file, and returns how many there were.
///
/// # Panics
/// If rows, logits or tokens differ, or there is no trace.
pub fn check_sampling(mut load: impl FnMut(&Checkpoint) -> OnDevice) -> usize {
    let mut ran = 0;
    for file in files("sampling.safetensors") {
        let golden = Golden::read(&file);
        let names = golden.names().into_iter();
        let traces = names.filter_map(|name| name.strip_suffix(".num_mask_tokens"));
        let traces: Vec<&str> = traces.collect();
        if traces.is_empty() {
            continue;
        }
        let checkpoint = beside(&file);
        let mut device = load(&checkpoint);
        for name in traces {
            let what = format!("{}: {name}", file.display());
            let trace = Trace::read(&golden, name, checkpoint.config());
            let largest = trace.run(&what, &mut device.0);
            println!("{what}: largest difference {largest:e}");
            ran += 1;
        }
    }
    assert!(ran > 0, "no trace");
    ran
}

/// The repository's SetDLM.
pub fn checkpoint() -> Checkpoint {
    beside(&crate::golden::repository(
        "tests/fixtures/golden-family/setdlm/sampling.safetensors",
    ))
}

/// What one recorded step did.
struct Recorded {
    /// Clean tokens in the cache, and those entering it.
    clean: [usize; 2],
    places: Vec<u32>,
    decoded: Vec<bool>,
    tokens: Vec<u32>,
    confidence: Vec<f32>,
    /// `[rows, V]` each.
    logits: Vec<f32>,
    uniforms: Vec<f32>,
    least: u32,
}

struct Trace {
    plan: Plan,
    steps: Vec<Recorded>,
    rule: Rule,
    sampler: Sampler,
    /// The padding token, which the published code mistakes for a missing one.
    pad: Option<u32>,
    sample: Vec<u32>,
}

impl Trace {
    fn read(golden: &Golden, name: &str, config: &ModelConfig) -> Self {
        let tensor = |field: &str| format!("{name}.{field}");
        let (mask, vocab) = (config.mask_index, config.vocab_size);
        let input = golden.u32(&tensor("input"));
        let masked = golden.u32(&tensor("num_mask_tokens"))[0];
        let is_infill = input.contains(&mask);
        let length = input.len() + if is_infill { 0 } else { masked as usize };
        let times = (golden.f64(&tensor("t")).into_iter()).zip(golden.f64(&tensor("next_t")));
        let left = |t: f64| (t * f64::from(masked)).round_ties_even() as u32;
        let counts: Vec<u32> = times
            .clone()
            .map(|(t, next)| left(t) - left(next))
            .collect();
        let rows = golden.rows(&tensor("steps"));
        let all = AllRows {
            places: golden.u32(&tensor("row_position")),
            decoded: golden.u8(&tensor("row_decoded")).to_vec(),
            tokens: golden.u32(&tensor("row_token")),
            confidence: golden.f32(&tensor("row_confidence")),
            logits: golden.f32(&tensor("logits")),
            uniforms: golden.f32(&tensor("u")),
        };
        let mut first = 0;
        let steps: Vec<Recorded> = (rows.iter().zip(&counts))
            .map(|(row, &least)| {
                let count = row[2] as usize;
                let step = all.step(first..first + count, vocab, [row[0], row[1]], least);
                first += count;
                step
            })
            .collect();

        let known: Vec<(u32, u32)> = ((0..).zip(input.iter().copied()))
            .filter(|&(_, token)| token != mask)
            .collect();
        let draws = golden.has(&tensor("exp_draws0"));
        let draws = draws.then(|| golden.f64(&tensor("exp_draws0")));
        let joining = match &draws {
            None => Joining::Position,
            Some(draws) if draws.len() == masked as usize => Joining::Time,
            Some(_) => Joining::Order,
        };
        let window = steps.iter().map(|step| match (joining, &step.places[..]) {
            (Joining::Order, places) => places.len() as u32,
            (_, places) => places[places.len() - 1] - places[0] + 1,
        });
        let (t, next) = times.clone().next().unwrap();
        let options = PlanOptions {
            length,
            steps: (1.0 / (t - next)).round() as usize,
            schedule: Schedule::Confidence,
            known: vec![known.clone()],
            reveal: Rule {
                by: Confidence::Drawn,
                threshold: threshold(&steps),
            },
            set_rules: Some(SetRules {
                window: window.max().unwrap() as usize,
                context: config.length,
                joining,
                sees_right: !is_infill || steps[0].clean[0] == known.len(),
            }),
            ..PlanOptions::new(config, 1, 1, 0)
        };
        let mut plan = Plan::new(&options).unwrap_or_else(|e| panic!("{name}: {e}"));
        let planned = plan.sequences[0]
            .steps
            .iter()
            .map(|step| step.least.unwrap());
        for (number, (planned, &count)) in planned.zip(&counts).enumerate() {
            assert_eq!(planned, count, "{name}: step {number}");
        }
        let noise = schedule(config);
        let given = known.iter().map(|&(place, _)| place);
        match (joining, draws) {
            (Joining::Time, Some(draws)) => {
                // The published code uses the last times of the schedule.
                let first = config.length - draws.len();
                let drawn = by_time(&noise.times(first, &draws)).into_iter();
                let free = drawn.map(|place| place + input.len() as u32);
                plan.sequences[0].order = given.chain(free).collect();
            }
            (Joining::Order, Some(draws)) => {
                let is_free = |place| (input.len()..length).contains(&place);
                let drawn = order(&noise, &draws, is_free).into_iter();
                let drawn = drawn.filter(|&place| (place as usize) < length);
                plan.sequences[0].order = drawn.collect();
            }
            _ => {}
        }
        // The nucleus of NAME_p09 is 0.9.
        let nucleus = |part: &str| format!("0.{}", part.strip_prefix("p0")?).parse().ok();
        Self {
            rule: options.reveal,
            sampler: Sampler {
                top_p: name.split('_').find_map(nucleus),
                ..Sampler::default()
            },
            pad: config.sets.as_ref().and_then(|sets| sets.pad),
            sample: golden.u32(&tensor("sample")),
            plan,
            steps,
        }
    }

    /// The largest difference of logits.
    fn run(&self, what: &str, engine: &mut Engine) -> f32 {
        let plan = &self.plan;
        let (vocab, mask) = (plan.vocab_size, plan.mask_index);
        let run = SetRun::of(plan).unwrap().swap_remove(0);
        let mut run = run.without(self.pad);
        engine
            .start(&plan.layout(), &plan.initial_tokens())
            .unwrap();
        let mut largest = 0.0f32;
        for (number, recorded) in self.steps.iter().enumerate() {
            let what = format!("{what}, step {number}");
            let pass = Pass::next(&mut run, engine, self.rule, self.sampler);
            assert_eq!(run.window(), recorded.places, "{what}");
            // Given tokens enter the cache together with the first masks; there, it was filled beforehand.
            let clean: usize = recorded.clean.iter().sum();
            let prefix = pass.step.rows[pass.step.sampled[0] as usize].prefix;
            assert_eq!(prefix as usize, clean, "{what}");
            if number > 0 {
                assert_eq!(run.cached(), recorded.clean[0], "{what}");
            }
            assert_eq!(
                pass.choice.groups[0].least, recorded.least,
                "{what}: how many become known"
            );
            let logits = block_on(engine.logits(&pass.step)).unwrap();
            largest = largest.max(assert_close(&what, &logits, &recorded.logits, GOLDEN));
            let noise: Vec<f32> = recorded.uniforms.iter().map(|&u| gumbel(u)).collect();
            assert_eq!(noise.len(), pass.step.sampled.len() * vocab, "{what}");
            let draw = Draw {
                sampler: self.sampler,
                noise: Some(&noise),
                ..Draw::default()
            };
            let tokens = pass.reveal(engine, &draw).tokens;
            let wanted = recorded.decoded.iter().zip(&recorded.tokens);
            let wanted: Vec<u32> = wanted
                .map(|(&d, &token)| if d { token } else { mask })
                .collect();
            assert_eq!(tokens, wanted, "{what}");
            run.end(&tokens, mask);
        }
        assert!(run.is_done() || run.is_counted_out(), "{what}: it goes on");
        let tokens = block_on(engine.tokens()).unwrap();
        let known: Vec<u32> = tokens.into_iter().filter(|&token| token != mask).collect();
        assert_eq!(known, self.sample, "{what}");
        largest
    }
}

/// The next pass of a text.
struct Pass {
    step: StepRows,
    choice: Choice,
}

impl Pass {
    /// Makes room for it, and feeds given tokens if they are too many to run with it.
    fn next(run: &mut SetRun, engine: &mut Engine, rule: Rule, sampler: Sampler) -> Self {
        loop {
            let (mut step, mut groups, mut moves) = Default::default();
            run.begin(&mut step, &mut groups, &mut moves);
            engine.move_slots(&moves).unwrap();
            if !step.sampled.is_empty() {
                let choice = Choice { rule, groups };
                return Self { step, choice };
            }
            let draw = Draw {
                sampler,
                ..Draw::default()
            };
            engine.step(&step, &[0], &draw).unwrap();
            run.end(&[], u32::MAX);
        }
    }

    fn reveal(&self, engine: &mut Engine, draw: &Draw) -> Outcome {
        engine.reveal(&self.step, &[0], draw, &self.choice).unwrap();
        block_on(engine.outcome(true)).unwrap()
    }
}

/// The rows of all steps, concatenated.
struct AllRows {
    places: Vec<u32>,
    decoded: Vec<u8>,
    tokens: Vec<u32>,
    confidence: Vec<f32>,
    logits: Vec<f32>,
    uniforms: Vec<f32>,
}

impl AllRows {
    fn step(
        &self,
        rows: std::ops::Range<usize>,
        vocab: usize,
        clean: [u32; 2],
        least: u32,
    ) -> Recorded {
        let values = rows.start * vocab..rows.end * vocab;
        Recorded {
            clean: clean.map(|count| count as usize),
            places: self.places[rows.clone()].to_vec(),
            decoded: self.decoded[rows.clone()].iter().map(|&d| d != 0).collect(),
            tokens: self.tokens[rows.clone()].to_vec(),
            confidence: self.confidence[rows].to_vec(),
            logits: self.logits[values.clone()].to_vec(),
            uniforms: self.uniforms[values].to_vec(),
            least,
        }
    }
}

/// A threshold that explains why more became known than required: it is between the confidences of what stayed masked
/// and of what did not.
fn threshold(steps: &[Recorded]) -> Option<f32> {
    let of = |step: &Recorded, wanted: bool| {
        let rows = step.decoded.iter().zip(&step.confidence);
        let own = rows.filter(|(decoded, _)| **decoded == wanted);
        let mut own: Vec<f32> = own.map(|(_, &confidence)| confidence).collect();
        own.sort_by(|a, b| b.total_cmp(a));
        own
    };
    let beyond = steps.iter().flat_map(|step| {
        let decoded = of(step, true);
        decoded[(step.least as usize).min(decoded.len())..].to_vec()
    });
    let least = beyond.reduce(f32::min)?;
    let masked = steps.iter().flat_map(|step| of(step, false));
    let most = masked.fold(0.0, f32::max);
    assert!(most < least, "no threshold lies between {most} and {least}");
    Some((most + least) / 2.0)
}

/// The published noise: the token is the largest p / -log u.
fn gumbel(u: f32) -> f32 {
    -(-f64::from(u).ln()).ln() as f32
}

/// Plans that together use every way in which a SetDLM writes by confidence, within its context.
pub fn cached_cases(config: &ModelConfig) -> Vec<(&'static str, PlanOptions)> {
    let own = PlanOptions::new(config, 1, 12, 3);
    let own_rules = own.set_rules.unwrap();
    let with = |rules: SetRules| PlanOptions {
        schedule: Schedule::Confidence,
        known: vec![vec![(0, 95)]],
        set_rules: Some(rules),
        ..own.clone()
    };
    let some = |places: &[u32]| vec![places.iter().map(|&p| (p, 5 + p)).collect()];
    let infill = some(&[0, 1, 2, 12, 13, 14, 20, 30, 31]);
    let left = SetRules {
        sees_right: false,
        ..own_rules
    };
    vec![
        ("windows", with(own_rules)),
        (
            "order",
            with(SetRules {
                joining: Joining::Order,
                ..own_rules
            }),
        ),
        (
            "times",
            with(SetRules {
                joining: Joining::Time,
                ..own_rules
            }),
        ),
        (
            "a threshold",
            PlanOptions {
                reveal: Rule {
                    threshold: Some(0.05),
                    ..Rule::default()
                },
                ..with(own_rules)
            },
        ),
        (
            "infill",
            PlanOptions {
                known: infill.clone(),
                ..with(own_rules)
            },
        ),
        (
            "infill from the left",
            PlanOptions {
                known: infill,
                ..with(left)
            },
        ),
        (
            "a long prompt",
            PlanOptions {
                known: some(&(0..25).collect::<Vec<u32>>()),
                ..with(own_rules)
            },
        ),
    ]
}

/// Runs every case with and without a cache, and as the engine runs plans. All write the same text.
///
/// # Panics
/// If logits or tokens differ.
pub fn check_cached(ckpt: &Checkpoint, device: &mut OnDevice, bound: f32) {
    for (what, options) in cached_cases(ckpt.config()) {
        let plan = Plan::new(&options).unwrap_or_else(|e| panic!("{what}: {e}"));
        let engine = &mut device.0;
        let (cached, tokens) = by_hand(&plan, engine, false);
        let (again, same) = by_hand(&plan, engine, true);
        assert_eq!(tokens, same, "{what}");
        assert_eq!(cached.len(), again.len(), "{what}");
        for (number, (cached, again)) in cached.iter().zip(&again).enumerate() {
            assert_close(&format!("{what}, step {number}"), cached, again, bound);
        }
        assert!(!tokens.contains(&plan.mask_index), "{what}: {tokens:?}");
        let draw = Draw {
            sampler: Sampler::default(),
            seed: 7,
            ..Draw::default()
        };
        for observe in [false, true] {
            let run = engine.run(&plan, draw, observe).unwrap();
            let written = block_on(run.finish()).unwrap();
            assert_eq!(written.tokens, [&tokens[..]], "{what}");
            assert!(written.is_finished, "{what}");
        }
    }
}

/// The logits of every step, and the text.
fn by_hand(plan: &Plan, engine: &mut Engine, uncached: bool) -> (Vec<Vec<f32>>, Vec<u32>) {
    let run = SetRun::of(plan).unwrap().swap_remove(0);
    let mut run = if uncached { run.uncached() } else { run };
    engine
        .start(&plan.layout(), &plan.initial_tokens())
        .unwrap();
    let (mut all, mut number) = (Vec::new(), 0);
    while !run.is_done() {
        let (mut step, mut groups, mut moves) = Default::default();
        run.begin(&mut step, &mut groups, &mut moves);
        assert!(moves.is_empty());
        let draw = Draw {
            sampler: Sampler::default(),
            seed: step_seed(7, number),
            ..Draw::default()
        };
        let rule = plan.reveal.unwrap();
        let pass = Pass {
            choice: Choice { rule, groups },
            step,
        };
        if !pass.step.sampled.is_empty() {
            all.push(block_on(engine.logits(&pass.step)).unwrap());
        }
        let tokens = pass.reveal(engine, &draw).tokens;
        run.end(&tokens, plan.mask_index);
        number += 1;
    }
    (all, block_on(engine.tokens()).unwrap())
}

/// Plans whose order is known in advance.
pub fn ordered_cases(config: &ModelConfig) -> Vec<(&'static str, PlanOptions)> {
    let own = PlanOptions::new(config, 2, 7, 3);
    let some = |places: &[u32]| places.iter().map(|&p| (p, 5 + p)).collect();
    let of = |schedule| PlanOptions {
        schedule,
        known: vec![some(&[0]), some(&[0, 1, 9, 10, 30])],
        ..own.clone()
    };
    vec![
        ("first-hitting", of(Schedule::FirstHitting)),
        ("left to right", of(Schedule::LeftToRight)),
    ]
}
