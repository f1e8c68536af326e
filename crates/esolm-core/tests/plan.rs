//! Properties of every plan: what a network needs of it, whatever the options.

#[path = "plan/blocks.rs"]
mod blocks;
mod common;
#[path = "plan/decoders.rs"]
mod decoders;
#[path = "plan/reveal.rs"]
mod reveal;
#[path = "plan/sets.rs"]
mod sets;

use common::plan::{BOS, MASK, V, options};
use esolm_core::config::{AttentionKind, Family, Prepend, Sets};
use esolm_core::plan::{MAX_PROMPT_ROWS, Phase, Plan, PlanOptions, Schedule, SequencePlan};
use esolm_core::rows::{MASKED, NO_TARGET, Row};
use proptest::prelude::*;

/// Given positions below `length`: none, all, a prefix, or any set of some density.
fn known(family: Family, length: usize) -> impl Strategy<Value = Vec<(u32, u32)>> {
    let kind = prop_oneof![1 => Just(0), 1 => Just(1), 2 => Just(2), 3 => Just(3)];
    let kind = (kind, 0.0..1.0f64, any::<u64>());
    (kind, prop::collection::vec(0u32..95, length)).prop_map(
        move |((kind, share, bits), tokens)| {
            let prefix = (share * tokens.len() as f64) as usize;
            let chosen = |position: usize| match kind {
                0 => false,
                1 => true,
                2 => position < prefix,
                _ if family == Family::Ar => position < prefix,
                _ => {
                    let hash = (position as u64 ^ bits).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40;
                    (hash as f64) < share * f64::from(1 << 24)
                }
            };
            let mut known: Vec<(u32, u32)> = (0..)
                .zip(tokens)
                .filter(|&(position, _)| chosen(position as usize))
                .collect();
            // The order in which they are given must not matter.
            known.reverse();
            known
        },
    )
}

fn any_options() -> impl Strategy<Value = PlanOptions> {
    let family = prop_oneof![
        3 => Just(Family::EsoLm),
        1 => Just(Family::Mdlm),
        1 => Just(Family::Ar),
        1 => Just(Family::SetDlm),
    ];
    let prepend = prop_oneof![Just(Prepend::None), Just(Prepend::Bos), Just(Prepend::Mask)];
    // Occasionally long enough that prompts need steps of their own.
    let length = prop_oneof![8 => 1usize..70, 1 => 600usize..1700];
    (family, length, prepend, any::<bool>())
        .prop_flat_map(|(family, length, prepend, is_mixed)| {
            let schedule = match family {
                Family::Ar => Just(Schedule::LeftToRight).boxed(),
                Family::SetDlm => {
                    prop::sample::select(vec![Schedule::FirstHitting, Schedule::LeftToRight])
                        .boxed()
                }
                _ => prop::sample::select(vec![
                    Schedule::Binomial,
                    Schedule::Blocks,
                    Schedule::BlocksShuffled,
                    Schedule::LeftToRight,
                    Schedule::Block,
                    Schedule::BlockAutoregressive,
                ])
                .boxed(),
            };
            let alpha_0 = match family {
                Family::Mdlm | Family::SetDlm => Just(1.0).boxed(),
                _ => prop_oneof![Just(0.0), Just(1.0), 0.0..1.0f64].boxed(),
            };
            let steps = prop_oneof![Just(1), 1..length + 1, 1..3 * length + 1];
            let first = prop_oneof![0u32..100, Just(u32::MAX - 5)];
            let batch = prop::collection::vec(known(family, length), 1..4);
            let draw = (
                schedule,
                alpha_0,
                steps,
                1usize..5,
                any::<u64>(),
                first,
                batch,
            );
            (Just((family, length, prepend, is_mixed)), draw)
        })
        .prop_map(|((family, length, prepend, is_mixed), draw)| {
            let (schedule, alpha_0, steps, regions, seed, first_sequence, known) = draw;
            PlanOptions {
                family,
                attention: match family {
                    Family::Mdlm => AttentionKind::Bidirectional,
                    Family::SetDlm => AttentionKind::Set,
                    // Half of them are Eso-LMs (A).
                    Family::EsoLm if is_mixed => AttentionKind::Mixed,
                    _ => AttentionKind::Causal,
                },
                length,
                alpha_0,
                steps,
                schedule,
                sar_steps: match schedule {
                    Schedule::BlockAutoregressive => regions,
                    _ => 1,
                },
                seed,
                first_sequence,
                known,
                prepend,
                context: length,
                sets: (family == Family::SetDlm).then_some(Sets {
                    desired: length.div_ceil(3),
                    largest: length.div_ceil(2),
                    keeps_first: true,
                    cache_by_time: false,
                    pad: None,
                }),
                ..options()
            }
        })
}

/// A sequence, as a network would see it.
struct Simulation {
    length: usize,
    /// Known tokens by entry of the token buffer.
    known: Vec<bool>,
    /// Slots that hold the key and value of their clean token.
    clean: Vec<bool>,
    /// How many slots each saw when it was last computed.
    seen: Vec<u32>,
    /// For an Eso-LM (A), how many tokens were known when the sequential phase began.
    settled: Option<u32>,
}

impl Simulation {
    fn new(plan: &Plan, index: usize) -> Self {
        let tokens = &plan.initial_tokens()[index * plan.length..][..plan.length];
        let mut known: Vec<bool> = tokens.iter().map(|&token| token != MASK).collect();
        known[0] |= plan.lead;
        Self {
            length: plan.length,
            known,
            clean: vec![false; plan.length],
            seen: vec![0; plan.length],
            settled: None,
        }
    }

    /// How many slots the clean row of a slot sees in a step.
    fn sees(&mut self, plan: &Plan, phase: Phase, slot: u32) -> u32 {
        if plan.attention.is_none() {
            return slot + 1;
        }
        let known = self.known.iter().filter(|&&known| known).count() as u32;
        let all = match phase {
            Phase::Sequential => *self.settled.get_or_insert(known),
            _ => known,
        };
        all.max(slot + 1)
    }

    /// Runs the rows of a step, and returns how many tokens became known.
    fn step(
        &mut self,
        plan: &Plan,
        index: usize,
        phase: Phase,
        rows: &[Row],
    ) -> Result<usize, TestCaseError> {
        let first = (index * self.length) as u32;
        let order = &plan.sequences[index].order;
        let mut here = vec![None; self.length];
        for row in rows {
            let slot = row.slot as usize;
            prop_assert!(here[slot].is_none(), "slot {slot} twice in a step");
            here[slot] = Some(row.source != MASKED);
            let position = match plan.family {
                Family::EsoLm | Family::SetDlm => order[slot],
                Family::Mdlm | Family::Ar | Family::Bd3Lm => row.slot,
            };
            prop_assert_eq!(row.position, position);
            // A row reads its own position's token, and only once it is known.
            if row.source != MASKED {
                prop_assert_eq!(row.source, first + position);
                prop_assert!(self.known[position as usize]);
            } else {
                prop_assert!(!self.known[position as usize]);
                prop_assert!(plan.family != Family::Ar);
            }
            if row.target != NO_TARGET {
                let ahead = u32::from(plan.family == Family::Ar);
                prop_assert_eq!(row.target, first + position + ahead);
                prop_assert_eq!(row.source == MASKED, plan.family != Family::Ar);
            }
        }
        // Whatever a row attends to is computed in this step or before; masks of other steps are never visible.
        let mut slots = here.iter().zip(&self.clean);
        let hole = slots.position(|(here, clean)| here.is_none() && !clean);
        let dense = hole.unwrap_or(self.length);
        for row in rows {
            match plan.family {
                Family::Mdlm => prop_assert_eq!(row.prefix as usize, self.length),
                Family::SetDlm if row.source == MASKED => {
                    // It sees all clean tokens, and no other mask.
                    let clean = rows.iter().filter(|row| row.source == MASKED);
                    prop_assert_eq!(Some(row.prefix), clean.map(|row| row.slot).min());
                    prop_assert_eq!(row.own, [row.slot, row.slot + 1]);
                }
                _ if row.source == MASKED => prop_assert_eq!(row.prefix, row.slot + 1),
                _ => prop_assert_eq!(row.prefix, self.sees(plan, phase, row.slot)),
            }
            prop_assert!(row.prefix as usize <= dense, "a hole in slot {dense}");
            self.seen[row.slot as usize] = row.prefix;
        }
        // What comes from the cache is what would be computed now.
        let most = rows.iter().map(|row| row.prefix).max().unwrap_or(0);
        for slot in (0..most).filter(|&slot| here[slot as usize].is_none()) {
            let now = self.sees(plan, phase, slot);
            prop_assert_eq!(self.seen[slot as usize], now, "slot {} is stale", slot);
        }
        for (slot, here) in here.iter().enumerate() {
            if let Some(clean) = *here {
                self.clean[slot] = clean;
            }
        }
        let mut drawn = 0;
        for row in rows.iter().filter(|row| row.target != NO_TARGET) {
            let known = &mut self.known[(row.target - first) as usize];
            prop_assert!(!*known, "drawn twice");
            *known = true;
            drawn += 1;
        }
        Ok(drawn)
    }
}

/// Runs a plan to its end, checking it on the way.
fn simulate(plan: &Plan) -> Result<(), TestCaseError> {
    let layout = plan.layout();
    prop_assert_eq!(layout.sequences, plan.sequences.len());
    prop_assert_eq!(layout.tokens, layout.sequences * plan.length);
    let mut simulations: Vec<Simulation> = (0..layout.sequences)
        .map(|index| Simulation::new(plan, index))
        .collect();
    for number in 0..plan.nfe() {
        let step = plan.step_rows(number);
        prop_assert!(step.rows.is_sorted_by_key(|row| row.sequence));
        prop_assert_eq!(step.rows.len(), plan.positions_computed(number));
        prop_assert!(!step.rows.is_empty());
        let sampled: Vec<u32> = (0..)
            .zip(&step.rows)
            .filter(|(_, row)| row.target != NO_TARGET)
            .map(|(index, _)| index)
            .collect();
        prop_assert_eq!(&step.sampled, &sampled);
        let mut phases = Vec::new();
        for (index, simulation) in simulations.iter_mut().enumerate() {
            let rows: Vec<Row> = step
                .rows
                .iter()
                .copied()
                .filter(|row| row.sequence as usize == index)
                .collect();
            let Some(planned) = plan.sequences[index].steps.get(number) else {
                prop_assert!(rows.is_empty(), "a done sequence has rows");
                continue;
            };
            let drawn = simulation.step(plan, index, planned.phase, &rows)?;
            phases.push(planned.phase);
            match planned.phase {
                Phase::Prompt => prop_assert_eq!(drawn, 0),
                Phase::Sequential => prop_assert_eq!(drawn, 1),
                Phase::Diffusion => prop_assert!(drawn > 0),
            }
        }
        prop_assert_eq!(plan.phase(number), phases.into_iter().max().unwrap());
    }
    prop_assert!(plan.step_rows(plan.nfe()).rows.is_empty());
    for simulation in &simulations {
        prop_assert!(simulation.known.iter().all(|&known| known));
    }
    Ok(())
}

fn drawn_by(sequence: &SequencePlan, phase: Phase) -> usize {
    let steps = sequence.steps.iter().filter(|step| step.phase == phase);
    steps.map(|step| (step.end - step.start) as usize).sum()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn every_position_is_given_or_drawn_once(options in any_options()) {
        let plan = Plan::new(&options).unwrap();
        plan.check().unwrap();
        simulate(&plan)?;
        prop_assert_eq!(plan.lead, options.family == Family::Ar && options.prepend != Prepend::None);
        let output = plan.output(&plan.initial_tokens());
        for (text, known) in output.iter().zip(&options.known) {
            prop_assert_eq!(text.len(), options.length);
            for &(position, token) in known {
                prop_assert_eq!(text[position as usize], token);
            }
            let opened = options.family == Family::Ar && !plan.lead && known.is_empty();
            let given = text.iter().filter(|&&token| token != MASK).count();
            prop_assert_eq!(given, known.len() + usize::from(opened));
        }
    }

    #[test]
    fn given_tokens_come_first_and_the_rest_as_scheduled(options in any_options()) {
        let plan = Plan::new(&options).unwrap();
        for sequence in &plan.sequences {
            let given = sequence.known.len();
            let free = plan.length - given;
            prop_assert!(sequence.order[..given].is_sorted());
            let by_diffusion = drawn_by(sequence, Phase::Diffusion);
            // The part not written by diffusion is in ascending order.
            prop_assert!(sequence.order[given + by_diffusion..].is_sorted());
            prop_assert_eq!(drawn_by(sequence, Phase::Sequential), free - by_diffusion);
            let steps = sequence.steps.iter().filter(|step| step.phase == Phase::Diffusion);
            let diffusion_steps = steps.count();
            match (options.family, options.schedule) {
                (Family::Ar, _) => prop_assert_eq!(by_diffusion, 0),
                (Family::Mdlm, _) => prop_assert_eq!(by_diffusion, free),
                (_, Schedule::LeftToRight) => prop_assert_eq!(by_diffusion, 0),
                (_, Schedule::Block | Schedule::BlockAutoregressive) => {
                    prop_assert_eq!(by_diffusion, free);
                    for step in sequence.steps.iter().filter(|step| step.phase == Phase::Diffusion) {
                        // Positions written together are in different blocks, at the same offset in each.
                        let drawn = &sequence.order[step.start as usize..step.end as usize];
                        let place = |position: u32| position as usize % options.steps;
                        prop_assert!(drawn.iter().all(|&position| place(position) == place(drawn[0])));
                        prop_assert!(drawn.is_sorted());
                    }
                }
                (Family::SetDlm, Schedule::FirstHitting) => {
                    prop_assert_eq!(by_diffusion, free);
                    prop_assert_eq!(diffusion_steps, options.steps.min(free));
                }
                (_, Schedule::FirstHitting | Schedule::Confidence) => {
                    unreachable!("not of an Eso-LM")
                }
                (_, Schedule::Binomial) => {
                    prop_assert!(diffusion_steps <= options.steps.min(free) + 1);
                    if options.alpha_0 == 0.0 {
                        prop_assert_eq!(by_diffusion, 0);
                    }
                    if options.alpha_0 == 1.0 {
                        prop_assert_eq!(by_diffusion, free);
                    }
                }
                (_, Schedule::Blocks | Schedule::BlocksShuffled) => {
                    let blocks = options.steps.min(free);
                    let expected = (blocks as f64 * options.alpha_0) as usize;
                    prop_assert_eq!(diffusion_steps, expected);
                    // Block sizes differ by at most one position, and positions written together are `blocks` apart
                    // among the free ones.
                    let mut ascending = sequence.order[given..].to_vec();
                    ascending.sort_unstable();
                    for step in sequence.steps.iter().filter(|step| step.phase == Phase::Diffusion) {
                        let block = &sequence.order[step.start as usize..step.end as usize];
                        prop_assert!(block.len() == free / blocks || block.len() == free / blocks + 1);
                        let rank = |position| ascending.binary_search(position).unwrap() % blocks;
                        prop_assert!(block.iter().all(|position| rank(position) == rank(&block[0])));
                    }
                }
            }
        }
    }

    #[test]
    fn a_step_computes_only_what_is_new(options in any_options()) {
        // Except for MDLM and Eso-LM (A): given tokens in bounded portions, otherwise the previous step's tokens and
        // this step's masks.
        let plan = Plan::new(&options).unwrap();
        for (index, sequence) in plan.sequences.iter().enumerate() {
            let alone = Plan::from_json(&plan.to_json()).map(|mut plan| {
                plan.sequences = vec![plan.sequences.swap_remove(index)];
                plan
            }).unwrap();
            let mut before = 0;
            let mut last = Phase::Prompt;
            let mut given = sequence.known.len();
            for (number, step) in sequence.steps.iter().enumerate() {
                let rows = alone.positions_computed(number);
                let drawn = (step.end - step.start) as usize;
                match options.family {
                    Family::Mdlm => prop_assert_eq!(rows, options.length),
                    // An Eso-LM (A) recomputes what is known, until nothing more is added that others see.
                    Family::EsoLm if plan.attention.is_some() => {
                        let is_settled = last == Phase::Sequential;
                        prop_assert_eq!(rows, if is_settled { 2 } else { step.end as usize });
                    }
                    family => {
                        let masks = if family == Family::Ar { 0 } else { drawn };
                        let portion = given.min(MAX_PROMPT_ROWS);
                        prop_assert_eq!(rows, portion + before + masks);
                        given -= portion;
                        // There is a prompt step only if more than one portion remains.
                        prop_assert_eq!(step.phase == Phase::Prompt, given > 0);
                        before = drawn;
                    }
                }
                last = step.phase;
                let has_cache = match options.attention {
                    AttentionKind::Bidirectional => false,
                    AttentionKind::Mixed => step.phase == Phase::Sequential,
                    _ => true,
                };
                prop_assert_eq!(alone.cache_length(number), if has_cache { step.start as usize } else { 0 });
            }
        }
    }

    #[test]
    fn a_sequence_does_not_depend_on_its_batch(options in any_options()) {
        let batch = Plan::new(&options).unwrap();
        for (index, sequence) in batch.sequences.iter().enumerate() {
            let alone = Plan::new(&PlanOptions {
                known: vec![options.known[index].clone()],
                first_sequence: options.first_sequence + index as u32,
                ..options.clone()
            }).unwrap();
            prop_assert_eq!(&alone.sequences[0], sequence);
        }
    }

    #[test]
    fn without_a_cache_the_draws_are_the_same(options in any_options()) {
        let plan = Plan::new(&options).unwrap();
        let uncached = plan.uncached();
        uncached.check().unwrap();
        prop_assert_eq!(uncached.nfe(), plan.nfe());
        simulate(&uncached)?;
        for number in 0..plan.nfe() {
            let (cached, all) = (plan.step_rows(number), uncached.step_rows(number));
            let draws = |step: &esolm_core::rows::StepRows| -> Vec<Row> {
                step.sampled.iter().map(|&row| step.rows[row as usize]).collect()
            };
            prop_assert_eq!(draws(&cached), draws(&all));
            // Every row that a sampled one attends to is present.
            for row in draws(&all) {
                let present = all.rows.iter().filter(|other| other.sequence == row.sequence && other.slot < row.prefix);
                prop_assert_eq!(present.count(), row.prefix as usize);
            }
        }
    }

    #[test]
    fn json_goes_round(options in any_options()) {
        let plan = Plan::new(&options).unwrap();
        let json = plan.to_json();
        prop_assert_eq!(&Plan::from_json(&json).unwrap(), &plan);
        let steps: usize = plan.sequences.iter().map(|sequence| sequence.steps.len()).sum();
        let entries = plan.sequences.len() * plan.length;
        prop_assert!(json.len() < 200 + plan.sequences.len() * 100 + entries * 10 + steps * 40);
    }
}

/// The steps of an Eso-LM (A) determine where its sequential phase begins.
#[test]
fn recorded_steps_of_mixed_attention_give_the_plan() {
    for alpha_0 in [0.0, 0.3, 0.9, 1.0] {
        let plan = Plan::new(&PlanOptions {
            attention: AttentionKind::Mixed,
            alpha_0,
            ..options()
        })
        .unwrap();
        let sequence = &plan.sequences[0];
        let steps = sequence.steps.iter();
        let steps: Vec<[u32; 3]> = steps.map(|s| [s.clean, s.start, s.end]).collect();
        let order = std::slice::from_ref(&sequence.order);
        let again = Plan::from_recorded_mixed(order, &steps, MASK, V).unwrap();
        for step in 0..plan.nfe() {
            assert_eq!(again.step_rows(step), plan.step_rows(step), "{alpha_0}");
        }
    }
    // Known tokens that are not recomputed have not seen the added ones.
    let steps = [[0, 0, 2], [0, 2, 4], [2, 4, 5]];
    let order = [vec![4, 1, 3, 0, 2]];
    Plan::from_recorded(&order, &steps, MASK, V).unwrap();
    let error = Plan::from_recorded_mixed(&order, &steps, MASK, V).unwrap_err();
    assert!(error.to_string().contains("step 1"), "{error}");
}

#[test]
fn ends_of_alpha_0() {
    let plan = Plan::new(&PlanOptions {
        alpha_0: 0.0,
        ..options()
    })
    .unwrap();
    assert!(plan.sequences[0].order.is_sorted() && plan.nfe() == 32);
    assert!((0..32).all(|step| plan.phase(step) == Phase::Sequential));
    let plan = Plan::new(&PlanOptions {
        alpha_0: 1.0,
        ..options()
    })
    .unwrap();
    assert!((0..plan.nfe()).all(|step| plan.phase(step) == Phase::Diffusion));
    assert!(plan.nfe() <= 8);
    // One step reveals everything.
    let plan = Plan::new(&PlanOptions {
        alpha_0: 1.0,
        steps: 1,
        ..options()
    })
    .unwrap();
    assert_eq!((plan.nfe(), plan.positions_computed(0)), (1, 32));
}

#[test]
fn the_order_does_not_change_with_the_number_of_steps() {
    let order = |steps| {
        let options = PlanOptions {
            alpha_0: 1.0,
            steps,
            ..options()
        };
        Plan::new(&options).unwrap().sequences.remove(0).order
    };
    assert_eq!(order(1), order(8));
    assert_eq!(order(8), order(1000));
}

#[test]
fn shuffled_blocks_are_the_blocks() {
    let blocks = |schedule, seed| {
        let options = PlanOptions {
            alpha_0: 1.0,
            schedule,
            seed,
            ..options()
        };
        let order = Plan::new(&options).unwrap().sequences.remove(0).order;
        let mut blocks: Vec<Vec<u32>> = order.chunks(4).map(<[u32]>::to_vec).collect();
        blocks.iter_mut().for_each(|block| block.sort_unstable());
        let raw = (order, blocks.clone());
        blocks.sort();
        (raw, blocks)
    };
    let (plain, plain_blocks) = blocks(Schedule::Blocks, 1);
    let (shuffled, shuffled_blocks) = blocks(Schedule::BlocksShuffled, 1);
    assert_eq!(plain_blocks, shuffled_blocks);
    assert_ne!(plain.1, shuffled.1, "the order of the blocks");
    assert_ne!(shuffled.0, shuffled.1.concat(), "the order within blocks");
    assert_ne!(shuffled, blocks(Schedule::BlocksShuffled, 2).0, "the seed");
}

#[test]
fn long_prompts_enter_in_bounded_steps() {
    let known: Vec<(u32, u32)> = (0..1300).map(|position| (position, 5)).collect();
    for family in [Family::EsoLm, Family::Ar] {
        let schedule = if family == Family::Ar {
            Schedule::LeftToRight
        } else {
            Schedule::Binomial
        };
        let options = PlanOptions {
            family,
            schedule,
            length: 1400,
            known: vec![known.clone(), vec![]],
            ..options()
        };
        let plan = Plan::new(&options).unwrap();
        let rows: Vec<usize> = plan.sequences[0].steps[..3]
            .iter()
            .map(|step| (step.start - step.clean) as usize)
            .collect();
        assert_eq!(rows, [512, 512, 276], "{family}");
        let phases: Vec<Phase> = plan.sequences[0].steps[..3]
            .iter()
            .map(|step| step.phase)
            .collect();
        assert_eq!(phases[..2], [Phase::Prompt; 2]);
        assert_ne!(phases[2], Phase::Prompt);
        // Meanwhile, the other sequence has begun to sample.
        assert_ne!(plan.phase(0), Phase::Prompt);
    }
}

#[test]
fn a_prompt_of_whole_portions_comes_with_the_first_draw() {
    for (prompt, steps) in [(511, 0), (512, 0), (513, 1), (1024, 1), (1025, 2)] {
        let known = (0..prompt).map(|position| (position, 5)).collect();
        let options = PlanOptions {
            length: 1100,
            known: vec![known],
            ..options()
        };
        let plan = Plan::new(&options).unwrap();
        let alone = (0..plan.nfe()).take_while(|&step| plan.phase(step) == Phase::Prompt);
        assert_eq!(alone.count(), steps, "{prompt}");
    }
}

#[test]
fn autoregressive_starts() {
    let plan = |prepend, known: &[(u32, u32)]| {
        Plan::new(&PlanOptions {
            family: Family::Ar,
            schedule: Schedule::LeftToRight,
            length: 6,
            prepend,
            known: vec![known.to_vec()],
            ..options()
        })
        .unwrap()
    };
    for (prepend, known, tokens, nfe) in [
        (Prepend::None, &[][..], vec![BOS], 5),
        // If the first token is given, nothing opens the text; if only later ones are given, the opening token stays.
        (Prepend::None, &[(0, 7), (1, 8)], vec![7, 8], 4),
        (Prepend::None, &[(1, 7), (2, 8)], vec![BOS, 7, 8], 3),
        (Prepend::Bos, &[], vec![BOS], 6),
        (Prepend::Bos, &[(0, 7)], vec![BOS, 7], 5),
        (Prepend::Mask, &[], vec![MASK], 6),
        (Prepend::Mask, &[(0, 7), (1, 8)], vec![MASK, 7, 8], 4),
    ] {
        let plan = plan(prepend, known);
        assert_eq!(plan.sequences[0].known, tokens, "{prepend}");
        assert_eq!(plan.nfe(), nfe, "{prepend}");
        let first = plan.step_rows(0);
        assert_eq!(first.rows.len(), tokens.len());
        assert_eq!(first.sampled, [tokens.len() as u32 - 1]);
        let position = plan.output_position(first.rows[tokens.len() - 1].target);
        assert_eq!(position as usize, tokens.len() - usize::from(plan.lead));
    }
}
