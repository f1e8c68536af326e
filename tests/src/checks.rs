//! Comparisons with the golden data, for every [`Runner`].

use esolm::checkpoint::Checkpoint;
use esolm::config::{Family, ModelConfig, Prepend};
use esolm::executor::Draw;
use esolm::plan::{Plan, PlanOptions, Schedule};
use esolm::rows::{Layout, MASKED, MaskMode, NO_TARGET, Row, StepRows, forward_rows};
use esolm::sampler::Sampler;

use crate::{Golden, Runner};

/// Maximum difference from the published code's logits.
pub const GOLDEN: f32 = 1e-4;
/// Maximum difference between a cached and an uncached pass, relative to their largest logit, with which rounding
/// grows.
pub const CACHED: f32 = 1e-5;

/// Vocabulary, mask token and beginning-of-text token of the golden models.
const VOCAB: usize = 97;
const MASK: u32 = 96;
const BOS: u32 = 95;

/// One whole-sequence forward pass of the published code.
pub struct Case {
    /// Name of the golden tensor.
    pub name: String,
    /// Sizes of the batch.
    pub layout: Layout,
    /// The token buffer.
    pub tokens: Vec<u32>,
    /// All rows.
    pub step: StepRows,
    /// Logits of the published code, `[sampled, V]`.
    pub logits: Vec<f32>,
}

/// Fails if two arrays differ by more than `bound`; returns the largest difference.
pub fn assert_close(what: &str, got: &[f32], want: &[f32], bound: f32) -> f32 {
    assert_eq!(got.len(), want.len(), "{what}");
    let mut largest = 0.0f32;
    for (index, (got, want)) in got.iter().zip(want).enumerate() {
        let difference = (got - want).abs();
        assert!(
            difference <= bound,
            "{what}, value {index}: {got}, want {want}"
        );
        largest = largest.max(difference);
    }
    largest
}

/// Every forward case of `model` (model_a, mdlm or ar).
pub fn forward_cases(model: &str) -> Vec<Case> {
    match model {
        "model_a" => model_a_cases(),
        name => vec![natural_case(name)],
    }
}

fn model_a_cases() -> Vec<Case> {
    let golden = Golden::open("forward_model_a");
    let names = golden.names().into_iter().filter(|name| {
        let last = name.rsplit('.').next();
        last == Some("logits")
    });
    names
        .map(|name| {
            let parts: Vec<&str> = name.split('.').collect();
            let mode = match parts[1] {
                "causal" => MaskMode::Causal,
                "bidirectional" => MaskMode::Bidirectional,
                "mixed" => MaskMode::Mixed,
                "mixed2" => MaskMode::Mixed2,
                other => panic!("no mask mode {other}"),
            };
            let of_case = |what: &str| golden.rows(&format!("{}.{what}", parts[2]));
            let x0 = of_case("x0_sorted");
            let (layout, tokens, step) = forward_rows(
                mode,
                parts[0] == "sequential",
                &of_case("sort_idx"),
                &of_case("zt_sorted"),
                Some(&x0),
                MASK,
                VOCAB,
            )
            .unwrap();
            Case {
                name: name.into(),
                layout,
                tokens,
                step,
                logits: golden.f32(name),
            }
        })
        .collect()
}

/// The forward pass in natural order of MDLM or AR.
fn natural_case(model: &str) -> Case {
    let golden = Golden::open("forward_mdlm_ar");
    let (mode, input, name) = match model {
        "mdlm" => (MaskMode::Bidirectional, "mdlm.xt", "mdlm.logits"),
        "ar" => (MaskMode::Causal, "ar.x0", "ar.logits_full"),
        other => panic!("no golden model {other}"),
    };
    let tokens = golden.rows(input);
    let order: Vec<Vec<u32>> = tokens
        .iter()
        .map(|t| (0..t.len() as u32).collect())
        .collect();
    let (layout, tokens, step) =
        forward_rows(mode, false, &order, &tokens, None, MASK, VOCAB).unwrap();
    Case {
        name: name.into(),
        layout,
        tokens,
        step,
        logits: golden.f32(name),
    }
}

/// Every forward case of a model; returns how many there were and the largest difference.
pub fn check_forward(model: &str, runner: &mut dyn Runner) -> (usize, f32) {
    let cases = forward_cases(model);
    let mut largest = 0.0f32;
    for case in &cases {
        runner.start(&case.layout, &case.tokens);
        let logits = runner.logits(&case.step);
        largest = largest.max(assert_close(&case.name, &logits, &case.logits, GOLDEN));
    }
    (cases.len(), largest)
}

/// Logits of a text, partly masked if the model has masks, with the model's own attention.
pub fn text_logits(ckpt: &Checkpoint, runner: &mut dyn Runner) -> Vec<f32> {
    let config = ckpt.config();
    let mode = match config.family {
        Family::Mdlm => MaskMode::Bidirectional,
        _ => MaskMode::Causal,
    };
    let (vocab, mask) = (config.vocab_size, config.mask_index);
    let token = |i: u32| match i % 3 {
        0 if config.family != Family::Ar => mask,
        _ => (5 + 11 * i) % (vocab as u32 - 1),
    };
    let length = config.length.min(24) as u32;
    let (order, tokens) = ((0..length).collect(), (0..length).map(token).collect());
    let (layout, tokens, step) =
        forward_rows(mode, false, &[order], &[tokens], None, mask, vocab).unwrap();
    runner.start(&layout, &tokens);
    runner.logits(&step)
}

/// One recorded generation: for each step the pass, the recorded logits if any, and the noise of the sampled rows.
pub(crate) struct Trace<'a> {
    pub(crate) name: String,
    pub(crate) plan: &'a Plan,
    pub(crate) top_p: Option<f32>,
    /// `[B, slots, V]`.
    pub(crate) logits: Vec<f32>,
    /// `[B, slots, V]`.
    pub(crate) noise: Vec<f32>,
    /// Index of a sampled row's sequence and target in these two.
    pub(crate) place: &'a dyn Fn(usize, u32) -> usize,
}

/// Runs a recorded generation step by step and returns the tokens.
pub(crate) fn run_trace(trace: &Trace, runner: &mut dyn Runner) -> Vec<u32> {
    let (layout, vocab) = (trace.plan.layout(), trace.plan.vocab_size);
    let ids: Vec<u32> = (0..layout.sequences as u32).collect();
    runner.start(&layout, &trace.plan.initial_tokens());
    for index in 0..trace.plan.nfe() {
        let step = trace.plan.step_rows(index);
        let gather = |values: &[f32]| -> Vec<f32> {
            let places = step.sampled.iter().map(|&i| {
                let row = &step.rows[i as usize];
                (trace.place)(row.sequence as usize, row.target)
            });
            places
                .flat_map(|at| &values[at * vocab..(at + 1) * vocab])
                .copied()
                .collect()
        };
        let logits = runner.logits(&step);
        let what = format!("{}, step {index}", trace.name);
        assert_close(&what, &logits, &gather(&trace.logits), GOLDEN);
        let noise = gather(&trace.noise);
        runner.step(&step, &ids, &draw(trace.top_p, Some(&noise)));
    }
    runner.tokens()
}

fn draw(top_p: Option<f32>, noise: Option<&[f32]>) -> Draw<'_> {
    Draw {
        sampler: Sampler {
            top_p,
            ..Sampler::default()
        },
        seed: 0,
        noise,
        ..Draw::default()
    }
}

/// Runs a recorded generation of an Eso-LM, whose tensors are called `name`, by a plan over its `order`, comparing
/// logits and tokens.
pub(crate) fn check_trace(
    golden: &Golden,
    name: &str,
    order: &[Vec<u32>],
    plan: &Plan,
    noise: Vec<f32>,
    runner: &mut dyn Runner,
) {
    let tensor = |what: &str| format!("{name}.{what}");
    let length = plan.length;
    // Indices of natural positions in the sorted order.
    let slot = |sequence: usize, target: u32| {
        let position = target - (sequence * length) as u32;
        let slot = order[sequence].iter().position(|&p| p == position);
        sequence * length + slot.unwrap()
    };
    let trace = Trace {
        name: name.into(),
        plan,
        top_p: name.ends_with("_p09").then_some(0.9),
        logits: golden.f32(&tensor("logits")),
        noise,
        place: &slot,
    };
    let tokens = run_trace(&trace, runner);
    assert_eq!(
        plan.sorted(&tokens),
        golden.rows(&tensor("tokens_sorted")),
        "{name}"
    );
    assert_eq!(
        plan.output(&tokens),
        golden.rows(&tensor("sample")),
        "{name}"
    );
}

/// Every Eso-LM trace, token for token, on an executor of model_a; returns how many there were.
pub fn check_sampling_model_a(runner: &mut dyn Runner) -> usize {
    let golden = Golden::open("sampling_model_a");
    let names: Vec<&str> = golden
        .names()
        .into_iter()
        .filter_map(|name| name.strip_suffix(".steps"))
        .collect();
    for &name in &names {
        let tensor = |what: &str| format!("{name}.{what}");
        let order = golden.rows(&tensor("sort_idx"));
        let steps = golden.rows(&tensor("steps"));
        let steps: Vec<[u32; 3]> = steps.iter().map(|s| [s[0], s[1], s[2]]).collect();
        let plan = Plan::from_recorded(&order, &steps, MASK, VOCAB).unwrap();
        let noise = golden.gumbel(&tensor("u"));
        check_trace(&golden, name, &order, &plan, noise, runner);
    }
    names.len()
}

/// Both AR traces, token for token, on an executor of ar.
pub fn check_sampling_ar(config: &ModelConfig, runner: &mut dyn Runner) {
    let golden = Golden::open("sampling_mdlm_ar");
    for (name, prepend) in [("ar.none", Prepend::None), ("ar.bos", Prepend::Bos)] {
        let tensor = |what: &str| format!("{name}.{what}");
        let sample = golden.rows(&tensor("sample"));
        let config = ModelConfig {
            length: sample[0].len(),
            prepend,
            bos: Some(BOS),
            ..config.clone()
        };
        let plan = Plan::new(&PlanOptions::new(&config, sample.len(), 1, 0)).unwrap();
        let steps = golden.shape(&tensor("logits"))[1];
        let trace = Trace {
            name: name.into(),
            plan: &plan,
            top_p: None,
            logits: golden.f32(&tensor("logits")),
            noise: golden.gumbel(&tensor("u")),
            // Step s draws the token at s + 1.
            place: &|sequence, target| {
                sequence * steps + target as usize - sequence * plan.length - 1
            },
        };
        let tokens = run_trace(&trace, runner);
        assert_eq!(plan.output(&tokens), sample, "{name}");
    }
}

/// The MDLM trace, token for token, on an executor of mdlm. The positions it reveals are taken from the recording.
pub fn check_sampling_mdlm(runner: &mut dyn Runner) {
    let golden = Golden::open("sampling_mdlm_ar");
    let (before, after) = (golden.rows("mdlm.x_before"), golden.rows("mdlm.x_after"));
    let logits = golden.f32("mdlm.logits");
    let noise = golden.gumbel("mdlm.u");
    let evaluated = golden.u8("mdlm.evaluated");
    let length = before[0].len();
    let layout = Layout {
        sequences: 1,
        slots: length,
        tokens: length,
    };
    runner.start(&layout, &before[0]);
    let mut recorded = 0;
    for index in 0..before.len() {
        assert_eq!(runner.tokens(), before[index], "step {index}");
        let unmasked = |p: usize| before[index][p] != after[index][p];
        let rows: Vec<Row> = (0..length)
            .map(|p| Row {
                sequence: 0,
                slot: p as u32,
                position: p as u32,
                prefix: length as u32,
                own: [length as u32; 2],
                source: if before[index][p] == MASK {
                    MASKED
                } else {
                    p as u32
                },
                target: if unmasked(p) { p as u32 } else { NO_TARGET },
            })
            .collect();
        let all = StepRows {
            rows: rows.clone(),
            sampled: (0..length as u32).collect(),
        };
        // A step that the published code skips repeats the logits of the one before.
        recorded += usize::from(evaluated[index] != 0);
        let want = &logits[(recorded - 1) * length * VOCAB..recorded * length * VOCAB];
        let got = runner.logits(&all);
        assert_close(&format!("mdlm, step {index}"), &got, want, GOLDEN);

        let sampled: Vec<u32> = (0..length)
            .filter(|&p| unmasked(p))
            .map(|p| p as u32)
            .collect();
        let noise: Vec<f32> = sampled
            .iter()
            .flat_map(|&p| &noise[(index * length + p as usize) * VOCAB..][..VOCAB])
            .copied()
            .collect();
        runner.step(&StepRows { rows, sampled }, &[0], &draw(None, Some(&noise)));
    }
    assert_eq!(recorded * length * VOCAB, logits.len());
    assert_eq!(runner.tokens(), golden.u32("mdlm.sample"));
}

/// Runs a plan with and without its cache side by side on two executors of one model: the logits of each step agree
/// within [`CACHED`], and the tokens are the same. Returns the largest difference.
pub fn check_cached(
    what: &str,
    plan: &Plan,
    cached: &mut dyn Runner,
    uncached: &mut dyn Runner,
) -> f32 {
    let full = plan.uncached();
    let ids = plan.ids();
    let draw = Draw {
        seed: 7,
        ..draw(None, None)
    };
    cached.start(&plan.layout(), &plan.initial_tokens());
    uncached.start(&plan.layout(), &plan.initial_tokens());
    let mut largest = 0.0f32;
    for index in 0..plan.nfe() {
        let (step, all) = (plan.step_rows(index), full.step_rows(index));
        let name = format!("{what}, step {index}");
        let (got, want) = (cached.logits(&step), uncached.logits(&all));
        let size = want
            .iter()
            .fold(0.0f32, |size, logit| size.max(logit.abs()));
        let bound = CACHED * size;
        largest = largest.max(assert_close(&name, &got, &want, bound));
        cached.step(&step, &ids, &draw);
        uncached.step(&all, &ids, &draw);
        assert_eq!(cached.tokens(), uncached.tokens(), "{name}");
    }
    largest
}

/// Plans for a model that together use every kind of step: each phase alone and mixed, blocks, ragged prompts, infill.
pub fn cached_cases(config: &ModelConfig) -> Vec<(&'static str, PlanOptions)> {
    let base = PlanOptions {
        alpha_0: 1.0,
        // Without the cache, each step reruns all rows, so longer texts would only take longer.
        length: config.length.min(128),
        ..PlanOptions::new(config, 2, 16, 3)
    };
    let some = |positions: &[u32]| positions.iter().map(|&p| (p, 100 + p)).collect();
    vec![
        ("alpha_0 = 1", base.clone()),
        (
            "alpha_0 = 0.5",
            PlanOptions {
                alpha_0: 0.5,
                ..base.clone()
            },
        ),
        (
            "alpha_0 = 0",
            PlanOptions {
                alpha_0: 0.0,
                ..base.clone()
            },
        ),
        (
            "blocks",
            PlanOptions {
                schedule: Schedule::Blocks,
                ..base.clone()
            },
        ),
        (
            "shuffled blocks",
            PlanOptions {
                schedule: Schedule::BlocksShuffled,
                alpha_0: 0.75,
                ..base.clone()
            },
        ),
        (
            "ragged prompts",
            PlanOptions {
                known: vec![some(&[0, 1, 2, 3, 4, 5, 6]), some(&[0])],
                ..base.clone()
            },
        ),
        (
            "infill",
            PlanOptions {
                alpha_0: 0.5,
                known: vec![some(&[0, 1, 40, 41, 42]), some(&[60, 126, 127])],
                ..base.clone()
            },
        ),
    ]
}
