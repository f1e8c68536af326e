//! How many tokens are revealed in each step of a stretch, counted as in the published samplers.

use serde::{Deserialize, Serialize};

/// How the tokens of a stretch are distributed over its steps. Steps that would reveal none are left out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Counts {
    /// The same number in each step, with the remainder spread over the first ones.
    #[default]
    Even,
    /// As unmasked by a linear noise schedule, rounded: dllm's sampler.
    Linear,
    /// [`Counts::Even`] for a whole block, however much of it is masked, until nothing is left: SDAR's sampler.
    Block,
}

impl Counts {
    /// The counts for `masked` positions in `steps` steps, with blocks of `size`.
    pub fn of(self, masked: u32, size: u32, steps: usize) -> Vec<u32> {
        match self {
            Self::Even => even_counts(masked, steps),
            Self::Linear => linear_counts(masked, steps),
            Self::Block => {
                let mut left = masked;
                let mut take = |count: u32| {
                    let taken = count.min(left);
                    left -= taken;
                    taken
                };
                let counts = even_counts(size.max(masked), steps).into_iter();
                counts
                    .map(&mut take)
                    .take_while(|&count| count > 0)
                    .collect()
            }
        }
    }
}

/// How many of `masked` positions are revealed in each of `steps` steps: the same number in each, with the remainder
/// spread over the first ones. Steps that would reveal none are left out.
pub fn even_counts(masked: u32, steps: usize) -> Vec<u32> {
    let steps = steps.clamp(1, masked.max(1) as usize) as u32;
    let more = masked % steps;
    (0..steps)
        .map(|step| masked / steps + u32::from(step < more))
        .filter(|&count| count > 0)
        .collect()
}

/// How many of `masked` positions are revealed in each of `steps` steps by dllm's linear noise schedule. All operations
/// round to f32, up to the multiplication by the number of positions left. Steps that would reveal none are left out.
pub fn linear_counts(masked: u32, steps: usize) -> Vec<u32> {
    let steps = steps.max(1);
    let time = |left: usize| (left as f64 / steps as f64) as f32;
    let mut left = masked;
    let count = |step: usize| {
        // Fraction masked at a given time, computed as in the published code.
        let share = |t: f32| 1.0 - (1.0 - t);
        let stay = share(time(steps - step - 1)) / share(time(steps - step));
        let count = f64::from(left) * (1.0 - f64::from(stay));
        let count = (count.round_ties_even() as u32).min(left);
        left -= count;
        count
    };
    (0..steps).map(count).filter(|&count| count > 0).collect()
}
