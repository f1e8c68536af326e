//! Allocations of a warm step: in a test of its own, since it counts for the whole process.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

use esolm::executor::Draw;
use esolm::plan::{Plan, PlanOptions};
use esolm::sampler::Sampler;
use esolm::{Activations, Weights};
use esolm_tests::{OnDevice, Runner, stories};

struct Counting;

static COUNT: AtomicUsize = AtomicUsize::new(0);

// SAFETY: everything is passed on to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        COUNT.fetch_add(1, Ordering::Relaxed);
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// The CPU computes in memory that it already has: only the keys of the noise remain, and occasional queue entries of
/// the threads.
#[test]
fn a_warm_step_on_the_cpu_allocates_next_to_nothing() {
    let ckpt = stories();
    for (weights, activations) in [
        (Weights::F32, Activations::F32),
        (Weights::Q8, Activations::Q8),
    ] {
        let mut cpu = OnDevice::rounded(&ckpt, weights, activations);
        let plan = Plan::new(&PlanOptions::new(ckpt.config(), 3, 64, 16)).unwrap();
        let draw = Draw {
            sampler: Sampler::default(),
            seed: 9,
            ..Draw::default()
        };
        let (ids, steps) = (plan.ids(), 0..plan.nfe());
        let steps: Vec<_> = steps.map(|step| plan.step_rows(step)).collect();
        cpu.start(&plan.layout(), &plan.initial_tokens());
        for step in &steps {
            cpu.step(step, &ids, &draw);
        }
        let before = COUNT.load(Ordering::Relaxed);
        for step in &steps {
            cpu.step(step, &ids, &draw);
        }
        let each = (COUNT.load(Ordering::Relaxed) - before) as f64 / steps.len() as f64;
        println!("{weights} {activations}: {each} allocations a step");
        assert!(
            each <= 3.0,
            "{weights} {activations}: {each} allocations a step"
        );
    }
}
