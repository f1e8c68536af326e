//! Options that make no plan, and plans from elsewhere.

mod common;

use common::plan::{BOS, MASK, V, options};
use esolm_core::config::{AttentionKind, Family, ModelConfig, NO_MASK, Prepend};
use esolm_core::plan::{MAX_LENGTH, MAX_STEPS, Plan, PlanError, PlanOptions, Schedule};
use esolm_core::reveal::{Choice, Rule, choose};
use esolm_core::rows::{MASKED, NO_TARGET};
use proptest::prelude::*;
use serde_json::{Value, json};

fn ar() -> PlanOptions {
    PlanOptions {
        family: Family::Ar,
        schedule: Schedule::LeftToRight,
        ..options()
    }
}

fn mdlm() -> PlanOptions {
    PlanOptions {
        family: Family::Mdlm,
        attention: AttentionKind::Bidirectional,
        alpha_0: 1.0,
        ..options()
    }
}

/// Each of these with a part of its error. All errors are one sentence.
#[test]
fn bad_options_are_said_in_one_sentence() {
    let base = options;
    let known = |known: &[(u32, u32)]| vec![vec![], known.to_vec()];
    let cases = [
        (
            PlanOptions { steps: 0, ..base() },
            "steps is 0; it must be from 1 to 1048576",
        ),
        (
            PlanOptions {
                steps: MAX_STEPS + 1,
                ..base()
            },
            "steps is 1048577; it must be",
        ),
        (
            PlanOptions {
                alpha_0: f64::NAN,
                ..base()
            },
            "alpha_0 is NaN; it must be from 0 (all left to right) to 1 (all by diffusion)",
        ),
        (
            PlanOptions {
                alpha_0: 1.5,
                ..base()
            },
            "alpha_0 is 1.5",
        ),
        (
            PlanOptions {
                alpha_0: -0.1,
                ..base()
            },
            "alpha_0 is -0.1",
        ),
        (
            PlanOptions {
                alpha_0: f64::INFINITY,
                ..base()
            },
            "alpha_0 is inf",
        ),
        (
            PlanOptions {
                length: 0,
                ..base()
            },
            "length is 0; it must be from 1 to 1048576",
        ),
        (
            PlanOptions {
                length: MAX_LENGTH + 1,
                ..base()
            },
            "length is 1048577",
        ),
        (
            PlanOptions {
                length: usize::MAX,
                ..base()
            },
            "length is",
        ),
        (
            PlanOptions {
                known: vec![],
                ..base()
            },
            "batch is 0; it must be",
        ),
        (
            PlanOptions {
                known: vec![vec![]; 64],
                length: MAX_LENGTH,
                ..base()
            },
            "take a smaller batch or a shorter length",
        ),
        (
            PlanOptions {
                first_sequence: u32::MAX,
                ..base()
            },
            "first_sequence is 4294967295; it must be from 0 to 4294967294",
        ),
        (
            PlanOptions {
                mask_index: 97,
                ..base()
            },
            "mask_index is 97; it must be below the vocabulary size 97",
        ),
        (
            PlanOptions {
                bos: Some(97),
                ..base()
            },
            "bos_token_id is 97; it must be below",
        ),
        (
            PlanOptions {
                known: known(&[(32, 1)]),
                ..base()
            },
            "sequence 1: the given token at position 32 lies beyond the length of 32; give fewer tokens",
        ),
        (
            PlanOptions {
                known: known(&[(4, 1), (4, 2)]),
                ..base()
            },
            "sequence 1: the given token at position 4 is given twice; give each position once",
        ),
        (
            PlanOptions {
                known: known(&[(4, MASK)]),
                ..base()
            },
            "position 4 is the mask token",
        ),
        (
            PlanOptions {
                known: known(&[(4, 97)]),
                ..base()
            },
            "position 4 is 97, beyond the vocabulary of 97; use the tokenizer",
        ),
        (
            PlanOptions {
                attention: AttentionKind::Bidirectional,
                ..base()
            },
            "Eso-LM with bidirectional attention cannot be sampled; its masked tokens would see each other, which no published sampler lets them: use an Eso-LM (A) or (B)",
        ),
        (
            PlanOptions {
                alpha_0: 0.5,
                ..mdlm()
            },
            "alpha_0 is 0.5; it must be 1 for an MDLM",
        ),
        (
            PlanOptions {
                attention: AttentionKind::Causal,
                ..mdlm()
            },
            "an MDLM is bidirectional",
        ),
        (
            PlanOptions {
                attention: AttentionKind::Mixed,
                ..ar()
            },
            "an AR model is causal",
        ),
        (
            PlanOptions {
                schedule: Schedule::Blocks,
                ..ar()
            },
            "an AR model writes from left to right alone; use the schedule left-to-right",
        ),
        (
            PlanOptions {
                schedule: Schedule::BlocksShuffled,
                ..ar()
            },
            "an AR model writes from left to right alone",
        ),
        (
            PlanOptions {
                schedule: Schedule::BlockAutoregressive,
                ..ar()
            },
            "an AR model writes from left to right alone",
        ),
        (
            PlanOptions {
                sar_steps: 2,
                ..options()
            },
            "sar_steps is 2; it must be 1 with the schedule binomial, as only block-autoregressive has such stretches",
        ),
        (
            PlanOptions {
                schedule: Schedule::BlockAutoregressive,
                sar_steps: 0,
                ..options()
            },
            "sar_steps is 0",
        ),
        (
            PlanOptions { bos: None, ..ar() },
            "set \"bos_token_id\" in config.json",
        ),
        (
            PlanOptions {
                bos: None,
                prepend: Prepend::Bos,
                ..ar()
            },
            "set \"bos_token_id\" in config.json",
        ),
        (
            PlanOptions {
                known: known(&[(3, 1)]),
                ..ar()
            },
            "text 1 has a gap before the token at position 3, and an AR model fills none",
        ),
        (
            PlanOptions {
                known: known(&[(0, 1), (2, 1)]),
                prepend: Prepend::Bos,
                ..ar()
            },
            "text 1 has a gap before the token at position 2, and an AR model fills none",
        ),
    ];
    for (options, expected) in cases {
        let error = Plan::new(&options).unwrap_err().to_string();
        assert!(
            error.contains(expected),
            "\"{error}\" does not say \"{expected}\""
        );
        assert!(!error.contains('\n') && !error.contains(". "), "{error}");
    }
}

#[test]
fn what_is_not_needed_is_not_asked_for() {
    // Neither a prompt nor another opening token needs a beginning-of-text token.
    let prompt = vec![vec![(0, 1)]];
    for options in [
        PlanOptions {
            bos: None,
            known: prompt,
            ..ar()
        },
        PlanOptions {
            bos: None,
            prepend: Prepend::Mask,
            ..ar()
        },
        PlanOptions {
            bos: None,
            ..options()
        },
        PlanOptions {
            known: vec![(0..32).map(|p| (p, 1)).collect()],
            ..options()
        },
        PlanOptions {
            length: 1,
            ..options()
        },
        PlanOptions { length: 1, ..ar() },
        PlanOptions {
            length: 1,
            ..mdlm()
        },
    ] {
        Plan::new(&options).unwrap().check().unwrap();
    }
}

#[test]
fn options_of_a_configuration() {
    let config = |text: &str| ModelConfig::from_json(text).unwrap();
    let sizes = r#""n_blocks":1,"n_heads":2,"model_length":32,"vocab_size":97,"mask_index":96"#;
    let esolm = config(&format!(
        r#"{{"model_type":"EsoLM","hidden_size":16,"cond_dim":8,"alpha_0":0.25,{sizes}}}"#
    ));
    let made = PlanOptions::new(&esolm, 3, 8, 7);
    assert_eq!((made.alpha_0, made.length, made.known.len()), (0.25, 32, 3));
    assert_eq!(made.schedule, Schedule::Binomial);
    Plan::new(&made).unwrap();
    let mdlm = config(&format!(
        r#"{{"model_type":"mdlm","hidden_dim":16,"cond_dim":8,{sizes}}}"#
    ));
    Plan::new(&PlanOptions::new(&mdlm, 1, 8, 7)).unwrap();
    let ar = config(&format!(
        r#"{{"model_type":"ar","hidden_size":16,"bos_token_id":{BOS},{sizes}}}"#
    ));
    let made = PlanOptions::new(&ar, 1, 8, 7);
    assert_eq!(made.schedule, Schedule::LeftToRight);
    Plan::new(&made).unwrap();
}

#[test]
fn names_of_schedules() {
    for schedule in Schedule::ALL {
        assert_eq!(schedule.name().parse(), Ok(schedule));
        assert_eq!(
            serde_json::to_value(schedule).unwrap(),
            json!(schedule.name())
        );
    }
    let published = "block_autoregressive";
    assert_eq!(published.parse(), Ok(Schedule::BlockAutoregressive));
    let error = "random".parse::<Schedule>().unwrap_err();
    assert_eq!(
        error,
        "\"random\" is not a schedule; give one of binomial, blocks, blocks-shuffled, left-to-right, block, block-autoregressive, first-hitting, confidence"
    );
}

fn small() -> Value {
    json!({
        "esolm_plan": 1, "family": "esolm", "length": 4, "lead": false, "mask_index": 96, "vocab_size": 97,
        "sequences": [{
            "sequence": 0, "order": [2, 0, 3, 1], "known": [5],
            "steps": [["diffusion", 0, 1, 3], ["sequential", 1, 3, 4]],
        }],
    })
}

fn read(value: &Value) -> Result<Plan, PlanError> {
    let text = value.to_string();
    let read = Plan::from_json(&text);
    // Deserializing performs the same checks.
    assert_eq!(serde_json::from_str::<Plan>(&text).is_ok(), read.is_ok());
    read
}

#[test]
fn the_documented_form_is_read() {
    let plan = read(&small()).unwrap();
    assert_eq!(plan.initial_tokens(), [MASK, MASK, 5, MASK]);
    assert_eq!(
        serde_json::from_str::<Value>(&plan.to_json()).unwrap(),
        small()
    );
}

#[test]
fn plans_that_contradict_themselves_are_refused() {
    let set = |pointer: &str, value: Value| {
        let mut plan = small();
        *plan.pointer_mut(pointer).unwrap() = value;
        plan
    };
    let mut unknown = small();
    unknown["sequences"][0]["unknown"] = json!(1);
    let mut missing = small();
    missing.as_object_mut().unwrap().remove("length");
    let step = "/sequences/0/steps";
    let steps = |steps: Value| set(step, steps);
    for plan in [
        json!(null),
        json!([]),
        unknown,
        missing,
        set("/esolm_plan", json!(2)),
        set("/family", json!("gpt")),
        set("/family", json!("ar")),
        set("/family", json!("mdlm")),
        set("/length", json!(3)),
        set("/length", json!(0)),
        set("/length", json!(u64::MAX)),
        set("/length", json!(-1)),
        set("/lead", json!(true)),
        set("/mask_index", json!(97)),
        set("/vocab_size", json!(5)),
        set("/sequences", json!([])),
        set("/sequences/0/order", json!([0, 1, 2])),
        set("/sequences/0/order", json!([0, 1, 2, 2])),
        set("/sequences/0/order", json!([0, 1, 2, 4])),
        set("/sequences/0/known", json!([])),
        set("/sequences/0/known", json!([97])),
        set("/sequences/0/known", json!([MASK])),
        set("/sequences/0/known", json!([1, 2, 3, 4, 5])),
        set("/sequences/0/sequence", json!(1u64 << 32)),
        // Steps: none, one missing, one twice, a gap, an overlap, beyond the end, a hole in the cache, backwards, wrong phases, nothing.
        steps(json!([])),
        steps(json!([["diffusion", 0, 1, 3]])),
        steps(json!([
            ["diffusion", 0, 1, 3],
            ["diffusion", 0, 1, 3],
            ["sequential", 1, 3, 4]
        ])),
        steps(json!([["diffusion", 0, 2, 3], ["sequential", 2, 3, 4]])),
        steps(json!([["diffusion", 0, 1, 3], ["diffusion", 1, 2, 4]])),
        steps(json!([["diffusion", 0, 1, 5]])),
        steps(json!([["diffusion", 0, 1, u32::MAX]])),
        steps(json!([["diffusion", 1, 1, 3], ["sequential", 1, 3, 4]])),
        steps(json!([["diffusion", 0, 1, 3], ["sequential", 2, 3, 4]])),
        steps(json!([["diffusion", 0, 3, 1], ["sequential", 1, 3, 4]])),
        steps(json!([["sequential", 0, 1, 3], ["sequential", 1, 3, 4]])),
        steps(json!([["sequential", 0, 1, 2], ["diffusion", 1, 2, 4]])),
        steps(json!([["prompt", 0, 1, 3], ["sequential", 1, 3, 4]])),
        steps(json!([["prompt", 0, 0, 0], ["diffusion", 0, 1, 4]])),
        steps(json!([
            ["prompt", 0, 1, 1],
            ["prompt", 0, 1, 1],
            ["diffusion", 1, 1, 4]
        ])),
        steps(json!([["prompt", 0, 2, 2], ["diffusion", 1, 1, 4]])),
        steps(json!([["diffusion", 0, 1, 4], ["prompt", 1, 4, 4]])),
        steps(json!([["sleep", 0, 1, 4]])),
        steps(json!([[0, 1, 4]])),
        steps(json!([["diffusion", 0, 1, 4, 5]])),
    ] {
        let error = read(&plan).expect_err(&plan.to_string()).to_string();
        assert!(error.starts_with("the plan is not valid: "), "{error}");
        assert!(
            error.ends_with("in the form of docs/plan-format.md"),
            "{error}"
        );
    }
    // These are valid.
    read(&steps(json!([["prompt", 0, 1, 1], ["diffusion", 1, 1, 4]]))).unwrap();
    read(&steps(json!([["diffusion", 0, 1, 4]]))).unwrap();
    read(&steps(json!([
        ["sequential", 0, 1, 2],
        ["sequential", 0, 2, 3],
        ["sequential", 1, 3, 4]
    ])))
    .unwrap();
}

#[test]
fn messages_stay_short() {
    let mut plan = small();
    plan["sequences"][0]["x".repeat(100_000)] = json!(1);
    assert!(read(&plan).unwrap_err().to_string().len() < 500);
    let deep = format!("{}1{}", "[".repeat(100_000), "]".repeat(100_000));
    assert!(Plan::from_json(&deep).is_err());
}

/// Calls every accessor of a plan; panics and indices out of range are failures.
fn exercise(plan: &Plan) -> Result<(), TestCaseError> {
    let layout = plan.layout();
    let mut drawn = vec![false; layout.tokens];
    let mut text = plan.initial_tokens();
    let mut rows = 0;
    for step in 0..plan.nfe() {
        let found = plan.step_rows(step);
        if let Some(choice) = plan.choice(step, |_| true) {
            // As few tokens as possible become known, given that none is known before.
            let places = found.sampled.iter();
            let places: Vec<u32> = places.map(|&row| found.rows[row as usize].target).collect();
            prop_assert!(choice.holds(places.len()));
            let fives = vec![5; places.len()];
            let fewest = Choice {
                rule: Rule::default(),
                ..choice
            };
            choose(&fewest, plan.mask_index, &fives, &fives, &places, &mut text);
        }
        prop_assert_eq!(found.rows.len(), plan.positions_computed(step));
        for row in &found.rows {
            prop_assert!((row.sequence as usize) < layout.sequences);
            prop_assert!((row.slot as usize) < layout.slots);
            prop_assert!(row.is_sound(layout.slots));
            prop_assert!((row.position as usize) < layout.slots);
            prop_assert!(row.source == MASKED || (row.source as usize) < layout.tokens);
            if row.target != NO_TARGET {
                let before = std::mem::replace(&mut drawn[row.target as usize], true);
                prop_assert!(!before || plan.reveal.is_some());
                plan.output_position(row.target);
            }
        }
        rows += found.rows.len();
        plan.phase(step);
        plan.cache_length(step);
    }
    prop_assert!(rows <= 2 * layout.tokens * layout.slots);
    prop_assert!(plan.reveal.is_none() || plan.mask_index == 5 || !text.contains(&plan.mask_index));
    // Without a mask token, an AR model has `NO_MASK` where no token is known yet; no row reads it.
    let tokens = plan.initial_tokens();
    let unknown = |token| plan.family == Family::Ar && token == NO_MASK;
    prop_assert!(
        tokens
            .iter()
            .all(|&token| (token as usize) < plan.vocab_size || unknown(token))
    );
    prop_assert_eq!(plan.output(&tokens).len(), layout.sequences);
    prop_assert_eq!(plan.sorted(&tokens).len(), layout.sequences);
    plan.uncached().check().unwrap();
    prop_assert_eq!(&Plan::from_json(&plan.to_json()).unwrap(), plan);
    Ok(())
}

fn written(seed: u64, family: usize, known: u32) -> String {
    let base = [
        options(),
        mdlm(),
        ar(),
        PlanOptions {
            prepend: Prepend::Mask,
            ..ar()
        },
        PlanOptions {
            schedule: Schedule::Confidence,
            ..mdlm()
        },
        PlanOptions {
            family: Family::Bd3Lm,
            attention: AttentionKind::Block,
            block_size: Some(4),
            context: 8,
            schedule: Schedule::Confidence,
            reveal: Rule {
                threshold: Some(1.0),
                ..Rule::default()
            },
            ..mdlm()
        },
    ];
    let base = &base[family % base.len()];
    let known = (0..known).map(|position| (position, position)).collect();
    let plan = Plan::new(&PlanOptions {
        length: base.block_size.map_or(7, |size| 2 * size),
        steps: 3,
        seed,
        known: vec![known, vec![]],
        ..base.clone()
    });
    plan.unwrap().to_json()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3000))]

    #[test]
    fn changed_bytes_never_panic(
        seed: u64, family: usize, known in 0u32..8,
        changes in prop::collection::vec((any::<prop::sample::Index>(), 0u8..128, 0u8..3), 1..4),
    ) {
        let mut json = written(seed, family, known).into_bytes();
        for (at, byte, how) in changes {
            let at = at.index(json.len());
            match how {
                0 => json[at] = byte,
                1 => json.insert(at, byte),
                _ => { json.remove(at); }
            }
        }
        if let Ok(plan) = Plan::from_json(std::str::from_utf8(&json).unwrap()) {
            exercise(&plan)?;
        }
    }

    #[test]
    fn changed_numbers_never_panic(
        seed: u64, family: usize, known in 0u32..8,
        changes in prop::collection::vec((any::<prop::sample::Index>(), prop_oneof![
            4 => 0u64..9, 1 => Just(u64::from(u32::MAX)), 1 => Just(u64::MAX), 1 => Just(96), 1 => Just(97),
        ]), 1..4),
    ) {
        // Changing bytes seldom gives another valid number; here, every change does.
        let mut plan: Value = serde_json::from_str(&written(seed, family, known)).unwrap();
        for (at, number) in changes {
            let mut places = Vec::new();
            numbers(&plan, String::new(), &mut places);
            *plan.pointer_mut(&places[at.index(places.len())]).unwrap() = json!(number);
        }
        if let Ok(plan) = Plan::from_json(&plan.to_string()) {
            exercise(&plan)?;
        }
    }
}

/// JSON pointers to every number.
fn numbers(value: &Value, at: String, places: &mut Vec<String>) {
    match value {
        Value::Number(_) => places.push(at),
        Value::Array(items) => items
            .iter()
            .enumerate()
            .for_each(|(i, item)| numbers(item, format!("{at}/{i}"), places)),
        Value::Object(fields) => fields
            .iter()
            .for_each(|(name, item)| numbers(item, format!("{at}/{name}"), places)),
        _ => {}
    }
}

#[test]
fn the_vocabulary_is_that_of_the_options() {
    let plan = Plan::new(&options()).unwrap();
    assert_eq!((plan.vocab_size, plan.mask_index), (V, MASK));
}

#[test]
fn the_examples_of_the_documentation_are_plans() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/plan-format.md");
    let text = std::fs::read_to_string(path).unwrap();
    let example = text.split("```json\n").nth(1).unwrap();
    let plan = Plan::from_json(example.split("```").next().unwrap()).unwrap();
    assert_eq!((plan.sequences.len(), plan.nfe()), (2, 7));
    exercise(&plan).unwrap();
    // The second example is the additional part of a plan that reveals by confidence: six positions are not given.
    let example = text.split("```json\n").nth(2).unwrap();
    let example: Value = serde_json::from_str(example.split("```").next().unwrap()).unwrap();
    let mut whole = json!({
        "esolm_plan": 1, "family": "mdlm", "length": 8, "lead": false, "mask_index": 96, "vocab_size": 97,
        "reveal": example["reveal"],
        "sequences": [{"sequence": 0, "order": [2, 5, 0, 1, 3, 4, 6, 7], "known": [11, 42]}],
    });
    whole["sequences"][0]["steps"] = example["steps"].clone();
    let plan = Plan::from_json(&whole.to_string()).unwrap();
    assert_eq!(plan.nfe(), 3);
    exercise(&plan).unwrap();
}

#[test]
fn fuzz_seeds_are_plans() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fuzz/seeds/plan");
    let mut read = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let text = std::fs::read_to_string(&path).unwrap();
        let plan =
            Plan::from_json(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        exercise(&plan).unwrap();
        read += 1;
    }
    assert!(read >= 5);
}
