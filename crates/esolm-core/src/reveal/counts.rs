//! How many tokens become known in each step of a stretch, as the published samplers count them.

use serde::{Deserialize, Serialize};

/// How the tokens of a stretch are spread over its steps. Steps that would take none are left out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Counts {
    /// As many in each, the first ones taking one more where they do not divide.
    #[default]
    Even,
    /// What a linear noise schedule unmasks in each, rounded: the sampler of dllm.
    Linear,
    /// [`Counts::Even`] of a whole block, whatever is masked of it, until nothing is left: the sampler of SDAR.
    Block,
}

impl Counts {
    /// The counts of `masked` places that are gone through in `steps` steps, of blocks of `size`.
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

/// How many of `masked` places become known in each of `steps` steps: as many in each, the first ones taking one more where they do not
/// divide. Steps that would take none are left out.
pub fn even_counts(masked: u32, steps: usize) -> Vec<u32> {
    let steps = steps.clamp(1, masked.max(1) as usize) as u32;
    let more = masked % steps;
    (0..steps)
        .map(|step| masked / steps + u32::from(step < more))
        .filter(|&count| count > 0)
        .collect()
}

/// How many of `masked` places become known in each of `steps` steps by the linear noise schedule of dllm, whose every operation rounds to
/// f32 until the number of those that are left is multiplied. Steps that would take none are left out.
pub fn linear_counts(masked: u32, steps: usize) -> Vec<u32> {
    let steps = steps.max(1);
    let time = |left: usize| (left as f64 / steps as f64) as f32;
    let mut left = masked;
    let count = |step: usize| {
        // Share of masks at a time, as the published code comes to it.
        let share = |t: f32| 1.0 - (1.0 - t);
        let stay = share(time(steps - step - 1)) / share(time(steps - step));
        let count = f64::from(left) * (1.0 - f64::from(stay));
        let count = (count.round_ties_even() as u32).min(left);
        left -= count;
        count
    };
    (0..steps).map(count).filter(|&count| count > 0).collect()
}
