//! Draws plans.

use super::{Phase, Plan, PlanError, PlanOptions, PlanStep, Schedule, SequencePlan};
use crate::config::{AttentionKind, Family, Prepend};
use crate::noise::unmask_probability;
use crate::order::{blocks, random_then_ascending};
use crate::rng::{Purpose, Stream};

/// Longest sequence.
pub(super) const MAX_LENGTH: usize = 1 << 20;
/// Most tokens of a batch.
pub(super) const MAX_TOKENS: usize = 1 << 26;
/// Most steps T.
const MAX_STEPS: usize = 1 << 20;
/// Most given rows that enter in one step, so that the work of a submit stays bounded.
const PROMPT_ROWS: u32 = 512;

pub(super) fn plan(options: &PlanOptions) -> Result<Plan, PlanError> {
    check(options)?;
    let lead = match (options.family, options.prepend) {
        (Family::Ar, Prepend::Bos) => Some(options.bos.ok_or_else(|| {
            PlanError::Unsupported("the model reads a beginning-of-text token first, but its configuration names none; set bos_token_id in config.json".into())
        })?),
        (Family::Ar, Prepend::Mask) => Some(options.mask_index),
        _ => None,
    };
    let length = options.length + usize::from(lead.is_some());
    let sequences: Result<Vec<_>, _> = options
        .known
        .iter()
        .enumerate()
        .map(|(index, known)| sequence(options, index, known, lead))
        .collect();
    Ok(Plan { family: options.family, length, lead: lead.is_some(), mask_index: options.mask_index, sequences: sequences? })
}

fn range(name: &'static str, value: impl ToString, range: impl ToString) -> PlanError {
    PlanError::Range { name, value: value.to_string(), range: range.to_string() }
}

fn check(options: &PlanOptions) -> Result<(), PlanError> {
    if !(1..=MAX_LENGTH).contains(&options.length) {
        return Err(range("length", options.length, format!("from 1 to {MAX_LENGTH}")));
    }
    let batch = options.known.len();
    if batch == 0 || batch > MAX_TOKENS / options.length {
        return Err(range("batch", batch, format!("from 1 to {} at this length", MAX_TOKENS / options.length)));
    }
    if options.first_sequence.checked_add(batch as u32).is_none() {
        return Err(range("first_sequence", options.first_sequence, "below 2^32 less the batch"));
    }
    if !(1..=MAX_STEPS).contains(&options.steps) {
        return Err(range("steps", options.steps, format!("from 1 to {MAX_STEPS}")));
    }
    if !(0.0..=1.0).contains(&options.alpha_0) {
        return Err(range("alpha_0", options.alpha_0, "from 0 (all left to right) to 1 (all by diffusion)"));
    }
    if options.family == Family::Mdlm && options.alpha_0 != 1.0 {
        return Err(range("alpha_0", options.alpha_0, "1 for an MDLM, which has no sequential phase"));
    }
    if options.family == Family::EsoLm && options.attention != AttentionKind::Causal {
        return Err(PlanError::Unsupported("an Eso-LM (A), whose clean tokens see each other in both directions, has no exact cache to sample with; use an Eso-LM (B)".into()));
    }
    Ok(())
}

fn sequence(options: &PlanOptions, index: usize, known: &[(u32, u32)], lead: Option<u32>) -> Result<SequencePlan, PlanError> {
    let wrong = |position, reason: &str| PlanError::Known { sequence: index, position, reason: reason.to_string() };
    let mut given = vec![None; options.length];
    for &(position, token) in known {
        let place = given.get_mut(position as usize).ok_or_else(|| wrong(position, &format!("lies beyond the length of {}", options.length)))?;
        if place.is_some() {
            return Err(wrong(position, "is given twice"));
        }
        if token == options.mask_index {
            return Err(wrong(position, "is the mask token, which stands for an unknown one; leave it out"));
        }
        *place = Some(token);
    }
    let id = options.first_sequence + index as u32;
    if options.family == Family::Ar {
        return autoregressive(options, index, id, &given, lead);
    }
    let free: Vec<u32> = (0..).zip(&given).filter(|(_, g)| g.is_none()).map(|(p, _)| p).collect();
    let (order, sizes, diffusion) = schedule(options, id, &free);
    let first = known.len() as u32;
    let mut steps = Vec::new();
    let mut fed = 0;
    if options.family == Family::EsoLm && !sizes.is_empty() {
        // A long prompt enters by itself, in bounded steps; the last part comes with the first draw.
        while first - fed > PROMPT_ROWS {
            let start = fed + PROMPT_ROWS;
            steps.push(PlanStep { phase: Phase::Prompt, clean: fed, start, end: start });
            fed = start;
        }
    }
    let mut start = first;
    for (number, size) in sizes.into_iter().enumerate() {
        let phase = if number < diffusion { Phase::Diffusion } else { Phase::Sequential };
        let clean = if options.family == Family::Mdlm { 0 } else { fed };
        steps.push(PlanStep { phase, clean, start, end: start + size });
        fed = start;
        start += size;
    }
    let mut all: Vec<u32> = (0..).zip(&given).filter(|(_, g)| g.is_some()).map(|(p, _)| p).collect();
    all.extend(order);
    Ok(SequencePlan { sequence: id, order: all, known: given.into_iter().flatten().collect(), steps })
}

/// The order of the free positions, the sizes of the steps and how many of them are diffusion.
fn schedule(options: &PlanOptions, id: u32, free: &[u32]) -> (Vec<u32>, Vec<u32>, usize) {
    let mut orders = Stream::new(options.seed, id, Purpose::Order);
    let (order, mut sizes, taken) = match options.schedule {
        Schedule::Binomial => {
            let sizes = binomial_sizes(options, id, free.len() as u32);
            let taken = sizes.iter().sum::<u32>() as usize;
            (random_then_ascending(free, taken, &mut orders), sizes, taken)
        }
        Schedule::Blocks | Schedule::BlocksShuffled => {
            let wanted = (options.alpha_0 * free.len() as f64).floor() as usize;
            let mut blocks = blocks(free, options.steps, wanted);
            if options.schedule == Schedule::BlocksShuffled {
                blocks.iter_mut().for_each(|block| orders.shuffle(block));
                orders.shuffle(&mut blocks);
            }
            let sizes: Vec<u32> = blocks.iter().map(|b| b.len() as u32).collect();
            let mut order = blocks.concat();
            let mut dealt = order.clone();
            dealt.sort_unstable();
            let taken = order.len();
            order.extend(free.iter().filter(|p| dealt.binary_search(p).is_err()));
            (order, sizes, taken)
        }
        Schedule::LeftToRight => (free.to_vec(), Vec::new(), 0),
    };
    let diffusion = sizes.len();
    sizes.extend(std::iter::repeat_n(1, free.len() - taken));
    (order, sizes, diffusion)
}

/// Tokens of each diffusion step, drawn before any forward pass: binomial among the still masked ones with the probability of
/// being unmasked between t and s; steps that draw none are dropped; at alpha_0 = 1 leftovers form one last step.
fn binomial_sizes(options: &PlanOptions, id: u32, free: u32) -> Vec<u32> {
    let mut stream = Stream::new(options.seed, id, Purpose::Schedule);
    let total = options.steps as f64;
    let mut left = free;
    let mut sizes = Vec::new();
    for i in 0..options.steps {
        if left == 0 {
            break;
        }
        let (t, s) = (1.0 - i as f64 / total, 1.0 - (i + 1) as f64 / total);
        let size = stream.binomial(left, unmask_probability(options.alpha_0, t, s));
        if size > 0 {
            sizes.push(size);
            left -= size;
        }
    }
    if options.alpha_0 == 1.0 && left > 0 {
        sizes.push(left);
    }
    sizes
}

fn autoregressive(options: &PlanOptions, index: usize, id: u32, given: &[Option<u32>], lead: Option<u32>) -> Result<SequencePlan, PlanError> {
    let prompt: Vec<u32> = given.iter().map_while(|g| *g).collect();
    if let Some(position) = (prompt.len()..given.len()).find(|&p| given[p].is_some()) {
        let reason = "does not follow on the prompt; an AR model only continues a prefix, use an Eso-LM or MDLM to fill gaps";
        return Err(PlanError::Known { sequence: index, position: position as u32, reason: reason.into() });
    }
    let mut known: Vec<u32> = lead.into_iter().chain(prompt).collect();
    if known.is_empty() {
        // Without anything prepended the text itself begins with the beginning-of-text token.
        known.push(options.bos.ok_or_else(|| PlanError::Unsupported("the model needs a first token to go on from, but its configuration names no beginning-of-text token; give a prompt".into()))?);
    }
    let length = (options.length + usize::from(lead.is_some())) as u32;
    let first = known.len() as u32;
    let mut steps = Vec::new();
    let mut fed = 0;
    if first < length {
        while first - fed > PROMPT_ROWS {
            let start = fed + PROMPT_ROWS;
            steps.push(PlanStep { phase: Phase::Prompt, clean: fed, start, end: start });
            fed = start;
        }
    }
    for start in first..length {
        steps.push(PlanStep { phase: Phase::Sequential, clean: fed, start, end: start + 1 });
        fed = start;
    }
    Ok(SequencePlan { sequence: id, order: (0..length).collect(), known, steps })
}
