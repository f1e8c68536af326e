//! Plans of decoders: where blocks begin and end, what each row sees, and how many tokens a step reveals.

use super::common::plan::{MASK, options};
use esolm_core::config::{AttentionKind, Family};
use esolm_core::plan::{BlockRules, Plan, PlanOptions, PromptTail, Schedule};
use esolm_core::reveal::Counts;
use esolm_core::rows::NO_TARGET;
use proptest::prelude::*;

const TAILS: [PromptTail; 3] = [PromptTail::Shared, PromptTail::Own, PromptTail::Blind];

fn decoder(family: Family, tail: PromptTail, counts: Counts) -> PlanOptions {
    PlanOptions {
        family,
        attention: match family {
            Family::Mdlm => AttentionKind::Bidirectional,
            _ => AttentionKind::Block,
        },
        alpha_0: 1.0,
        schedule: Schedule::Confidence,
        block_size: Some(8),
        block_rules: Some(BlockRules { tail, counts }),
        context: 4000,
        ..options()
    }
}

fn prompt(tokens: usize) -> Vec<(u32, u32)> {
    (0..tokens as u32).map(|p| (p, p % 90)).collect()
}

fn any_text() -> impl Strategy<Value = PlanOptions> {
    let tail = prop::sample::select(TAILS.to_vec());
    let counts = prop::sample::select(vec![Counts::Even, Counts::Linear, Counts::Block]);
    let schedule = prop::sample::select(vec![
        Schedule::Confidence,
        Schedule::Confidence,
        Schedule::FirstHitting,
        Schedule::LeftToRight,
    ]);
    // Occasionally, prompts that need steps of their own.
    let sizes = prop_oneof![
        9 => (1usize..9, 1usize..60),
        1 => (90usize..600, 600usize..2000),
    ];
    (sizes, 0.0..1.0f64, 1usize..12, tail, counts, schedule).prop_map(
        |((size, length), share, steps, tail, counts, schedule)| PlanOptions {
            length,
            steps,
            schedule: match length < 100 {
                true => schedule,
                false => Schedule::Confidence,
            },
            known: vec![
                prompt((share * length as f64) as usize),
                prompt((share * share * length as f64) as usize),
            ],
            block_size: Some(size),
            ..decoder(Family::Bd3Lm, tail, counts)
        },
    )
}

/// The range of the block that contains a position, found block by block.
fn block(options: &PlanOptions, prompt: usize, position: usize) -> (usize, usize) {
    let size = options.block_size.unwrap();
    let is_own = options.block_rules.unwrap().tail == PromptTail::Own;
    let mut end = match is_own {
        true if !prompt.is_multiple_of(size) => prompt % size,
        _ => size,
    };
    let mut start = 0;
    while position >= end {
        (start, end) = (end, end + size);
    }
    (start, end.min(options.length))
}

/// Runs a sequence in which the leftmost tokens become known.
fn simulate(plan: &Plan, options: &PlanOptions, index: usize) -> Result<(), TestCaseError> {
    let prompt = options.known[index].len();
    let is_blind = options.block_rules.unwrap().tail == PromptTail::Blind;
    let first = index * plan.length;
    let mut known: Vec<bool> = (0..plan.length).map(|p| p < prompt).collect();
    // The step in which a slot was last computed, and whether its block was without masks then.
    let mut cache: Vec<Option<(usize, bool)>> = vec![None; plan.length];
    for (number, step) in plan.sequences[index].steps.iter().enumerate() {
        let all = plan.step_rows(number);
        let rows = all.rows.iter().filter(|row| row.sequence as usize == index);
        let rows: Vec<_> = rows.copied().collect();
        for row in &rows {
            let (start, end) = block(options, prompt, row.position as usize);
            prop_assert_eq!(row.slot, row.position);
            let is_whole = known[start..end].iter().all(|&known| known);
            cache[row.slot as usize] = Some((number, is_whole));
        }
        for row in &rows {
            let (start, end) = block(options, prompt, row.position as usize);
            let is_whole = known[start..end].iter().all(|&known| known);
            let sees = match is_blind && !is_whole && (row.position as usize) < prompt {
                true => prompt,
                false => end,
            };
            prop_assert_eq!(row.prefix as usize, sees);
            for (slot, held) in cache[..sees].iter().enumerate() {
                let Some((at, was_whole)) = *held else {
                    return Err(TestCaseError::fail(format!("slot {slot} holds nothing")));
                };
                prop_assert!(slot >= start || was_whole, "slot {} is of masks", slot);
                prop_assert!(slot < start || at == number, "slot {} is old", slot);
            }
        }
        let drawn: Vec<usize> = rows
            .iter()
            .filter(|row| row.target != NO_TARGET)
            .map(|row| row.target as usize - first)
            .collect();
        let masked = drawn.into_iter().filter(|&place| !known[place]);
        let least = step.least.map_or(usize::MAX, |least| least as usize);
        for place in masked.take(least).collect::<Vec<_>>() {
            known[place] = true;
        }
    }
    prop_assert!(known.iter().all(|&known| known));
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn rows_of_decoders_see_their_block_and_the_clean_ones_before_it(options in any_text()) {
        let plan = Plan::new(&options).unwrap();
        plan.check().unwrap();
        prop_assert_eq!(&Plan::from_json(&plan.to_json()).unwrap(), &plan);
        let uncached = plan.uncached();
        uncached.check().unwrap();
        for index in 0..2 {
            simulate(&plan, &options, index)?;
            simulate(&uncached, &options, index)?;
        }
        for number in 0..plan.nfe() {
            prop_assert_eq!(plan.step_rows(number).rows.len(), plan.positions_computed(number));
        }
    }
}

/// Entries and counts of each stretch of the only text.
fn stretches(options: &PlanOptions) -> Vec<((u32, u32), Vec<u32>)> {
    let plan = Plan::new(options).unwrap();
    plan.check().unwrap();
    let steps = &plan.sequences[0].steps;
    steps
        .chunk_by(|a, b| (a.start, a.end) == (b.start, b.end))
        .map(|steps| {
            let counts = steps.iter().map(|step| step.least.unwrap());
            ((steps[0].start, steps[0].end), counts.collect())
        })
        .collect()
}

/// Also where sums are checked for overflow.
#[test]
fn a_step_from_beyond_any_text_is_refused() {
    let mut plan = Plan::new(&PlanOptions {
        length: 20,
        known: vec![prompt(3)],
        ..decoder(Family::Bd3Lm, PromptTail::Own, Counts::Linear)
    })
    .unwrap();
    plan.sequences[0].steps[1].clean = u32::MAX;
    let message = plan.check().unwrap_err().to_string();
    assert!(
        message.contains("diffusion from 4294967295 over"),
        "{message}"
    );
}

#[test]
fn an_mdlm_goes_through_blocks_from_the_end_of_its_prompt() {
    let text = PlanOptions {
        length: 20,
        steps: 6,
        known: vec![prompt(3)],
        ..decoder(Family::Mdlm, PromptTail::Own, Counts::Linear)
    };
    let want = vec![
        ((3, 11), vec![4, 4]),
        ((11, 19), vec![4, 4]),
        ((19, 20), vec![1]),
    ];
    assert_eq!(stretches(&text), want);
    // Steps are divided among three blocks, the second of which has no mask.
    let infill = PlanOptions {
        known: vec![
            prompt(5)
                .into_iter()
                .chain((8..16).map(|p| (p, 1)))
                .collect(),
        ],
        block_rules: Some(BlockRules::default()),
        ..text.clone()
    };
    let want = vec![((13, 16), vec![2, 1]), ((16, 20), vec![2, 2])];
    assert_eq!(stretches(&infill), want);
    let whole = PlanOptions {
        block_size: None,
        ..text
    };
    assert_eq!(stretches(&whole), vec![((3, 20), vec![3, 3, 3, 3, 2, 3])]);
}

#[test]
fn a_block_of_a_prompts_tail_is_counted_as_published() {
    let text = |tail, counts| PlanOptions {
        length: 20,
        steps: 3,
        known: vec![prompt(11)],
        ..decoder(Family::Bd3Lm, tail, counts)
    };
    let shared = vec![((11, 16), vec![3, 2]), ((16, 20), vec![3, 1])];
    assert_eq!(stretches(&text(PromptTail::Shared, Counts::Block)), shared);
    let own = vec![((11, 19), vec![3, 2, 3]), ((19, 20), vec![1])];
    assert_eq!(stretches(&text(PromptTail::Own, Counts::Linear)), own);
    let blind = vec![((11, 16), vec![2, 2, 1]), ((16, 20), vec![2, 1, 1])];
    assert_eq!(stretches(&text(PromptTail::Blind, Counts::Even)), blind);
}

#[test]
fn what_decoders_cannot_do_is_named() {
    let gap = |tail, family| PlanOptions {
        known: vec![vec![(0, 1), (5, 2)]],
        ..decoder(family, tail, Counts::Linear)
    };
    for (options, words) in [
        (gap(PromptTail::Own, Family::Bd3Lm), ["position 5", "gap"]),
        (gap(PromptTail::Blind, Family::Bd3Lm), ["position 5", "gap"]),
        (gap(PromptTail::Own, Family::Mdlm), ["position 5", "gap"]),
        (
            PlanOptions {
                context: 30,
                ..decoder(Family::Bd3Lm, PromptTail::Own, Counts::Linear)
            },
            ["length is 32", "context of 30"],
        ),
        (
            PlanOptions {
                block_size: Some(0),
                ..decoder(Family::Bd3Lm, PromptTail::Own, Counts::Linear)
            },
            ["block_size is 0", "from 1"],
        ),
        (
            PlanOptions {
                block_size: Some(0),
                ..decoder(Family::Mdlm, PromptTail::Own, Counts::Linear)
            },
            ["block_size is 0", "from 1"],
        ),
    ] {
        let text = Plan::new(&options).unwrap_err().to_string();
        assert!(words.iter().all(|word| text.contains(word)), "{text}");
    }
    Plan::new(&gap(PromptTail::Shared, Family::Bd3Lm)).unwrap();
    Plan::new(&gap(PromptTail::Shared, Family::Mdlm)).unwrap();
}

#[test]
fn edited_tails_are_refused() {
    let own = decoder(Family::Bd3Lm, PromptTail::Own, Counts::Linear);
    let gaps = Plan::new(&PlanOptions {
        known: vec![vec![(1, 3), (5, MASK - 1)]],
        ..decoder(Family::Bd3Lm, PromptTail::Shared, Counts::Linear)
    })
    .unwrap();
    let mdlm = Plan::new(&decoder(Family::Mdlm, PromptTail::Own, Counts::Linear)).unwrap();
    for (plan, word) in [
        (
            gaps.to_json().replace("\"shared\"", "\"own\""),
            "go by a prompt",
        ),
        (
            mdlm.to_json()
                .replace("\"lead\"", "\"prompt_tail\":\"own\",\"lead\""),
            "prompt_tail",
        ),
        (
            Plan::new(&own)
                .unwrap()
                .to_json()
                .replace("\"block_size\":8", "\"block_size\":0"),
            "blocks of 0",
        ),
    ] {
        let text = Plan::from_json(&plan).unwrap_err().to_string();
        assert!(text.contains(word), "{text}");
    }
}
