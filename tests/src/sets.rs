//! Golden numbers of SetDLMs: passes over clean and masked text, masks following a cache, the noise schedule and
//! likelihoods.

use std::path::{Path, PathBuf};

use esolm::checkpoint::Checkpoint;
use esolm::config::{ModelConfig, Sets};
use esolm::forward_process::{Staggered, by_time, hold};
use esolm::passes::{Pass, exact};
use esolm::rows::{Layout, MASKED, NO_TARGET, Row, StepRows, own_slot, set_rows};

use crate::checks::{GOLDEN, assert_close};
use crate::family::files;
use crate::losses::{close, tables};
use crate::{Golden, Runner};

/// Every pass of a file; returns the largest difference of logits.
pub fn check_forward(golden: &Golden, config: &ModelConfig, runner: &mut dyn Runner) -> f32 {
    let (vocab, mask) = (config.vocab_size, config.mask_index);
    let (x0, perm) = (golden.rows("x0"), golden.rows("perm"));
    let sorted = |x0: &Vec<u32>, perm: &Vec<u32>| perm.iter().map(|&p| x0[p as usize]).collect();
    let x0_sorted: Vec<Vec<u32>> = x0.iter().zip(&perm).map(|(x, p)| sorted(x, p)).collect();
    if golden.has("x0_sorted") {
        assert_eq!(x0_sorted, golden.rows("x0_sorted"));
    }
    if golden.has("exp_draws") {
        let schedule = schedule(config);
        let length = x0[0].len();
        for (draws, perm) in golden.f64("exp_draws").chunks(length).zip(&perm) {
            assert_eq!(&order(&schedule, draws, |place| place > 0), perm);
        }
    }
    let (layout, tokens, step) = set_rows(&perm, &x0_sorted, mask, vocab).unwrap();
    runner.start(&layout, &tokens);
    let logits = runner.logits(&step);
    let mut largest = assert_close("logits", &logits, &golden.f32("logits_sorted"), GOLDEN);
    if golden.has("static_mask") {
        let static_mask = golden.u8("static_mask");
        for (row, sees) in step.rows[..layout.slots]
            .iter()
            .zip(static_mask.chunks(layout.slots))
        {
            let seen = |slot: u32| u8::from(row.sees(slot));
            let own: Vec<u8> = (0..layout.slots as u32).map(seen).collect();
            assert_eq!(own, sees, "{row:?}");
        }
    }
    if golden.has("logits_clean_rows") {
        let count = golden.shape("logits_clean_rows")[0];
        let (layout, tokens, mut step) =
            set_rows(&perm[..count], &x0_sorted[..count], mask, vocab).unwrap();
        let half = layout.slots / 2;
        let is_clean = |&row: &u32| (step.rows[row as usize].slot as usize) < half;
        step.sampled = (0..step.rows.len() as u32).filter(is_clean).collect();
        runner.start(&layout, &tokens);
        let (logits, name) = (runner.logits(&step), "logits_clean_rows");
        largest = largest.max(assert_close(name, &logits, &golden.f32(name), GOLDEN));
    }
    for name in golden.names() {
        let Some(case) = name.strip_suffix(".query_positions") else {
            continue;
        };
        let clean = case.rsplit_once(".c").expect("cached.cC").1;
        let clean: usize = clean.parse().unwrap();
        let places = golden.u32(name);
        let logits = after_clean(&perm[0][..clean], &x0_sorted[0][..clean], &places, runner);
        let name = format!("{case}.logits");
        largest = largest.max(assert_close(&name, &logits, &golden.f32(&name), GOLDEN));
    }
    largest
}

/// Logits of masks at `places` after the clean tokens of `order`, which are in the cache if there is one.
fn after_clean(order: &[u32], clean: &[u32], places: &[u32], runner: &mut dyn Runner) -> Vec<f32> {
    let count = clean.len() as u32;
    let layout = Layout {
        sequences: 1,
        slots: clean.len() + places.len(),
        tokens: clean.len(),
    };
    let row = |slot: u32, position: u32, prefix: u32, source: u32| Row {
        sequence: 0,
        slot,
        position,
        prefix,
        own: own_slot(slot, prefix),
        source,
        target: NO_TARGET,
    };
    let cached = (0..)
        .zip(order)
        .map(|(slot, &p)| row(slot, p, slot + 1, slot));
    let masks = (count..)
        .zip(places)
        .map(|(slot, &p)| row(slot, p, count, MASKED));
    let masks: Vec<Row> = masks.collect();
    let mut step = StepRows {
        rows: cached.collect(),
        sampled: Vec::new(),
    };
    runner.start(&layout, clean);
    if runner.has_cache() {
        runner.logits(&step);
        step.rows.clear();
    }
    let first = step.rows.len() as u32;
    step.sampled = (first..first + masks.len() as u32).collect();
    step.rows.extend(masks);
    runner.logits(&step)
}

/// The noise of a model.
pub(crate) fn schedule(config: &ModelConfig) -> Staggered {
    Staggered::new(config.sets.as_ref().expect("a SetDLM"), config.length)
}

/// The order of a text given recorded exponential numbers, one for each position.
pub(crate) fn order(
    schedule: &Staggered,
    exponentials: &[f64],
    is_free: impl Fn(usize) -> bool,
) -> Vec<u32> {
    let mut times = schedule.times(0, exponentials);
    let is_free: Vec<bool> = (0..times.len()).map(is_free).collect();
    hold(&mut times, &is_free);
    by_time(&times)
}

/// Every recorded noise schedule; returns how many cases there were.
///
/// # Panics
/// If a time, an order or a share differs, or there is no case.
pub fn check_schedule() -> usize {
    let mut ran = 0;
    for file in files("schedule.safetensors") {
        let golden = Golden::read(&file);
        let names = golden.names().into_iter();
        for case in names.filter_map(|name| name.strip_suffix(".loc")) {
            check_schedule_case(&golden, case);
            ran += 1;
        }
    }
    assert!(ran > 0, "no case");
    ran
}

fn check_schedule_case(golden: &Golden, case: &str) {
    let tensor = |what: &str| format!("{case}.{what}");
    let number = |what: &str| golden.metadata()[&tensor(what)].parse::<f64>().unwrap();
    let near = |what: &str, got: f64, want: f64| {
        let equal = got == want || (got - want).abs() <= 1e-6 * want.abs().max(1.0);
        assert!(equal, "{case}, {what}: {got}, want {want}");
    };
    let starts = golden.f64(&tensor("loc"));
    let length = starts.len();
    // The sizes of sets are not recorded, but their consequences are.
    let (b, k, l) = (number("b"), number("k"), length as f64);
    let desired = (2.0 * l * k * b / (k + 1.0)).round();
    let largest = match k == 1.0 {
        true => desired,
        false => (b * (l - 1.0) / (1.0 - b)).round(),
    };
    let sets = Sets {
        desired: desired as usize,
        largest: largest as usize,
        keeps_first: true,
        cache_by_time: false,
        pad: None,
    };
    let schedule = Staggered::new(&sets, length);
    near("b", schedule.width(), b);
    near("k", schedule.power(), k);
    for (place, &start) in starts.iter().enumerate() {
        near("loc", schedule.start(place), start);
    }
    let derivatives = golden.f32(&tensor("alpha_t_prime"));
    let shares = golden.f32(&tensor("alpha_t"));
    let times = golden.f32(&tensor("t"));
    for ((&t, shares), derivatives) in
        (times.iter().zip(shares.chunks(length))).zip(derivatives.chunks(length))
    {
        for (place, (&share, &derivative)) in shares.iter().zip(derivatives).enumerate() {
            let t = f64::from(t);
            near("alpha", schedule.alpha(place, t), share.into());
            let got = schedule.alpha_derivative(place, t);
            // At the end of a position's time, the derivative goes to infinity, and only rounding determines its value.
            if !(got < -1e6 && derivative < -1e6) {
                near("alpha'", got, derivative.into());
            }
        }
    }
    let drawn = golden.f64(&tensor("exp_draws"));
    let hitting = golden.f64(&tensor("T"));
    let orders = golden.rows(&tensor("order"));
    for ((draws, hitting), order) in (drawn.chunks(length))
        .zip(hitting.chunks(length))
        .zip(&orders)
    {
        let times = schedule.times(0, draws);
        for (&got, &want) in times.iter().zip(hitting) {
            near("T", got, want);
        }
        assert_eq!(&by_time(&times), order, "{case}");
    }
    let drawn = golden.f64(&tensor("perm.exp_draws"));
    for name in golden.names() {
        let Some(perm) = name.strip_suffix(".to_permute") else {
            continue;
        };
        if !perm.starts_with(&tensor("perm.")) {
            continue;
        }
        let (free, want) = (golden.u8(name), golden.rows(perm));
        for ((draws, free), want) in drawn.chunks(length).zip(free.chunks(length)).zip(&want) {
            let got = order(&schedule, draws, |place| free[place] != 0);
            assert_eq!(&got, want, "{perm}");
        }
    }
}

/// The likelihoods of padded texts in random orders. The published code does not count padding tokens, not even an
/// end-of-text token within a text if both are the same, and averages the means of texts.
pub fn check_likelihood(golden: &Golden, config: &ModelConfig, runner: &mut dyn Runner) {
    let x0 = golden.rows("x0");
    let length = x0[0].len();
    let real = golden.rows("attention_mask");
    let perm = golden.rows("setdlm.perm");
    let draws = golden.f64("setdlm.exp_draws");
    let schedule = schedule(config);
    let passes: Vec<Pass> = (x0.iter().zip(&real).zip(&perm))
        .zip(draws.chunks(length))
        .map(|(((x0, real), perm), draws)| {
            let count = real.iter().sum::<u32>() as usize;
            assert_eq!(&order(&schedule, draws, |p| (1..count).contains(&p)), perm);
            exact(&x0[..count], &perm[..count], 1)
        })
        .collect();
    let table = tables(runner, &passes, length);
    let counted = golden.rows("setdlm.tokens_mask");
    let want = golden.f32("setdlm.nlls");
    let all = golden.f32("setdlm.neg_log_p");
    let pad = config.sets.as_ref().and_then(|sets| sets.pad);
    let mut mean = 0.0;
    for (row, (losses, pass)) in table.iter().zip(&passes).enumerate() {
        let (mut sum, mut count) = (0.0, 0.0);
        for place in 1..length {
            let at = row * (length - 1) + place - 1;
            let token = pass.tokens.get(place);
            if all[at] != 0.0 {
                close("neg_log_p", losses[place], all[at]);
            }
            let counts = token.is_some_and(|&token| Some(token) != pad);
            assert_eq!(
                u32::from(counts),
                counted[row][place - 1],
                "row {row}, {place}"
            );
            if counts {
                close("nlls", losses[place], want[at]);
                sum += losses[place];
                count += 1.0;
            }
        }
        mean += sum / count / x0.len() as f64;
    }
    close("loss", mean, golden.f32("setdlm.loss")[0]);
}

/// The files of likelihoods that involve a SetDLM, each with its network.
pub fn likelihoods() -> Vec<(Golden, Checkpoint)> {
    let files = files("likelihood.safetensors").into_iter();
    files
        .map(|file| (Golden::read(&file), file))
        .filter(|(golden, _)| golden.has("setdlm.nlls"))
        .map(|(golden, file)| (golden, beside(&file)))
        .collect()
}

/// The SetDLM next to a file: the one with its name, or any.
pub(crate) fn beside(file: &Path) -> Checkpoint {
    let around = std::fs::read_dir(file.parent().unwrap()).unwrap();
    let mut folders: Vec<_> = around
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.is_dir())
        .collect();
    folders.sort();
    let name = |path: &Path| path.file_name().unwrap().to_string_lossy().to_string();
    // NAME.sampling has its own network, if there is one with that name.
    let own = name(file).split('.').next().unwrap().to_string();
    let named = |path: &&PathBuf| [own.clone(), format!("owt_{own}")].contains(&name(path));
    let any = |path: &&PathBuf| name(path).starts_with("owt_setdlm");
    let folder = folders.iter().find(named).or(folders.iter().find(any));
    let folder = folder.unwrap_or_else(|| panic!("{}: no network", file.display()));
    Checkpoint::open(&folder.to_string_lossy(), &Default::default())
        .unwrap_or_else(|error| panic!("{error}"))
}
