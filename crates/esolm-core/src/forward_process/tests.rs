use super::*;
use crate::order::is_permutation;

#[test]
fn times_of_a_batch_fall_in_its_equal_parts() {
    let times = antithetic_times(&[0.0, 0.5, 0.25, 0.999]);
    for (i, t) in times.iter().enumerate() {
        let e = (t - TIME_EPS) / (1.0 - TIME_EPS);
        assert!((0.25 * i as f64..0.25 * (i + 1) as f64).contains(&e), "{t}");
    }
    assert_eq!(time(0.0), TIME_EPS);
    assert!(time(0.999_999) < 1.0);
}

#[test]
fn evaluation_times_are_even_over_sequences_and_draws() {
    let mut bins = [0; 10];
    for sequence in 5..105 {
        for draw in 0..2 {
            let t = spread_time(0.3, sequence, draw, 2);
            assert!((TIME_EPS..1.0).contains(&t));
            bins[(t * 10.0) as usize] += 1;
        }
    }
    assert!(bins.iter().all(|&n| (18..=22).contains(&n)), "{bins:?}");
}

#[test]
fn levels_follow_the_schedule() {
    let level = Level::at(0.5, 0.4);
    assert!((level.alpha_t - 0.5 * (1.0 - 0.999 * 0.4)).abs() < 1e-15);
    assert!((level.weight - 0.4995 / (1.0 - level.alpha_t)).abs() < 1e-15);
    assert_eq!(
        Level::at(0.0, 0.4).weight,
        0.0,
        "no diffusion, nothing to weigh"
    );
}

#[test]
fn orders_put_clean_tokens_first() {
    let masked = [true, false, true, false, false];
    let offsets = [0.9, 0.8, 0.1, 0.2, 0.5];
    assert_eq!(diffusion_order(&masked, &offsets), [3, 4, 1, 2, 0]);
    assert_eq!(sequential_order(&masked, Some(&offsets)), [3, 4, 1, 0, 2]);
    assert_eq!(sequential_order(&masked, None), [1, 3, 4, 0, 2]);
    assert_eq!(any_order(&offsets, 2), [2, 3, 0, 1, 4]);
    assert_eq!(any_order(&offsets, 9), [2, 3, 4, 1, 0]);
    let noised = Noised::gather(
        &[10, 11, 12, 13, 14],
        &masked,
        diffusion_order(&masked, &offsets),
        99,
    );
    assert_eq!(noised.x0_sorted, [13, 14, 11, 12, 10]);
    assert_eq!(noised.zt_sorted, [13, 14, 11, 99, 99]);
    assert_eq!(noised.masked_count(), 2);
}

#[test]
fn a_share_is_masked() {
    let uniforms = Uniforms::draw(3, 7, 0, Part::Diffusion, 4000);
    let share = |alpha| {
        let masked = masked(&uniforms.mask, alpha);
        masked.iter().filter(|&&m| m).count() as f64 / 4000.0
    };
    assert_eq!((share(1.0), share(0.0)), (0.0, 1.0));
    assert!((share(0.3) - 0.7).abs() < 0.04);
}

#[test]
fn numbers_are_keyed_by_everything_but_the_batch() {
    let base = Uniforms::draw(1, 2, 3, Part::Diffusion, 8);
    assert_eq!(base, Uniforms::draw(1, 2, 3, Part::Diffusion, 8));
    for other in [
        Uniforms::draw(2, 2, 3, Part::Diffusion, 8),
        Uniforms::draw(1, 3, 3, Part::Diffusion, 8),
        Uniforms::draw(1, 2, 4, Part::Diffusion, 8),
        Uniforms::draw(1, 2, 3, Part::Sequential, 8),
    ] {
        assert_ne!(base, other);
    }
    assert_ne!(draw_time(1, 0, 0), draw_time(1, 0, 1));
}

#[test]
fn drawn_orders_have_a_random_share_in_front() {
    let mut fronts = 0;
    for sequence in 0..200 {
        let order = draw_order(9, sequence, 0, 40, 0.25);
        assert!(is_permutation(&order));
        // The longest ascending tail is at least the sequential part.
        let tail = order.iter().rev().zip(order.iter().rev().skip(1));
        let ascending = 1 + tail.take_while(|(later, earlier)| earlier < later).count();
        fronts += 40 - ascending;
    }
    // Binomial(40, 0.25) has mean 10; occasionally a random token happens to extend the tail.
    assert!((1700..2100).contains(&fronts), "{fronts}");
    assert!(draw_order(9, 0, 0, 40, 0.0).is_sorted());
    assert!(!draw_order(9, 0, 0, 40, 1.0).is_sorted());
}

#[test]
fn times_of_blocks_fall_in_the_equal_parts_of_a_range() {
    let times = block_times(&[0.0, 0.5, 0.25, 0.999], [0.2, 0.6]);
    for (i, t) in times.iter().enumerate() {
        let part = 0.2 + 0.1 * i as f64..0.2 + 0.1 * (i + 1) as f64;
        assert!(part.contains(t), "{t}");
    }
}

#[test]
fn blocks_are_masked_until_their_share_lies_in_the_range() {
    let (size, range) = (4, [0.3, 0.8]);
    let times = block_times(&draw_times(7, 1, 0, 5), range);
    let draw = |n| Uniforms::draw(7, 1, n, Part::Diffusion, 20).mask;
    let mut noised = NoisedBlocks::new(size, &times, &[0.0; 20]);
    let mut draws = 0;
    resample(&mut noised, &times, range, || {
        draws += 1;
        draw(draws)
    });
    assert!(draws > 0);
    for block in noised.masked.chunks(size) {
        let count = block.iter().filter(|&&masked| masked).count();
        assert!((2..=3).contains(&count), "{count} masked");
    }
    let before = noised.clone();
    resample(&mut noised, &times, range, || panic!("nothing is outside"));
    assert_eq!(noised, before);
    assert!(can_resample(4, [0.3, 0.8]));
    assert!(!can_resample(4, [0.3, 0.45]));
    assert!(can_resample(1, [0.3, 1.0]));
    assert!(!can_resample(1, [0.3, 0.8]));
}
