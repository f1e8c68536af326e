//! Recorded generations of published BD3-LMs, token for token, with and without the cache.
//!
//! Every `NAME.sampling.safetensors` with `TRACE.block` tensors is a case, its network as that of `NAME.forward.safetensors`.

use esolm::checkpoint::Checkpoint;
use esolm::config::ModelConfig;
use esolm::executor::Draw;
use esolm::plan::{Phase, Plan, PlanOptions, Schedule};
use esolm::rows::{MASKED, NO_TARGET, Row, StepRows};
use esolm::sampler::{Crossing, Sampler};
use esolm::stop::{ENTROPY_WINDOW, StopRule, StopRules, entropy};
use esolm::text::Ends;

use crate::checks::{GOLDEN, assert_close};
use crate::family::{files, open};
use crate::{Golden, Runner};

const SAMPLING: &str = ".sampling.safetensors";

/// Runs every trace of every file, and returns how many there were.
///
/// If logits or tokens differ, or there is no trace.
/// Where logits or tokens differ, or there is no trace at all.
pub fn check_sampling(mut load: impl FnMut(&Checkpoint) -> Box<dyn Runner>) -> usize {
    let mut ran = 0;
    for file in files(SAMPLING) {
        let golden = Golden::read(&file);
        let traces = golden
            .names()
            .into_iter()
            .filter_map(|name| name.strip_suffix(".block"));
        let traces: Vec<String> = traces.map(String::from).collect();
        if traces.is_empty() {
            continue;
        }
        let checkpoint =
            open(&file, SAMPLING, &golden).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
        let mut runner = load(&checkpoint);
        for name in &traces {
            let what = format!("{}: {name}", file.display());
            let largest = Trace::read(&what, &golden, name, checkpoint.config()).run(&mut *runner);
            println!("{what}: largest difference {largest:e}");
            ran += 1;
        }
    }
    assert!(ran > 0, "no trace");
    ran
}

/// Compares the rules that end texts early with what the published code decided.
///
/// # Panics
/// If they differ, or there is no text.
pub fn check_stop_rules() -> usize {
    let mut ran = 0;
    for file in files("stop_conditions.safetensors") {
        let golden = Golden::read(&file);
        for case in golden
            .names()
            .into_iter()
            .filter_map(|name| name.strip_suffix(".x"))
        {
            let what = format!("{}: {case}", file.display());
            let text = golden.u32(&format!("{case}.x"));
            // Texts open with the end-of-text token.
            let rules = |rules: &[StopRule]| StopRules {
                rules: rules.to_vec(),
                ends: Ends {
                    bos: Some(text[0]),
                    eos: Some(text[0]),
                    more: Vec::new(),
                },
                ..StopRules::default()
            };
            let last = &text[text.len().saturating_sub(ENTROPY_WINDOW)..];
            let published = golden.f32(&format!("{case}.entropy_last256"))[0];
            assert!(
                (entropy(last) - f64::from(published)).abs() < 1e-4,
                "{what}"
            );
            let of = |field: &str| golden.u8(&format!("{case}.{field}.stop"))[0] != 0;
            // A text of fixed length is discarded as a whole.
            let fixed = rules(&[StopRule::Entropy]).end(&text);
            assert_eq!(fixed.is_some(), of("fixed"), "{what}");
            let variable = rules(&[StopRule::Eos, StopRule::Entropy]).end(&text);
            assert_eq!(variable.is_some(), of("var"), "{what}");
            let length = golden.u32(&format!("{case}.var.out_len"))[0] as usize;
            let kept = variable.map_or(text.len(), |(kept, _)| kept);
            assert_eq!(kept, length, "{what}");
            ran += 1;
        }
    }
    assert!(ran > 0, "no text");
    ran
}

struct Trace {
    what: String,
    plan: Plan,
    /// For each position the recorded step that drew it.
    drawn_in: Vec<Option<usize>>,
    size: usize,
    vocab: usize,
    top_p: Option<f32>,
    /// Diffusion time of each recorded step.
    t: Vec<f64>,
    /// `[N, b, V]`.
    uniforms: Vec<f32>,
    /// `[evaluated, b, V]`.
    logits: Vec<f32>,
    /// For each recorded step, the evaluated step that it draws from.
    evaluated: Vec<usize>,
    x_after: Vec<Vec<u32>>,
    sample: Vec<u32>,
    /// Whether every step recomputes its window, without a cache.
    is_uncached: bool,
}

impl Trace {
    fn read(what: &str, golden: &Golden, name: &str, config: &ModelConfig) -> Self {
        let tensor = |field: &str| format!("{name}.{field}");
        let x_after = golden.rows(&tensor("x_after"));
        let run = Plan::from_recorded_blocks(
            &golden.u32(&tensor("block")),
            &golden.rows(&tensor("x_before")),
            &x_after,
            config.length,
            config.mask_index,
            config.vocab_size,
        )
        .unwrap_or_else(|e| panic!("{what}: {e}"));
        let drawing = run.plan.sequences[0]
            .steps
            .iter()
            .filter(|step| step.phase == Phase::Diffusion);
        assert_eq!(
            drawing.count(),
            golden.u32(&tensor("nfes"))[0] as usize,
            "{what}"
        );
        let mut count = 0;
        let evaluated = golden.u8(&tensor("evaluated")).iter().map(|&is_evaluated| {
            count += usize::from(is_evaluated != 0);
            count - 1
        });
        // The nucleus of NAME_p09 is 0.9.
        let nucleus = |part: &str| format!("0.{}", part.strip_prefix("p0")?).parse().ok();
        Self {
            what: what.into(),
            size: run.plan.block_size.unwrap(),
            vocab: config.vocab_size,
            top_p: name.split('_').find_map(nucleus),
            t: golden.f64(&tensor("t")),
            uniforms: golden.f32(&tensor("u")),
            logits: golden.f32(&tensor("logits")),
            evaluated: evaluated.collect(),
            x_after,
            sample: golden.u32(&tensor("sample")),
            is_uncached: golden
                .u8(&tensor("stored"))
                .iter()
                .all(|&stored| stored == 0),
            plan: run.plan,
            drawn_in: run.unmasked_in,
        }
    }

    /// The largest difference of logits.
    fn run(&self, runner: &mut dyn Runner) -> f32 {
        let plan = match self.is_uncached {
            true => self.plan.uncached(),
            false => self.plan.clone(),
        };
        runner.start(&plan.layout(), &plan.initial_tokens());
        let mut largest = 0.0f32;
        for index in 0..plan.nfe() {
            let step = plan.step_rows(index);
            let step = match (self.is_uncached, plan.window) {
                (true, Some(window)) => window_anew(&step, window, self.size),
                _ => step,
            };
            let drawn = step
                .sampled
                .first()
                .map(|&row| step.rows[row as usize].position);
            let Some(number) = drawn.map(|position| self.drawn_in[position as usize].unwrap())
            else {
                let noise = Some(&[][..]);
                runner.step(&step, &[0], &draw(None, noise));
                continue;
            };
            let what = format!("{}, recorded step {number}", self.what);
            // The whole block, which is last.
            let rows = step.rows.len();
            let block = StepRows {
                rows: step.rows.clone(),
                sampled: ((rows - self.size) as u32..rows as u32).collect(),
            };
            let values = self.size * self.vocab;
            let want = &self.logits[self.evaluated[number] * values..][..values];
            largest = largest.max(assert_close(&what, &runner.logits(&block), want, GOLDEN));
            // At time 0, the published code divides by 0 and takes whatever comes first; the token is then forced,
            // without top-p.
            let forced = self.t[number] == 0.0;
            let mut noise = Vec::with_capacity(step.sampled.len() * self.vocab);
            for &row in &step.sampled {
                let place = step.rows[row as usize].position as usize % self.size;
                let uniforms =
                    &self.uniforms[(number * self.size + place) * self.vocab..][..self.vocab];
                let token = self.x_after[number][place] as usize;
                noise.extend(uniforms.iter().enumerate().map(|(v, &u)| {
                    match forced && v == token {
                        true => 1e9,
                        false => gumbel(u),
                    }
                }));
            }
            let top_p = self.top_p.filter(|_| !forced);
            runner.step(&step, &[0], &draw(top_p, Some(&noise)));
            let first = step.rows[rows - self.size].position as usize;
            assert_eq!(
                runner.tokens()[first..first + self.size],
                self.x_after[number],
                "{what}"
            );
        }
        assert_eq!(runner.tokens(), self.sample, "{}", self.what);
        largest
    }
}

/// The published noise: the token is the largest p / (1e-10 - log(u + 1e-10)).
fn gumbel(u: f32) -> f32 {
    -(1e-10 - (f64::from(u) + 1e-10).ln()).ln() as f32
}

fn draw(top_p: Option<f32>, noise: Option<&[f32]>) -> Draw<'_> {
    Draw {
        sampler: Sampler {
            top_p,
            top_p_crossing: Crossing::Drop,
            ..Sampler::default()
        },
        seed: 0,
        noise,
        ..Draw::default()
    }
}

/// A step without a cache: all tokens of the sliding window of its block.
fn window_anew(step: &StepRows, window: usize, size: usize) -> StepRows {
    let Some(last) = step.sampled.last().map(|_| step.rows.len() - size) else {
        return step.clone();
    };
    let (block, window, size) = (&step.rows[last..], window as u32, size as u32);
    let end = block[0].position + size;
    let start = end.saturating_sub(window);
    let at = |position: u32| {
        let prefix = position / size * size + size - start;
        Row {
            sequence: 0,
            slot: position - start,
            position,
            prefix,
            own: [prefix; 2],
            source: position,
            target: NO_TARGET,
        }
    };
    let mut rows: Vec<Row> = (start..end - size).map(at).collect();
    let sampled = step
        .sampled
        .iter()
        .map(|&row| row - last as u32 + rows.len() as u32);
    let sampled = sampled.collect();
    rows.extend(block.iter().map(|row| Row {
        source: if row.source == MASKED {
            MASKED
        } else {
            row.position
        },
        target: row.target,
        ..at(row.position)
    }));
    StepRows { rows, sampled }
}

/// Plans that together use every kind of step of a BD3-LM: all schedules, ragged prompts, ends within a block, infill.
pub fn cached_cases(config: &ModelConfig) -> Vec<(&'static str, PlanOptions)> {
    let base = PlanOptions::new(config, 2, 3, 3);
    let some = |positions: &[u32]| positions.iter().map(|&p| (p, 5 + p)).collect();
    let of = |schedule| PlanOptions {
        schedule,
        ..base.clone()
    };
    vec![
        ("first-hitting", of(Schedule::FirstHitting)),
        ("binomial", of(Schedule::Binomial)),
        ("left to right", of(Schedule::LeftToRight)),
        (
            "ragged prompts",
            PlanOptions {
                known: vec![some(&[0, 1, 2, 3, 4, 5, 6, 7, 8]), some(&[0])],
                ..base.clone()
            },
        ),
        (
            "infill",
            PlanOptions {
                known: vec![some(&[0, 1, 12, 13, 14, 15, 16, 17]), some(&[6, 30, 31])],
                ..base.clone()
            },
        ),
    ]
}

/// The network used to check the cache.
pub fn checkpoint() -> Checkpoint {
    let path = crate::golden::repository("tests/fixtures/golden-family/bd3lm/bs4");
    Checkpoint::open(&path.to_string_lossy(), &Default::default())
        .unwrap_or_else(|error| panic!("{error}"))
}
