//! SetDLMs that write by confidence: whatever the choices, every position becomes known once, masks see only clean
//! tokens, and slots hold what rows attend to.

use super::common::plan::{MASK, options};
use esolm_core::config::{AttentionKind, Family, Sets};
use esolm_core::plan::{Joining, Plan, PlanOptions, Schedule, SetRules, SetRun};
use esolm_core::reveal::{Confidence, Group, Rule};
use esolm_core::rng::{Purpose, Stream};
use esolm_core::rows::{MASKED, NO_TARGET, StepRows};
use proptest::prelude::*;

fn by_sets(length: usize, rules: SetRules) -> PlanOptions {
    PlanOptions {
        family: Family::SetDlm,
        attention: AttentionKind::Set,
        alpha_0: 1.0,
        length,
        context: rules.context,
        schedule: Schedule::Confidence,
        reveal: Rule {
            by: Confidence::Drawn,
            threshold: None,
        },
        sets: Some(Sets {
            desired: 2.min(rules.context),
            largest: 4.min(rules.context),
            keeps_first: true,
            cache_by_time: false,
            pad: None,
        }),
        set_rules: Some(rules),
        ..options()
    }
}

/// Options, and a seed for the choices.
fn any_plan() -> impl Strategy<Value = (PlanOptions, u64)> {
    let joining = prop::sample::select(vec![Joining::Position, Joining::Time, Joining::Order]);
    let shape = (1usize..60, 3usize..40, 1usize..20, 1usize..30);
    (shape, joining, any::<bool>(), any::<u64>(), 1usize..4).prop_map(
        |((length, context, window, steps), joining, sees_right, seed, batch)| {
            let length = match joining {
                Joining::Order => length.min(context),
                _ => length,
            };
            let most = match length > context {
                true => (context - 1) / 2,
                false => length,
            };
            let rules = SetRules {
                window: window.min(most),
                context,
                joining,
                sees_right,
            };
            let mut stream = Stream::new(seed, 0, Purpose::Other(0));
            let mut known = || {
                let share = stream.below(4);
                // Beyond the context, only prompts are given.
                let end = match length > context {
                    true => stream.below(length as u32),
                    false => length as u32,
                };
                let given = (0..end).filter(|_| length > context || stream.below(4) < share);
                given.map(|place| (place, place % 90)).collect()
            };
            let options = PlanOptions {
                steps,
                seed,
                known: (0..batch).map(|_| known()).collect(),
                ..by_sets(length, rules)
            };
            (options, seed)
        },
    )
}

/// The contents of a text's slots.
struct Cache {
    known: Vec<bool>,
    slots: Vec<Option<u32>>,
    /// Positions in the order in which they entered.
    entered: Vec<u32>,
}

impl Cache {
    fn run(&mut self, plan: &Plan, rules: &SetRules, step: &StepRows) -> Result<(), TestCaseError> {
        let masks: Vec<_> = step
            .rows
            .iter()
            .filter(|row| row.source == MASKED)
            .collect();
        for row in &step.rows {
            let place = row.position as usize;
            prop_assert!((row.slot as usize) < plan.layout().slots);
            if row.source == MASKED {
                prop_assert!(!self.known[place] && row.target == row.position);
                self.slots[row.slot as usize] = None;
            } else {
                prop_assert!(self.known[place] && row.target == NO_TARGET);
                prop_assert_eq!((row.source, row.prefix), (row.position, row.slot + 1));
                self.slots[row.slot as usize] = Some(row.position);
                self.entered.push(row.position);
            }
        }
        let clean = masks.first().map_or(0, |row| row.prefix as usize);
        let mut seen: Vec<Option<u32>> = self.slots[..clean].to_vec();
        seen.sort_unstable();
        seen.dedup();
        prop_assert!(
            seen.len() == clean && !seen.contains(&None),
            "{:?}",
            self.slots
        );
        if plan.length > rules.context {
            prop_assert!(clean + masks.len() <= rules.context);
        }
        for row in &masks {
            prop_assert_eq!(row.prefix as usize, clean);
            prop_assert_eq!(row.own, [row.slot, row.slot + 1]);
        }
        prop_assert_eq!(step.sampled.len(), masks.len());
        prop_assert!(masks.len() <= rules.window);
        prop_assert!(step.rows.len() <= plan.largest_pass().0);
        Ok(())
    }
}

proptest! {
    #[test]
    fn whatever_is_chosen_all_becomes_known((options, seed) in any_plan()) {
        let plan = Plan::new(&options).unwrap();
        prop_assert_eq!(&Plan::from_json(&plan.to_json()).unwrap(), &plan);
        let rules = plan.sets.unwrap();
        let mut stream = Stream::new(seed, 1, Purpose::Other(0));
        for (index, mut run) in SetRun::of(&plan).unwrap().into_iter().enumerate() {
            let sequence = &plan.sequences[index];
            let mut cache = Cache {
                known: vec![false; plan.length],
                slots: vec![None; plan.layout().slots],
                entered: Vec::new(),
            };
            let given = sequence.known.len();
            sequence.order[..given].iter().for_each(|&place| cache.known[place as usize] = true);
            let mut steps = 0;
            while !run.is_done() {
                let (mut step, mut groups, mut moves) = Default::default();
                run.begin(&mut step, &mut groups, &mut moves);
                for m in &moves {
                    let from = cache.slots[m.from as usize];
                    prop_assert!(from.is_some() && m.to < m.from && m.sequence == index as u32);
                    cache.slots[m.to as usize] = from;
                }
                // From the first text, which is at the start of the token buffer.
                let first = (index * plan.length) as u32;
                for row in &mut step.rows {
                    prop_assert_eq!(row.sequence, index as u32);
                    row.source = if row.source == MASKED { MASKED } else { row.source - first };
                    row.target = if row.target == NO_TARGET { NO_TARGET } else { row.target - first };
                }
                cache.run(&plan, &rules, &step)?;
                let window = run.window().to_vec();
                prop_assert_eq!(groups.len(), usize::from(!window.is_empty()));
                let least = groups.first().map_or(0, |group: &Group| group.least);
                let mut picked: Vec<usize> = (0..window.len()).collect();
                stream.shuffle(&mut picked);
                picked.truncate((least as usize).min(window.len()).max(stream.below(window.len() as u32 + 1) as usize));
                let mut tokens = vec![MASK; window.len()];
                for place in picked {
                    tokens[place] = 7;
                    cache.known[window[place] as usize] = true;
                }
                run.end(&tokens, MASK);
                steps += 1;
                prop_assert!(steps <= 3 * plan.length + 3, "it does not end");
            }
            prop_assert!(cache.known.iter().all(|&known| known));
            let mut once = cache.entered.clone();
            once.sort_unstable();
            once.dedup();
            prop_assert_eq!(once.len(), cache.entered.len(), "a token entered twice");
            if rules.joining == Joining::Order && rules.sees_right {
                prop_assert_eq!(&cache.entered[..], &sequence.order[..cache.entered.len()]);
            }
        }
    }
}

/// The window of each step that draws, and the clean tokens that it sees, in the order of their slots. After step
/// `lost`, the cache is emptied.
fn draws(plan: &Plan, seed: u64, lost: Option<usize>) -> Vec<(usize, Vec<u32>, Vec<u32>)> {
    let mut run = SetRun::of(plan).unwrap().remove(0);
    let (mut number, mut taken, mut slots, mut all) = (0, 0, Vec::new(), Vec::new());
    while !run.is_done() {
        let (mut step, mut groups, mut moves) = Default::default();
        if lost == Some(taken) {
            let before = run.steps_before_drawing();
            run.begin(&mut step, &mut groups, &mut moves);
            assert_eq!(run.steps_before_drawing(), before);
            run.restart();
            number = number + before - run.steps_before_drawing();
            (step, groups, moves) = Default::default();
            slots.clear();
        }
        run.begin(&mut step, &mut groups, &mut moves);
        assert!(moves.is_empty());
        for row in step.rows.iter().filter(|row| row.source != MASKED) {
            assert_eq!(row.slot as usize, slots.len());
            slots.push(row.position);
        }
        let window = run.window().to_vec();
        let least = groups.first().map_or(0, |group: &Group| group.least);
        let mut stream = Stream::new(seed, number as u32, Purpose::Other(0));
        let known = (0..window.len() as u32).map(|row| match row < least || stream.below(3) == 0 {
            true => 7,
            false => MASK,
        });
        let tokens: Vec<u32> = known.collect();
        if !window.is_empty() {
            all.push((number, window, slots.clone()));
        }
        run.end(&tokens, MASK);
        (number, taken) = (number + 1, taken + 1);
    }
    all
}

proptest! {
    /// If its cache is lost at any time, a text continues as it would have otherwise.
    #[test]
    fn a_cache_that_is_lost_fills_again((options, seed) in any_plan(), lost in 0usize..20) {
        prop_assume!(options.length <= options.context);
        let options = PlanOptions { known: options.known[..1].to_vec(), ..options };
        let plan = Plan::new(&options).unwrap();
        prop_assert_eq!(draws(&plan, seed, Some(lost)), draws(&plan, seed, None));
    }
}

#[test]
fn steps_that_windows_are_too_small_for_are_made_up_for() {
    let rules = SetRules {
        window: 3,
        context: 20,
        joining: Joining::Position,
        sees_right: true,
    };
    let options = PlanOptions {
        steps: 2,
        known: vec![vec![(0, 5)]],
        ..by_sets(11, rules)
    };
    let plan = Plan::new(&options).unwrap();
    let least: Vec<_> = plan.sequences[0]
        .steps
        .iter()
        .map(|step| step.least)
        .collect();
    assert_eq!(least, [Some(5), Some(5)]);
    // At most three in each, out of ten.
    let passes = plan.passes();
    let drawn: Vec<usize> = passes.iter().map(|step| step.sampled.len()).collect();
    assert_eq!(drawn, [3, 3, 3, 1]);
    let rows: Vec<usize> = passes.iter().map(|step| step.rows.len()).collect();
    assert_eq!(rows, [1 + 3, 3 + 3, 3 + 3, 3 + 1]);
}
