//! Plans that reveal by confidence: whatever the confidences, every position becomes known exactly once, and rows read
//! known tokens.

use super::common::plan::{MASK, options};
use esolm_core::config::{AttentionKind, Family};
use esolm_core::plan::{Phase, Plan, PlanError, PlanOptions, PlanStep, Schedule};
use esolm_core::reveal::{CERTAIN, Confidence, Rule, choose, even_counts};
use esolm_core::rng::{Purpose, Stream};
use esolm_core::rows::{NO_TARGET, Row, StepRows};
use proptest::prelude::*;

fn by_confidence(family: Family, length: usize, block: Option<usize>) -> PlanOptions {
    PlanOptions {
        family,
        attention: match family {
            Family::Mdlm => AttentionKind::Bidirectional,
            _ => AttentionKind::Block,
        },
        alpha_0: 1.0,
        length,
        context: length,
        schedule: Schedule::Confidence,
        block_size: block,
        ..options()
    }
}

/// Options, and a seed for the network's output.
fn any_plan() -> impl Strategy<Value = (PlanOptions, u64)> {
    let block = prop::option::of(1usize..9);
    let threshold = prop::option::of(0.0..1.0f32);
    let shape = (block, 1usize..9, 1usize..20, 1usize..9);
    (shape, threshold, any::<u64>(), 1usize..4).prop_map(
        |((block, count, steps, context), threshold, seed, batch)| {
            let length = block.unwrap_or(3) * count;
            let family = match block {
                Some(_) => Family::Bd3Lm,
                None => Family::Mdlm,
            };
            let mut stream = Stream::new(seed, 0, Purpose::Other(0));
            let mut known = || {
                let share = stream.below(4);
                let positions = 0..length as u32;
                let given = positions.filter(|_| stream.below(4) < share);
                given.map(|position| (position, position % 90)).collect()
            };
            let options = PlanOptions {
                steps,
                known: (0..batch).map(|_| known()).collect(),
                context: block.map_or(length, |size| size * context),
                reveal: Rule {
                    by: Confidence::Model,
                    threshold,
                },
                ..by_confidence(family, length, block)
            };
            (options, seed)
        },
    )
}

/// Checks the rows of a step against the known tokens.
fn check_rows(plan: &Plan, rows: &[Row], tokens: &[u32]) -> Result<(), TestCaseError> {
    for row in rows {
        let place = row.sequence * plan.length as u32 + row.position;
        prop_assert_eq!(row.source, place);
        prop_assert!(row.target == NO_TARGET || row.target == place);
        if row.target == NO_TARGET {
            // Given, or in a finished block.
            prop_assert!(tokens[place as usize] != MASK);
        }
        let prefix = match plan.block_size {
            Some(size) => {
                let end = (row.position as usize / size + 1) * size;
                end.min(plan.window.unwrap_or(plan.length))
            }
            None => plan.length,
        };
        prop_assert_eq!(row.prefix as usize, prefix);
    }
    Ok(())
}

/// Chooses among random tokens by random confidences; returns the steps in which each sequence's tokens became known.
fn simulate(plan: &Plan, seed: u64, skips: bool) -> Result<(Vec<u32>, usize), TestCaseError> {
    let mut tokens = plan.initial_tokens();
    let mut known = vec![0; plan.sequences.len()];
    let mut passes = 0;
    for number in 0..plan.nfe() {
        let before_it = known.clone();
        let runs = |index: usize| {
            let step = plan.sequences[index].steps.get(number);
            !skips || step.is_some_and(|step| step.least.is_none() || step.end > before_it[index])
        };
        let StepRows { rows, sampled } = plan.step_rows_of(number, runs);
        let choice = plan.choice(number, runs).expect("confidence chooses");
        prop_assert!(choice.holds(sampled.len()));
        check_rows(plan, &rows, &tokens)?;
        let targets: Vec<u32> = sampled
            .iter()
            .map(|&row| rows[row as usize].target)
            .collect();
        // The token drawn at a position depends only on the step and the position.
        let word =
            |place: &u32| Stream::new(seed, *place, Purpose::Other(number as u32)).next_u32();
        let drawn: Vec<u32> = targets.iter().map(|place| word(place) % 90).collect();
        let confidences: Vec<u32> = targets.iter().map(|place| word(place) % CERTAIN).collect();
        let before = tokens.clone();
        let outcome = choose(&choice, MASK, &drawn, &confidences, &targets, &mut tokens);
        for (row, &place) in targets.iter().enumerate() {
            let place = place as usize;
            let is_new = outcome.tokens[row] != MASK;
            prop_assert!(before[place] == MASK || (!is_new && before[place] == tokens[place]));
        }
        let mut left = outcome.left.into_iter();
        for (index, sequence) in plan.sequences.iter().enumerate() {
            let step = sequence.steps.get(number).filter(|_| runs(index));
            if let Some(step) = step.filter(|step| step.end > step.start)
                && left.next() == Some(0)
            {
                known[index] = step.end;
            }
        }
        passes += usize::from(!rows.is_empty());
    }
    prop_assert!(!tokens.contains(&MASK));
    Ok((tokens, passes))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn every_position_becomes_known_whatever_confidence_says((options, seed) in any_plan()) {
        let plan = Plan::new(&options).unwrap();
        plan.check().unwrap();
        prop_assert_eq!(&Plan::from_json(&plan.to_json()).unwrap(), &plan);
        plan.uncached().check().unwrap();
        let (tokens, passes) = simulate(&plan, seed, false)?;
        prop_assert_eq!(passes, plan.nfe());
        // Skipping steps in which nothing is masked changes nothing.
        let (same, fewer) = simulate(&plan, seed, true)?;
        prop_assert_eq!(&same, &tokens);
        prop_assert!(fewer <= passes);
        if options.reveal.threshold.is_none() {
            prop_assert_eq!(fewer, passes);
        }
        for (index, sequence) in plan.sequences.iter().enumerate() {
            let size = options.block_size.unwrap_or(options.length) as u32;
            let given = &options.known[index];
            let counts = (0..options.length as u32).step_by(size as usize).flat_map(|first| {
                let own = first..first + size;
                let free = size - given.iter().filter(|(p, _)| own.contains(p)).count() as u32;
                even_counts(free, options.steps)
            });
            let least = sequence.steps.iter().filter_map(|step| step.least);
            prop_assert!(least.eq(counts));
            for (number, _) in sequence.steps.iter().enumerate() {
                let alone = plan.step_rows_of(number, |other| other == index);
                prop_assert!(alone.rows.len() <= plan.positions_computed(number));
            }
        }
    }
}

fn small() -> Plan {
    Plan::new(&PlanOptions {
        steps: 2,
        known: vec![vec![(1, 7)]],
        ..by_confidence(Family::Bd3Lm, 8, Some(4))
    })
    .unwrap()
}

#[test]
fn steps_of_an_example() {
    let plan = small();
    let step = |clean, start, end, least| PlanStep {
        least: Some(least),
        ..PlanStep::new(Phase::Diffusion, clean, start, end)
    };
    let steps = [
        step(0, 1, 4, 2),
        step(0, 1, 4, 1),
        step(0, 4, 8, 2),
        step(4, 4, 8, 2),
    ];
    assert_eq!(plan.sequences[0].order, [1, 0, 2, 3, 4, 5, 6, 7]);
    assert_eq!(plan.sequences[0].steps, steps);
    assert_eq!(plan.reveal, Some(Rule::default()));
    let json = plan.to_json();
    assert!(json.contains(r#""reveal":{"by":"model"}"#), "{json}");
    assert!(json.contains(r#"["diffusion",0,1,4,2]"#), "{json}");
}

#[test]
fn plans_that_no_executor_can_run_are_refused() {
    let refused = |change: &dyn Fn(&mut Plan)| {
        let mut plan = small();
        change(&mut plan);
        match Plan::from_json(&plan.to_json()) {
            Err(PlanError::Invalid(text)) => text,
            other => panic!("{other:?}"),
        }
    };
    let steps = |change: &dyn Fn(&mut Vec<PlanStep>)| {
        refused(&|plan: &mut Plan| change(&mut plan.sequences[0].steps))
    };
    // A stretch is left before all of it is known.
    let text = steps(&|steps| {
        steps.remove(1);
    });
    assert!(text.contains("step 1 leaves the entries 1 to 4"), "{text}");
    let text = steps(&|steps| {
        steps[0].end = 3;
        steps[0].least = Some(1);
    });
    assert!(text.contains("step 1 leaves the entries 1 to 3"), "{text}");
    let text = steps(&|steps| steps[1].least = None);
    assert!(text.contains("step 1 leaves"), "{text}");
    let text = steps(&|steps| steps.truncate(3));
    assert!(text.contains("its steps end at 4 of 8 entries"), "{text}");
    // A stretch continues after all of it is known.
    let text = steps(&|steps| steps[0].least = Some(3));
    assert!(text.contains("step 1, diffusion"), "{text}");
    // Nothing becomes known.
    let text = steps(&|steps| steps[0].least = Some(0));
    assert!(text.contains("step 0 lets confidence choose 0"), "{text}");
    // In two blocks at once.
    let text = steps(&|steps| {
        steps.truncate(1);
        steps[0].end = 8;
        steps[0].least = Some(7);
    });
    assert!(text.contains("step 0, diffusion"), "{text}");
    let text = steps(&|steps| steps[0].phase = Phase::Prompt);
    assert!(text.contains("in the phase prompt"), "{text}");
    let text = refused(&|plan| plan.reveal = None);
    assert!(text.contains("has no rule for it"), "{text}");
    for (by, threshold) in [
        (Confidence::Model, 1.5),
        (Confidence::Model, -0.5),
        (Confidence::Random, 0.5),
        (Confidence::Leftmost, 0.5),
    ] {
        let threshold = Some(threshold);
        let text = refused(&|plan| plan.reveal = Some(Rule { by, threshold }));
        assert!(text.contains("threshold"), "{text}");
    }
    for (family, name) in [(Family::EsoLm, "an Eso-LM"), (Family::Ar, "an AR model")] {
        let text = refused(&|plan| {
            plan.family = family;
            plan.block_size = None;
        });
        assert!(text.contains(name), "{text}");
    }
    // The more tokens are allowed per step, the sooner it ends.
    let mut plan = small();
    plan.sequences[0].steps.remove(1);
    plan.sequences[0].steps[0].least = Some(u32::MAX);
    assert_eq!(Plan::from_json(&plan.to_json()).unwrap(), plan);
    for json in [
        r#"["diffusion",0,1,4,2,5]"#,
        r#"["diffusion",0,1]"#,
        r#"["diffusion",0,1,4,-1]"#,
    ] {
        let text = small().to_json().replace(r#"["diffusion",0,1,4,2]"#, json);
        assert!(Plan::from_json(&text).is_err(), "{json}");
    }
}

#[test]
fn options_that_do_not_go_together_are_refused() {
    let refused = |options: PlanOptions| Plan::new(&options).unwrap_err().to_string();
    let mdlm = || by_confidence(Family::Mdlm, 8, None);
    let esolm = PlanOptions {
        family: Family::EsoLm,
        attention: AttentionKind::Causal,
        ..mdlm()
    };
    assert!(refused(esolm).contains("lets the network choose the order"));
    let rule = Rule {
        by: Confidence::Model,
        threshold: Some(0.5),
    };
    let other = PlanOptions {
        schedule: Schedule::Binomial,
        reveal: rule,
        ..mdlm()
    };
    assert!(refused(other).contains("settles beforehand"));
    for threshold in [-1.0, 1.5, f32::NAN] {
        let reveal = Rule {
            threshold: Some(threshold),
            ..rule
        };
        let text = refused(PlanOptions { reveal, ..mdlm() });
        assert!(text.contains("confidence_threshold is"), "{text}");
    }
}
