//! Makes plans from options.

use std::ops::Range;

use super::blocks::{self, Blocks};
use super::error::PlanError;
use super::schedule;
use super::sets;
use super::types::{
    MAX_LENGTH, MAX_PROMPT_ROWS, MAX_STEPS, Phase, PlanOptions, PlanStep, Schedule, SequencePlan,
};
use crate::config::{AttentionKind, Family, NO_MASK, Prepend};
use crate::reveal::Rule;
use crate::rows::MAX_TOKENS;

/// The token before a text, if the model reads one there, and the plan of every sequence.
pub(super) fn build(options: &PlanOptions) -> Result<(bool, Vec<SequencePlan>), PlanError> {
    check(options)?;
    let lead = match (options.family, options.prepend) {
        (Family::Ar, Prepend::Bos) => Some(options.bos.ok_or(PlanError::NoBos)?),
        (Family::Ar, Prepend::Mask) => Some(options.mask_index),
        _ => None,
    };
    let sequences: Result<Vec<_>, _> = options
        .known
        .iter()
        .enumerate()
        .map(|(index, known)| {
            let given = given(options, index, known)?;
            check_prefix(options, index, &given)?;
            let sequence = options.first_sequence + index as u32;
            match options.family {
                Family::Ar => autoregressive(options, index, sequence, &given, lead),
                Family::EsoLm | Family::Mdlm | Family::SetDlm => {
                    Ok(any_order(options, sequence, &given))
                }
                Family::Bd3Lm => {
                    let length = options.length;
                    let blocks = Blocks::new(
                        options.block_size.unwrap_or(length),
                        options.window().unwrap_or(length),
                        length,
                        options.block_rules.map(|rules| rules.tail),
                        known.len(),
                    );
                    Ok(blocks::sequence(options, blocks, sequence, &given))
                }
            }
        })
        .collect();
    Ok((lead.is_some(), sequences?))
}

pub(super) fn check(options: &PlanOptions) -> Result<(), PlanError> {
    let range = |name, value: String, range: String| Err(PlanError::Range { name, value, range });
    let whole = |name, value: usize, max: usize| {
        if (1..=max).contains(&value) {
            Ok(())
        } else {
            range(name, value.to_string(), format!("from 1 to {max}"))
        }
    };
    whole("length", options.length, MAX_LENGTH)?;
    whole("steps", options.steps, MAX_STEPS)?;
    let batch = options.known.len();
    // One more for a prepended token.
    let length = options.length + 1;
    whole("batch", batch, MAX_TOKENS)?;
    if batch > MAX_TOKENS / length {
        return Err(PlanError::TooManyTokens {
            sequences: batch,
            length,
            max: MAX_TOKENS,
        });
    }
    if options.first_sequence.checked_add(batch as u32).is_none() {
        let most = u32::MAX - batch as u32;
        return range(
            "first_sequence",
            options.first_sequence.to_string(),
            format!("from 0 to {most} for this batch"),
        );
    }
    if !(0.0..=1.0).contains(&options.alpha_0) {
        return range(
            "alpha_0",
            options.alpha_0.to_string(),
            "from 0 (all left to right) to 1 (all by diffusion)".into(),
        );
    }
    let one_phase = match options.family {
        Family::Mdlm => Some("1 for an MDLM, which has no sequential phase"),
        Family::Bd3Lm => Some("1 for a BD3-LM, which has no sequential phase"),
        Family::SetDlm => Some("1 for a SetDLM, which has no sequential phase"),
        Family::EsoLm | Family::Ar => None,
    };
    if let Some(one) = one_phase.filter(|_| options.alpha_0 != 1.0) {
        return range("alpha_0", options.alpha_0.to_string(), one.into());
    }
    check_blocks(options)?;
    match options.schedule {
        Schedule::BlockAutoregressive => whole("sar_steps", options.sar_steps, MAX_STEPS)?,
        schedule if options.sar_steps != 1 => {
            let one = format!(
                "1 with the schedule {schedule}, as only {} has such stretches",
                Schedule::BlockAutoregressive
            );
            return range("sar_steps", options.sar_steps.to_string(), one);
        }
        _ => {}
    }
    for (name, token) in [
        (
            "mask_index",
            Some(options.mask_index).filter(|&mask| mask != NO_MASK),
        ),
        ("bos_token_id", options.bos),
    ] {
        if let Some(token) = token
            && token as usize >= options.vocab_size
        {
            let below = format!("below the vocabulary size {}", options.vocab_size);
            return range(name, token.to_string(), below);
        }
    }
    let blocks = matches!(
        options.schedule,
        Schedule::Blocks
            | Schedule::BlocksShuffled
            | Schedule::Block
            | Schedule::BlockAutoregressive
    );
    let first_hitting = options.schedule == Schedule::FirstHitting;
    let confidence = options.schedule == Schedule::Confidence;
    if !confidence && options.reveal != Rule::default() {
        return Err(PlanError::Schedule {
            schedule: options.schedule,
            why: "settles beforehand which tokens become known, whatever their confidence; leave out how they are chosen, or use the schedule confidence",
        });
    }
    if let Some(threshold) = options
        .reveal
        .threshold
        .filter(|_| !options.reveal.is_sound())
    {
        return range(
            "confidence_threshold",
            threshold.to_string(),
            "from 0 to 1, for a confidence of the network's".into(),
        );
    }
    match options.family {
        Family::Ar if blocks || first_hitting || confidence => return Err(PlanError::ArSchedule),
        Family::EsoLm if confidence => {
            return Err(PlanError::Schedule {
                schedule: options.schedule,
                why: "lets the network choose the order, which the cache of an Eso-LM must know beforehand; use binomial, or an MDLM, a BD3-LM or a SetDLM",
            });
        }
        Family::Bd3Lm if blocks => {
            return Err(PlanError::Schedule {
                schedule: options.schedule,
                why: "spreads steps over the whole text, and a BD3-LM writes a block after the other; use first-hitting, binomial, confidence or left-to-right",
            });
        }
        Family::SetDlm => sets::check(options)?,
        Family::EsoLm | Family::Mdlm if first_hitting => {
            return Err(PlanError::Schedule {
                schedule: options.schedule,
                why: "goes through the blocks of a BD3-LM or the sets of a SetDLM, which this model does not have; use binomial, or blocks-shuffled with as many steps as tokens to draw one by one",
            });
        }
        _ => {}
    }
    let remedy = match (options.family, options.attention) {
        (Family::EsoLm | Family::Ar, AttentionKind::Causal) => return Ok(()),
        (Family::EsoLm, AttentionKind::Mixed) => return Ok(()),
        (Family::Mdlm, AttentionKind::Bidirectional) => return Ok(()),
        (Family::Bd3Lm, AttentionKind::Block) => return Ok(()),
        (Family::SetDlm, AttentionKind::Set) => return Ok(()),
        (Family::EsoLm, _) => {
            "its masked tokens would see each other, which no published sampler lets them: use an Eso-LM (A) or (B)"
        }
        (Family::Mdlm, _) => "an MDLM is bidirectional: correct the configuration",
        (Family::Ar, _) => "an AR model is causal: correct the configuration",
        (Family::Bd3Lm, _) => "a BD3-LM goes by blocks: correct the configuration",
        (Family::SetDlm, _) => "a SetDLM goes by sets: correct the configuration",
    };
    Err(PlanError::Attention {
        family: options.family,
        attention: options.attention,
        remedy,
    })
}

/// What only a BD3-LM has, and it must.
fn check_blocks(options: &PlanOptions) -> Result<(), PlanError> {
    let length = options.length;
    let (value, range) = match (options.family, options.block_size) {
        (Family::Bd3Lm, None) => ("missing".into(), "given for a BD3-LM".into()),
        // The last block may be short.
        (Family::Bd3Lm, Some(size)) if options.block_rules.is_some() => {
            let (most, length) = (options.context, options.length);
            let range = match (1..=MAX_LENGTH).contains(&size) {
                false => format!("a whole number from 1 to {MAX_LENGTH}"),
                true if length <= most => return Ok(()),
                true => {
                    return Err(PlanError::Range {
                        name: "length",
                        value: length.to_string(),
                        range: format!("at most the model's context of {most} tokens"),
                    });
                }
            };
            (size.to_string(), range)
        }
        (Family::Mdlm, Some(size)) if options.schedule == Schedule::Confidence => {
            match (1..=MAX_LENGTH).contains(&size) {
                false => (
                    size.to_string(),
                    format!("a whole number from 1 to {MAX_LENGTH}"),
                ),
                true => return Ok(()),
            }
        }
        (Family::Bd3Lm, Some(size)) if size == 0 || !length.is_multiple_of(size) => (
            size.to_string(),
            format!("a whole number from 1 that divides the length {length}"),
        ),
        (Family::Bd3Lm, Some(size))
            if options.context == 0 || !options.context.is_multiple_of(size) =>
        {
            (
                size.to_string(),
                format!(
                    "a whole number from 1 that divides the context of {} tokens",
                    options.context
                ),
            )
        }
        (Family::EsoLm | Family::Mdlm | Family::Ar | Family::SetDlm, Some(size)) => (
            size.to_string(),
            "left out for a family without blocks".into(),
        ),
        _ => return Ok(()),
    };
    Err(PlanError::Range {
        name: "block_size",
        value,
        range,
    })
}

/// The given token of each natural position.
fn given(
    options: &PlanOptions,
    sequence: usize,
    known: &[(u32, u32)],
) -> Result<Vec<Option<u32>>, PlanError> {
    let mut given = vec![None; options.length];
    for &(position, token) in known {
        let wrong = |reason: String| PlanError::Known {
            sequence,
            position,
            reason,
        };
        let length = options.length;
        let place = given.get_mut(position as usize).ok_or_else(|| {
            wrong(format!(
                "lies beyond the length of {length}; give fewer tokens or a greater length"
            ))
        })?;
        if place.is_some() {
            return Err(wrong("is given twice; give each position once".into()));
        }
        if token == options.mask_index {
            let text = "is the mask token, which stands for an unknown one; leave it out";
            return Err(wrong(text.into()));
        }
        if token as usize >= options.vocab_size {
            return Err(wrong(format!(
                "is {token}, beyond the vocabulary of {}; use the tokenizer that belongs to the model",
                options.vocab_size
            )));
        }
        *place = Some(token);
    }
    Ok(given)
}

/// Refuses gaps where blocks are counted from the end of a prompt, or go by it.
fn check_prefix(
    options: &PlanOptions,
    sequence: usize,
    given: &[Option<u32>],
) -> Result<(), PlanError> {
    let needs = (options.block_rules).is_some_and(|rules| rules.tail.needs_prefix())
        && options.block_size.is_some();
    let prompt = given.iter().take_while(|token| token.is_some()).count();
    match given[prompt..].iter().position(Option::is_some) {
        Some(behind) if needs => Err(PlanError::Known {
            sequence,
            position: (prompt + behind) as u32,
            reason: "stands behind a gap, and the blocks go by the end of a prompt; count them from the beginning of the text to fill gaps".into(),
        }),
        _ => Ok(()),
    }
}

/// Steps in which a prompt of `known` entries enters the cache as far as it is too long to come with the first draw; the second
/// value is how much has entered.
fn prompt_steps(known: u32) -> (Vec<PlanStep>, u32) {
    let rows = MAX_PROMPT_ROWS as u32;
    let mut steps = Vec::new();
    let mut fed = 0;
    while known - fed > rows {
        steps.push(PlanStep::new(Phase::Prompt, fed, fed + rows, fed + rows));
        fed += rows;
    }
    (steps, fed)
}

/// Eso-LM, MDLM and SetDLM: given tokens first, then the schedule over the rest. The clean tokens of an Eso-LM (A) see each other in the diffusion
/// phase, so all of them are computed again whenever some have joined, for the last time in the first sequential step.
fn any_order(options: &PlanOptions, sequence: u32, given: &[Option<u32>]) -> SequencePlan {
    if options.schedule == Schedule::Confidence {
        return by_confidence(options, sequence, given);
    }
    let positions = |wanted: bool| {
        (0..)
            .zip(given)
            .filter(move |(_, given)| given.is_some() == wanted)
            .map(|(position, _)| position)
    };
    let free: Vec<u32> = positions(false).collect();
    let draw = schedule::draw(options, sequence, &free);
    let mut order: Vec<u32> = positions(true).collect();
    let known = order.len() as u32;
    order.extend(draw.order);

    let cached = options.family != Family::Mdlm;
    let is_mixed = options.is_mixed();
    let (mut steps, mut fed) = if cached && !is_mixed && !free.is_empty() {
        prompt_steps(known)
    } else {
        (Vec::new(), 0)
    };
    let diffusion = draw.diffusion.len();
    let rest = free.len() - draw.diffusion.iter().sum::<u32>() as usize;
    let sizes = draw
        .diffusion
        .into_iter()
        .chain(std::iter::repeat_n(1, rest));
    let mut start = known;
    for (number, size) in sizes.enumerate() {
        // An MDLM has no other phase: it predicts single tokens as it does many.
        let phase = match number < diffusion || !cached {
            true => Phase::Diffusion,
            false => Phase::Sequential,
        };
        let clean = match cached {
            true if !is_mixed || number > diffusion => fed,
            _ => 0,
        };
        steps.push(PlanStep::new(phase, clean, start, start + size));
        fed = start;
        start += size;
    }
    SequencePlan {
        sequence,
        order,
        known: given.iter().copied().flatten().collect(),
        steps,
    }
}

/// An MDLM whose confidence chooses among all of its positions that are not given, or among those of one block after the other, or a SetDLM
/// among those of windows.
fn by_confidence(options: &PlanOptions, sequence: u32, given: &[Option<u32>]) -> SequencePlan {
    let mut order: Vec<u32> = (0..given.len() as u32).collect();
    // A stable sort: positions ascend on either side.
    order.sort_by_key(|&position| given[position as usize].is_none());
    let known: Vec<u32> = given.iter().copied().flatten().collect();
    let (start, end) = (known.len() as u32, given.len() as u32);
    // Each stretch of entries that confidence goes through, and the counts of its steps.
    let stretches = match options.family {
        Family::SetDlm => {
            sets::arrange(options, sequence, &mut order[known.len()..]);
            let counts = schedule::even_sizes(end - start, options.steps);
            vec![(start..end, counts)]
        }
        _ => mdlm_stretches(options, &order, known.len()),
    };
    let steps = stretches.into_iter().flat_map(|(entries, counts)| {
        counts.into_iter().map(move |least| PlanStep {
            least: Some(least),
            ..PlanStep::new(Phase::Diffusion, 0, entries.start, entries.end)
        })
    });
    let steps = steps.collect();
    SequencePlan {
        sequence,
        order,
        known,
        steps,
    }
}

/// The entries that confidence goes through together in the text of an MDLM, and how many it takes in each step: all that are not given, or
/// those of one block after the other.
fn mdlm_stretches(
    options: &PlanOptions,
    order: &[u32],
    known: usize,
) -> Vec<(Range<u32>, Vec<u32>)> {
    let rules = options.block_rules.unwrap_or_default();
    let length = order.len();
    let size = options.block_size.unwrap_or(length);
    let begins = match rules.tail.needs_prefix() {
        true => known,
        false => 0,
    };
    // Steps are divided among the blocks that could be written, whether or not anything is masked in them.
    let count = (length - begins).div_ceil(size).max(1);
    let steps = options.steps.div_ceil(count);
    let block = |position: u32| (position as usize).saturating_sub(begins) / size;
    let mut start = known as u32;
    order[known..]
        .chunk_by(|&a, &b| block(a) == block(b))
        .map(|places| {
            let masked = places.len() as u32;
            let entries = start..start + masked;
            start = entries.end;
            (entries, rules.counts.of(masked, size as u32, steps))
        })
        .collect()
}

/// AR: a prefix, then one token after the other.
fn autoregressive(
    options: &PlanOptions,
    index: usize,
    sequence: u32,
    given: &[Option<u32>],
    lead: Option<u32>,
) -> Result<SequencePlan, PlanError> {
    let mut text: Vec<u32> = given.iter().map_while(|token| *token).collect();
    if text.is_empty() && lead.is_none() {
        // Without anything prepended the text itself begins with the beginning-of-text token, before what is given.
        text.push(options.bos.ok_or(PlanError::NoBos)?);
        text.extend(given.iter().skip(1).map_while(|token| *token));
    }
    if let Some(position) = (text.len()..given.len()).find(|&position| given[position].is_some()) {
        return Err(PlanError::ArGap {
            sequence: index,
            position: position as u32,
        });
    }
    let known: Vec<u32> = lead.into_iter().chain(text).collect();
    let length = (given.len() + usize::from(lead.is_some())) as u32;
    let first = known.len() as u32;
    let (mut steps, mut fed) = if first < length {
        prompt_steps(first)
    } else {
        (Vec::new(), 0)
    };
    for start in first..length {
        steps.push(PlanStep::new(Phase::Sequential, fed, start, start + 1));
        fed = start;
    }
    Ok(SequencePlan {
        sequence,
        order: (0..length).collect(),
        known,
        steps,
    })
}
