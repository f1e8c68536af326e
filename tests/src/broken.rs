//! A model whose numbers overflow when it reads a certain token, though all of its weights are finite.

use esolm::EngineError;
use esolm::checkpoint::Checkpoint;
use esolm::config::{AttentionKind, Family, Sets};
use esolm::engine::{Engine, Written};
use esolm::executor::Draw;
use esolm::plan::{Joining, Plan, PlanOptions, Schedule, SetRules};
use esolm::reveal::Rule;
use esolm::sampler::Sampler;
use pollster::block_on;
use safetensors::SafeTensors;

use crate::golden;

/// The token.
const TOKEN: u32 = 42;

/// The golden model of Eso-LM (A) with this token.
pub fn checkpoint() -> Checkpoint {
    let config = std::fs::read_to_string(golden::path("model_a.config.json")).unwrap();
    let mut bytes = std::fs::read(golden::path("model_a.ema.safetensors")).unwrap();
    let (header, tensors) = SafeTensors::read_metadata(&bytes).unwrap();
    let place = |name: &str| {
        let (first, end) = tensors.info(name).unwrap().data_offsets;
        8 + header + first..8 + header + end
    };
    let row = TOKEN as usize;
    let embedding = place("backbone.vocab_embed.embedding");
    let bias = place("backbone.output_layer.linear.bias");
    let width = embedding.len() / (bias.len() / 4);
    // Of either sign, since a norm removes what all have in common.
    let large = [1e25f32, -1e25].into_iter().cycle();
    for (bytes, value) in (bytes[embedding][row * width..][..width].chunks_exact_mut(4)).zip(large)
    {
        bytes.copy_from_slice(&value.to_le_bytes());
    }
    // It is never drawn, so it occurs only where it was given.
    bytes[bias][4 * row..][..4].copy_from_slice(&(-1e4f32).to_le_bytes());
    Checkpoint::from_safetensors_bytes(&config, bytes).unwrap()
}

/// A text in which numbers overflow ends in an error that names it, watched or not, and nothing that it left in memory
/// affects the next text on the same engine; also for confidence schedules.
pub fn check(engine: &mut Engine) {
    let own = PlanOptions {
        alpha_0: 0.5,
        first_sequence: 5,
        ..PlanOptions::new(engine.config(), 3, 8, 1)
    };
    let by_confidence = |threshold: Option<f32>| PlanOptions {
        family: Family::Mdlm,
        attention: AttentionKind::Bidirectional,
        alpha_0: 1.0,
        schedule: Schedule::Confidence,
        reveal: Rule {
            threshold,
            ..Rule::default()
        },
        ..own.clone()
    };
    let sets = PlanOptions {
        family: Family::SetDlm,
        attention: AttentionKind::Set,
        sets: Some(Sets {
            desired: 2,
            largest: 4,
            keeps_first: true,
            cache_by_time: false,
            pad: None,
        }),
        set_rules: Some(SetRules {
            window: 4,
            context: own.length,
            joining: Joining::Position,
            sees_right: true,
        }),
        ..by_confidence(None)
    };
    for options in [
        own.clone(),
        by_confidence(None),
        by_confidence(Some(0.5)),
        sets,
    ] {
        check_options(engine, &options);
    }
}

fn check_options(engine: &mut Engine, options: &PlanOptions) {
    let plan = |token: u32| {
        let options = PlanOptions {
            known: vec![vec![], vec![(3, token)], vec![]],
            ..options.clone()
        };
        Plan::new(&options).unwrap()
    };
    let (sound, broken) = (plan(TOKEN - 1), plan(TOKEN));
    let mut run = |plan: &Plan, observe: bool| -> Result<Written, EngineError> {
        let draw = Draw {
            sampler: Sampler::default(),
            seed: 1,
            ..Draw::default()
        };
        let mut run = engine.run(plan, draw, observe)?;
        while observe && block_on(run.next())?.is_some() {}
        block_on(run.finish())
    };
    let want = run(&sound, false).unwrap().tokens;
    for observe in [false, true] {
        let error = run(&broken, observe).map(|written| written.tokens);
        assert!(
            matches!(error, Err(EngineError::NotFinite { text: 6, .. })),
            "{error:?}"
        );
        assert_eq!(run(&sound, observe).unwrap().tokens, want);
    }
}
