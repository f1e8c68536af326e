//! Plans of BD3-LMs: what each row attends to, within and beyond the context, and which plans from elsewhere are
//! refused.

use super::common::plan::{MASK, options};
use esolm_core::config::{AttentionKind, Family};
use esolm_core::plan::{MAX_PROMPT_ROWS, Phase, Plan, PlanOptions, PlanStep, Schedule};
use esolm_core::rows::{MASKED, NO_TARGET, Row};
use proptest::prelude::*;

fn bd3lm() -> PlanOptions {
    PlanOptions {
        family: Family::Bd3Lm,
        attention: AttentionKind::Block,
        alpha_0: 1.0,
        schedule: Schedule::FirstHitting,
        block_size: Some(4),
        ..options()
    }
}

fn any_blocks() -> impl Strategy<Value = PlanOptions> {
    let schedule = prop::sample::select(vec![
        Schedule::FirstHitting,
        Schedule::Binomial,
        Schedule::LeftToRight,
    ]);
    // Occasionally, prompts that need steps of their own, and texts beyond the context.
    let size = prop_oneof![9 => 1usize..9, 1 => 90usize..200, 1 => Just(600)];
    (size, 1usize..14, 1usize..12, schedule, any::<u64>())
        .prop_flat_map(|(size, count, context, schedule, seed)| {
            let is_large = size > 8;
            let schedule = if is_large {
                Schedule::Binomial
            } else {
                schedule
            };
            let count = if is_large { count.min(8) } else { count };
            let length = size * count;
            let known = (
                0..3,
                0.0..1.0f64,
                prop::collection::vec((0u32..95, 0.0..1.0f64), length),
            );
            let batch = prop::collection::vec(known, 1..3);
            (
                Just((size, length, size * context, schedule, seed)),
                batch,
                1..if is_large { 3usize } else { 20 },
            )
        })
        .prop_map(|((size, length, context, schedule, seed), batch, steps)| {
            let given = |(kind, share, tokens): (i32, f64, Vec<(u32, f64)>)| {
                let end = (share * length as f64) as u32;
                let is_given = |position: u32, chance: f64| match kind {
                    0 => false,
                    1 => position < end,
                    _ => chance < share,
                };
                let tokens = (0..)
                    .zip(tokens)
                    .filter(|(p, (_, chance))| is_given(*p, *chance));
                tokens
                    .map(|(position, (token, _))| (position, token))
                    .collect()
            };
            PlanOptions {
                length,
                steps,
                schedule,
                seed,
                known: batch.into_iter().map(given).collect(),
                block_size: Some(size),
                context,
                ..bd3lm()
            }
        })
}

/// The contents of a cache slot.
#[derive(Clone, Copy, PartialEq, Debug)]
struct Held {
    position: u32,
    clean: bool,
    step: usize,
}

/// Runs a sequence of a plan: each row must see its own block as it is now, and the earlier blocks within its window,
/// clean.
fn simulate(plan: &Plan, index: usize) -> Result<(), TestCaseError> {
    let (length, size) = (plan.length as u32, plan.block_size.unwrap() as u32);
    let slots = plan.layout().slots as u32;
    let first = index as u32 * length;
    let mut known: Vec<bool> = plan.initial_tokens()[first as usize..][..plan.length]
        .iter()
        .map(|&token| token != MASK)
        .collect();
    let mut cache: Vec<Option<Held>> = vec![None; slots as usize];
    for number in 0..plan.sequences[index].steps.len() {
        let all = plan.step_rows(number);
        let rows: Vec<Row> = all
            .rows
            .iter()
            .copied()
            .filter(|row| row.sequence as usize == index)
            .collect();
        prop_assert!(!rows.is_empty());
        for row in &rows {
            let (position, clean) = (row.position, row.source != MASKED);
            prop_assert_eq!(row.slot, position % slots);
            prop_assert_eq!(clean, known[position as usize]);
            if clean {
                prop_assert_eq!(row.source, first + position);
            }
            prop_assert!(row.target == NO_TARGET || row.target == first + position && !clean);
            let twice = cache[row.slot as usize].is_some_and(|held| held.step == number);
            prop_assert!(!twice, "slot {} twice in a step", row.slot);
            cache[row.slot as usize] = Some(Held {
                position,
                clean,
                step: number,
            });
        }
        for block in rows.chunk_by(|a, b| a.position / size == b.position / size) {
            let start = block[0].position / size * size;
            prop_assert_eq!(block.len() as u32, size);
            let prefix = block[0].prefix;
            prop_assert!(block.iter().all(|row| row.prefix == prefix));
            let mut seen: Vec<u32> = Vec::new();
            for slot in 0..prefix {
                let held = cache[slot as usize];
                prop_assert!(held.is_some(), "slot {slot} holds nothing");
                let held = held.unwrap();
                seen.push(held.position);
                match held.position >= start {
                    true => prop_assert_eq!(held.step, number, "the row's block is computed anew"),
                    false => prop_assert!(held.clean),
                }
            }
            seen.sort_unstable();
            let end = start + size;
            let window: Vec<u32> = (end.saturating_sub(slots)..end).collect();
            prop_assert_eq!(seen, window);
        }
        for row in rows.iter().filter(|row| row.target != NO_TARGET) {
            known[row.position as usize] = true;
        }
    }
    prop_assert!(known.iter().all(|&known| known));
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn rows_of_blocks_see_their_block_and_the_clean_ones_before_it(options in any_blocks()) {
        let plan = Plan::new(&options).unwrap();
        plan.check().unwrap();
        prop_assert_eq!(plan.window, (options.length > options.context).then_some(options.context));
        prop_assert_eq!(&Plan::from_json(&plan.to_json()).unwrap(), &plan);
        let uncached = plan.uncached();
        uncached.check().unwrap();
        for (index, known) in options.known.iter().enumerate() {
            simulate(&plan, index)?;
            simulate(&uncached, index)?;
            let sequence = &plan.sequences[index];
            let size = options.block_size.unwrap();
            let free = options.length - known.len();
            let drawing = sequence.steps.iter().filter(|step| step.phase == Phase::Diffusion);
            let passes = drawing.count();
            match options.schedule {
                Schedule::Binomial => prop_assert!(passes <= free.min(options.steps * options.length / size)),
                _ => prop_assert_eq!(passes, free),
            }
            if options.schedule == Schedule::LeftToRight {
                prop_assert!(sequence.order[known.len()..].is_sorted());
            }
        }
        for number in 0..plan.nfe() {
            let step = plan.step_rows(number);
            prop_assert_eq!(step.rows.len(), plan.positions_computed(number));
            prop_assert!(step.rows.len() <= options.known.len() * (MAX_PROMPT_ROWS.max(options.block_size.unwrap()) + options.block_size.unwrap()));
            prop_assert!(plan.cache_length(number) <= plan.layout().slots * options.known.len());
        }
    }

    /// Within the context, no pass only fills the cache, except for long prompts.
    #[test]
    fn storing_takes_no_pass(options in any_blocks()) {
        let options = PlanOptions { context: options.length, ..options };
        let plan = Plan::new(&options).unwrap();
        for (sequence, known) in plan.sequences.iter().zip(&options.known) {
            let prompts = sequence.steps.iter().filter(|step| step.phase == Phase::Prompt);
            prop_assert!(prompts.count() * MAX_PROMPT_ROWS / 2 <= known.len().max(MAX_PROMPT_ROWS / 2 - 1));
        }
    }

    #[test]
    fn edited_plans_run_or_are_refused(options in any_blocks(), edits in prop::collection::vec((any::<u32>(), 0usize..4, 0u32..3, any::<bool>()), 1..4)) {
        let mut plan = Plan::new(&options).unwrap();
        let (length, size) = (options.length as u32, options.block_size.unwrap() as u32);
        for (place, field, by, up) in edits {
            let sequence = &mut plan.sequences[0];
            if sequence.steps.is_empty() {
                continue;
            }
            let place = place as usize % sequence.steps.len();
            let change = |value: u32, by: u32| match up {
                true => (value + by).min(length),
                false => value.saturating_sub(by),
            };
            let step = &mut sequence.steps[place];
            match field {
                0 => step.clean = change(step.clean, by * size),
                1 => step.start = change(step.start, by),
                2 => step.end = change(step.end, by),
                _ => {
                    let removed = sequence.steps.remove(place);
                    if up {
                        sequence.steps.insert(place.saturating_sub(1), removed);
                    }
                }
            }
        }
        if plan.check().is_ok() {
            simulate(&plan, 0)?;
        }
    }
}

#[test]
fn steps_of_an_example() {
    let known = vec![vec![(0, 7), (1, 8), (2, 9), (3, 10), (4, 11), (9, 12)]];
    let plan = Plan::new(&PlanOptions {
        length: 12,
        known,
        schedule: Schedule::LeftToRight,
        ..bd3lm()
    })
    .unwrap();
    let sequence = &plan.sequences[0];
    assert_eq!(sequence.order, [0, 1, 2, 3, 4, 9, 5, 6, 7, 8, 10, 11]);
    let step = |clean, start| PlanStep::new(Phase::Diffusion, clean, start, start + 1);
    assert_eq!(
        sequence.steps,
        [
            step(0, 6),
            step(4, 7),
            step(4, 8),
            step(4, 9),
            step(8, 10),
            step(8, 11)
        ]
    );
    let rows = plan.step_rows(0);
    let seen: Vec<_> = (rows.rows.iter())
        .map(|row| (row.position, row.prefix, row.source != MASKED))
        .collect();
    assert_eq!(
        seen,
        [
            (0, 4, true),
            (1, 4, true),
            (2, 4, true),
            (3, 4, true),
            (4, 8, true),
            (5, 8, false),
            (6, 8, false),
            (7, 8, false)
        ]
    );
    assert_eq!(rows.sampled, [5]);
}

#[test]
fn beyond_the_context_clean_blocks_take_a_pass_of_their_own() {
    let plan = Plan::new(&PlanOptions {
        length: 16,
        context: 8,
        known: vec![vec![]],
        ..bd3lm()
    })
    .unwrap();
    let phases = plan.sequences[0].steps.iter().map(|step| step.phase);
    let alone: Vec<usize> = (0..)
        .zip(phases)
        .filter(|(_, phase)| *phase == Phase::Prompt)
        .map(|(i, _)| i)
        .collect();
    assert_eq!((plan.window, alone), (Some(8), vec![8, 13]));
}

#[test]
fn bad_options_are_named() {
    for (options, words) in [
        (
            PlanOptions {
                block_size: None,
                ..bd3lm()
            },
            ["block_size", "missing"],
        ),
        (
            PlanOptions {
                block_size: Some(0),
                ..bd3lm()
            },
            ["block_size is 0", "32"],
        ),
        (
            PlanOptions {
                block_size: Some(5),
                ..bd3lm()
            },
            ["block_size is 5", "length 32"],
        ),
        (
            PlanOptions {
                context: 30,
                ..bd3lm()
            },
            ["block_size is 4", "context of 30"],
        ),
        (
            PlanOptions {
                alpha_0: 0.5,
                ..bd3lm()
            },
            ["alpha_0", "BD3-LM"],
        ),
        (
            PlanOptions {
                schedule: Schedule::Blocks,
                ..bd3lm()
            },
            ["blocks", "first-hitting"],
        ),
        (
            PlanOptions {
                attention: AttentionKind::Causal,
                ..bd3lm()
            },
            ["BD3-LM", "blocks"],
        ),
        (
            PlanOptions {
                block_size: Some(4),
                ..options()
            },
            ["block_size", "without blocks"],
        ),
        (
            PlanOptions {
                schedule: Schedule::FirstHitting,
                ..options()
            },
            ["first-hitting", "binomial"],
        ),
    ] {
        let message = Plan::new(&options).unwrap_err().to_string();
        for word in words {
            assert!(message.contains(word), "{message:?} lacks {word:?}");
        }
    }
}

#[test]
fn bad_plans_are_named() {
    let json = Plan::new(&PlanOptions {
        length: 48,
        ..bd3lm()
    })
    .unwrap()
    .to_json();
    for (from, to, words) in [
        ("\"block_size\":4", "\"block_size\":0", "blocks of 0"),
        ("\"block_size\":4", "\"block_size\":7", "blocks of 7"),
        ("\"block_size\":4,", "", "has a block_size"),
        ("\"window\":32", "\"window\":30", "window of 30"),
        ("\"window\":32", "\"window\":48", "window of 48"),
        ("\"window\":32", "\"window\":0", "window of 0"),
        // Beyond the window, a clean block does not run together with the next one.
        ("\"window\":32", "\"window\":28", "does not follow"),
        (
            "\"family\":\"bd3lm\"",
            "\"family\":\"mdlm\"",
            "only a BD3-LM",
        ),
        (
            "\"family\":\"bd3lm\"",
            "\"family\":\"esolm\"",
            "only a BD3-LM",
        ),
    ] {
        let edited = json.replacen(from, to, 1);
        assert_ne!(edited, json, "{from}");
        let message = Plan::from_json(&edited).unwrap_err().to_string();
        assert!(message.contains(words), "{message:?} lacks {words:?}");
    }
}

#[test]
fn recorded_runs_must_be_whole() {
    const M: u32 = MASK;
    let block = [0, 0, 1];
    let before = [vec![7, M], vec![7, M], vec![M, M]];
    let after = [vec![7, M], vec![7, 5], vec![3, 4]];
    let of = |block: &[u32], before: &[Vec<u32>], after: &[Vec<u32>]| {
        Plan::from_recorded_blocks(block, before, after, 4, M, 97)
    };
    let run = of(&block, &before, &after).unwrap();
    let sequence = &run.plan.sequences[0];
    assert_eq!(
        (&sequence.order[..], &sequence.known[..]),
        (&[0, 1, 2, 3][..], &[7][..])
    );
    assert_eq!(run.unmasked_in, [None, Some(1), Some(2), Some(2)]);
    assert_eq!((run.plan.window, sequence.steps.len()), (None, 2));
    // Row `step`, and position in the block, of the recording.
    let recorded: Vec<f64> = (0..3 * 2 * 97).map(f64::from).collect();
    let uniforms = run.uniforms(&recorded).unwrap();
    let first = |position: usize| uniforms[position * 97];
    assert_eq!(
        [first(0), first(1), first(2), first(3)],
        [0.5, 3.0 * 97.0, 4.0 * 97.0, 5.0 * 97.0]
    );
    let beyond = Plan::from_recorded_blocks(&block, &before, &after, 2, M, 97).unwrap();
    assert_eq!(
        (beyond.plan.window, beyond.plan.sequences[0].steps.len()),
        (Some(2), 3)
    );

    let edited = |number: usize, text: Vec<u32>| {
        let mut after = after.clone();
        after[number] = text;
        after
    };
    let refused = |result: Result<esolm_core::plan::RecordedDiffusion, _>, words: &str| {
        let message: esolm_core::plan::PlanError = result.unwrap_err();
        let message = message.to_string();
        assert!(message.contains(words), "{message:?} lacks {words:?}");
    };
    refused(of(&[], &[], &[]), "no block");
    refused(of(&block[..2], &before, &after), "differ in shape");
    refused(of(&block, &before, &edited(2, vec![3])), "differ in shape");
    refused(of(&[0, 0, 2], &before, &after), "of block 2");
    refused(of(&[1, 1, 1], &before, &after), "of block 1");
    refused(
        of(&block, &before, &edited(0, vec![7, 6])),
        "does not begin where",
    );
    refused(
        of(&block, &before, &edited(1, vec![8, 5])),
        "changes the known place 0",
    );
    refused(
        of(&block, &before, &edited(1, vec![7, M])),
        "leaves a block with masks",
    );
    refused(
        of(&block, &before, &edited(2, vec![3, M])),
        "last block has masks",
    );
}
