//! Noised texts, computed from the published code's recorded uniforms and compared with its own.

mod common;

use common::golden::Golden;
use common::plan::MASK;
use esolm_core::forward_process::{
    Level, Noised, Uniforms, antithetic_times, any_order, masked, sequential_order,
};

const NAME: &str = "losses.safetensors";
const L: usize = 32;

fn f64s(values: &[f32]) -> Vec<f64> {
    values.iter().copied().map(f64::from).collect()
}

/// The recorded uniforms of row `row` under a prefix.
fn uniforms(golden: &Golden, prefix: &str, row: usize, offsets: bool) -> Uniforms {
    let part = |name: &str| {
        let all = golden.f32(&format!("{prefix}.{name}"));
        f64s(&all[row * L..(row + 1) * L])
    };
    Uniforms {
        mask: part("u_move"),
        offsets: if offsets {
            part("u_offsets")
        } else {
            Vec::new()
        },
    }
}

fn close(got: f64, want: f32) {
    assert!((got - f64::from(want)).abs() < 1e-6, "{got}, want {want}");
}

#[test]
fn diffusion_is_noised_as_published() {
    let golden = Golden::open(NAME);
    let x0 = golden.rows("x0");
    for (case, alpha_0) in [("diffusion.a05", 0.5), ("diffusion.a1", 1.0)] {
        let tensor = |name: &str| format!("{case}.{name}");
        let times = antithetic_times(&f64s(&golden.f32(&tensor("u_t"))));
        for (row, x0) in x0.iter().enumerate() {
            let level = Level::at(alpha_0, times[row]);
            close(level.t, golden.f32(&tensor("t"))[row]);
            close(level.alpha_t, golden.f32(&tensor("alpha_t"))[row]);
            let noised = Noised::diffusion(x0, level, &uniforms(&golden, case, row, true), MASK);
            assert_eq!(noised.sort_idx, golden.rows(&tensor("sort_idx"))[row]);
            assert_eq!(noised.zt_sorted, golden.rows(&tensor("zt_sorted"))[row]);
            let mut natural = vec![0; L];
            for (slot, &position) in noised.sort_idx.iter().enumerate() {
                natural[position as usize] = noised.zt_sorted[slot];
            }
            assert_eq!(natural, golden.rows(&tensor("xt"))[row]);
        }
    }
}

#[test]
fn sequential_is_noised_as_published() {
    let golden = Golden::open(NAME);
    let x0 = golden.rows("x0");
    for (row, x0) in x0.iter().enumerate() {
        let case = "reconstruction.shuffle";
        let noised = Noised::sequential(x0, 0.5, &uniforms(&golden, case, row, true), MASK);
        assert_eq!(
            noised.sort_idx,
            golden.rows(&format!("{case}.sort_idx"))[row]
        );
        assert_eq!(
            noised.zt_sorted,
            golden.rows(&format!("{case}.z0_sorted"))[row]
        );
        assert_eq!(
            noised.x0_sorted,
            golden.rows(&format!("{case}.x0_sorted"))[row]
        );
        let case = "reconstruction.noshuffle_mixed";
        let masked = masked(&uniforms(&golden, case, row, false).mask, 0.5);
        let order = sequential_order(&masked, None);
        assert_eq!(order, golden.rows(&format!("{case}.sort_idx"))[row]);
        let noised = Noised::gather(x0, &masked, order, MASK);
        assert_eq!(
            noised.zt_sorted,
            golden.rows(&format!("{case}.z0_sorted"))[row]
        );
    }
}

#[test]
fn halves_of_a_batch_are_noised_as_published() {
    let golden = Golden::open(NAME);
    let x0 = golden.rows("x0");
    let times = antithetic_times(&f64s(&golden.f32("loss_half.diff.u_t")));
    for row in 0..2 {
        let part = uniforms(&golden, "loss_half.diff", row, true);
        let noised = Noised::diffusion(&x0[row], Level::at(0.5, times[row]), &part, MASK);
        assert_eq!(noised.sort_idx, golden.rows("loss_half.diff.sort_idx")[row]);
        assert_eq!(
            noised.zt_sorted,
            golden.rows("loss_half.diff.zt_sorted")[row]
        );
        let part = uniforms(&golden, "loss_half.seq", row, true);
        let noised = Noised::sequential(&x0[row + 2], 0.5, &part, MASK);
        assert_eq!(noised.sort_idx, golden.rows("loss_half.seq.sort_idx")[row]);
        assert_eq!(
            noised.zt_sorted,
            golden.rows("loss_half.seq.z0_sorted")[row]
        );
    }
}

#[test]
fn mdlm_is_noised_as_published() {
    let golden = Golden::open(NAME);
    let times = antithetic_times(&f64s(&golden.f32("mdlm.u_t")));
    for (row, x0) in golden.rows("x0").iter().enumerate() {
        let level = Level::at(1.0, times[row]);
        close(level.alpha_t, golden.f32("mdlm.alpha_t")[row]);
        let noised = Noised::mdlm(x0, level, &uniforms(&golden, "mdlm", row, false), MASK);
        assert_eq!(noised.zt_sorted, golden.rows("mdlm.xt")[row]);
        assert!(noised.sort_idx.is_sorted());
    }
}

#[test]
fn orders_are_the_published_ones() {
    let golden = Golden::open(NAME);
    let offsets = golden.f32("iw.u_offsets");
    let diffusion = golden.flat("iw.num_diffusion");
    for (row, order) in golden.rows("iw.sort_idx").iter().enumerate() {
        let offsets = f64s(&offsets[row * L..(row + 1) * L]);
        assert_eq!(&any_order(&offsets, diffusion[row] as usize), order);
    }
}
