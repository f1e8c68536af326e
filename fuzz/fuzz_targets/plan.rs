//! Plans that somebody wrote: what is accepted can be run to its end, and every index in its rows is inside the batch.
#![no_main]

#[path = "../message.rs"]
mod message;

use esolm_core::plan::Plan;
use esolm_core::rows::{MASKED, NO_TARGET};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let plan = match Plan::from_json(text) {
        Ok(plan) => plan,
        Err(error) => return message::check(&error.to_string()),
    };
    assert_eq!(Plan::from_json(&plan.to_json()).as_ref(), Ok(&plan));
    let layout = plan.layout();
    let mut drawn = vec![0u32; layout.tokens];
    for step in 0..plan.nfe() {
        let rows = plan.step_rows(step);
        for row in &rows.rows {
            assert!((row.sequence as usize) < layout.sequences);
            assert!(row.is_sound(layout.slots));
            assert!((row.position as usize) < layout.slots);
            assert!(row.source == MASKED || (row.source as usize) < layout.tokens);
            if row.target != NO_TARGET {
                drawn[row.target as usize] += 1;
            }
        }
        assert!(rows.rows.is_sorted_by_key(|row| row.sequence));
        assert!(
            rows.sampled
                .iter()
                .all(|&i| rows.rows[i as usize].target != NO_TARGET)
        );
        plan.phase(step);
        plan.cache_length(step);
    }
    // Every token that is not given is drawn exactly once, or where confidence chooses at least once.
    for (sequence, drawn) in plan.sequences.iter().zip(drawn.chunks(plan.length)) {
        let given = &sequence.order[..sequence.known.len()];
        for (position, &times) in (0..).zip(drawn) {
            let most = if plan.reveal.is_some() { 1 } else { u32::MAX };
            assert_eq!(times.min(most), u32::from(!given.contains(&position)));
        }
    }
    let tokens = plan.initial_tokens();
    assert_eq!(plan.output(&tokens).len(), layout.sequences);
    assert_eq!(plan.sorted(&tokens).len(), layout.sequences);
    plan.uncached().step_rows(0);
});
