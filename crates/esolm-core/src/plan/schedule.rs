//! Which positions each diffusion step takes.

use super::types::{PlanOptions, Schedule};
use crate::config::Family;
use crate::forward_process::Staggered;
use crate::noise::unmask_probability;
use crate::order;
use crate::rng::{Purpose, Stream};

/// The order in which positions that are not given are drawn, and the sizes of the steps.
pub(super) struct Draw {
    /// The positions.
    pub order: Vec<u32>,
    /// Number of positions drawn in each diffusion step; the rest are drawn one by one.
    pub diffusion: Vec<u32>,
}

/// Draws the schedule of a sequence over its `free` positions, which must ascend.
pub(super) fn draw(options: &PlanOptions, sequence: u32, free: &[u32]) -> Draw {
    let mut orders = Stream::new(options.seed, sequence, Purpose::Order);
    match options.schedule {
        Schedule::LeftToRight | Schedule::Confidence => Draw {
            order: free.to_vec(),
            diffusion: Vec::new(),
        },
        Schedule::Block | Schedule::BlockAutoregressive => {
            let (length, size) = (options.length as u32, options.steps as u32);
            let steps = match options.schedule {
                Schedule::Block => order::block_steps(length, size, &mut orders),
                _ => order::block_autoregressive_steps(length, size, options.sar_steps as u32),
            };
            // The blocks do not depend on what is given.
            let is_free = |position: &u32| free.binary_search(position).is_ok();
            let steps = steps
                .into_iter()
                .map(|step| step.into_iter().filter(is_free).collect());
            let steps: Vec<Vec<u32>> = steps.filter(|step: &Vec<u32>| !step.is_empty()).collect();
            Draw {
                diffusion: steps.iter().map(|step| step.len() as u32).collect(),
                order: steps.concat(),
            }
        }
        Schedule::FirstHitting if options.family == Family::SetDlm => Draw {
            order: set_order(options, sequence, free),
            diffusion: even_sizes(free.len() as u32, options.steps),
        },
        Schedule::FirstHitting => Draw {
            order: order::random_then_ascending(free, free.len(), &mut orders),
            diffusion: vec![1; free.len()],
        },
        Schedule::Binomial => {
            let mut sizes = Stream::new(options.seed, sequence, Purpose::Schedule);
            let diffusion = binomial_sizes(
                &mut sizes,
                free.len() as u32,
                options.alpha_0,
                options.steps,
            );
            let taken = diffusion.iter().sum::<u32>() as usize;
            Draw {
                order: order::random_then_ascending(free, taken, &mut orders),
                diffusion,
            }
        }
        Schedule::Blocks | Schedule::BlocksShuffled => {
            let shuffled = options.schedule == Schedule::BlocksShuffled;
            let shuffle = shuffled.then_some(&mut orders);
            let blocks = order::strided_blocks(free, options.steps, shuffle);
            // As published, whole blocks: int(blocks * alpha_0) of them, with the positions of the others sorted.
            let taken = (blocks.len() as f64 * options.alpha_0) as usize;
            let (diffusion, rest) = blocks.split_at(taken);
            let mut rest = rest.concat();
            rest.sort_unstable();
            let mut order = diffusion.concat();
            order.append(&mut rest);
            Draw {
                order,
                diffusion: diffusion.iter().map(|block| block.len() as u32).collect(),
            }
        }
    }
}

/// Tokens in each diffusion step: `_tokens_unmasked_per_step` of the published algo.py. Each step unmasks a binomial
/// number of the tokens still masked, and steps that unmask none are dropped. If diffusion takes all tokens, those left
/// over form one last step.
pub(super) fn binomial_sizes(
    stream: &mut Stream,
    free: u32,
    alpha_0: f64,
    steps: usize,
) -> Vec<u32> {
    let mut left = free;
    let mut sizes = Vec::new();
    for i in 0..steps {
        if left == 0 {
            break;
        }
        // Times are computed from integers, so that the last s is exactly 0.
        let t = (steps - i) as f64 / steps as f64;
        let s = (steps - i - 1) as f64 / steps as f64;
        let size = stream.binomial(left, unmask_probability(alpha_0, t, s));
        if size > 0 {
            sizes.push(size);
            left -= size;
        }
    }
    if alpha_0 == 1.0 && left > 0 {
        sizes.push(left);
    }
    sizes
}

/// A SetDLM's positions in an order drawn from its noise.
pub(super) fn set_order(options: &PlanOptions, sequence: u32, free: &[u32]) -> Vec<u32> {
    let mut stream = Stream::new(options.seed, sequence, Purpose::Order);
    let schedule = (options.sets.as_ref()).map(|sets| Staggered::new(sets, options.context));
    let mut timed: Vec<(f64, u32)> = free
        .iter()
        .map(|&place| {
            let exponential = -stream.uniform().ln();
            let time = schedule.map(|s| s.times(place as usize, &[exponential])[0]);
            (time.unwrap_or(-f64::from(place)), place)
        })
        .collect();
    timed.sort_by(|(a, _), (b, _)| b.total_cmp(a));
    timed.into_iter().map(|(_, place)| place).collect()
}

/// How many of `free` tokens are drawn in each of at most `steps` steps, counted as in the published sampler of a
/// SetDLM: at time t the number of tokens left is t times the initial number, rounded half to even.
pub(super) fn even_sizes(free: u32, steps: usize) -> Vec<u32> {
    let steps = steps.min(free as usize);
    // As published, times are computed from the nearer end; their rounding determines which values are exact halves.
    let time = |i: usize| match i < steps.div_ceil(2) {
        true => 1.0 - i as f64 * (1.0 / steps as f64),
        false => (steps - i) as f64 * (1.0 / steps as f64),
    };
    let left = |i: usize| (time(i) * f64::from(free)).round_ties_even() as u32;
    (0..steps).map(|i| left(i) - left(i + 1)).collect()
}
