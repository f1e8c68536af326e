//! The noise of a SetDLM (kuleshov-group/setdlms, noise_schedule): every position of a text is masked within its own
//! interval of time. The intervals are staggered from left to right and overlap, so that nearby positions may swap
//! places in the generation order, and distant ones may not.
//!
//! Time runs from 1 down to 0. Position i becomes known at its *hitting time* T_i = loc_i + b (1 - exp(-E_i / k)), with
//! an exponential random number E_i. The order of a text is that of its hitting times, latest first.

use std::ops::Range;

use crate::config::Sets;

/// The schedule of a text.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Staggered {
    length: usize,
    /// b: length of a position's interval.
    width: f64,
    /// k: exponent with which a position becomes masked within its interval.
    power: f64,
    /// Sets of one token: a position is masked abruptly.
    is_abrupt: bool,
}

impl Staggered {
    /// The schedule of texts of `length` tokens, the model's context; shorter texts use its first positions.
    pub fn new(sets: &Sets, length: usize) -> Self {
        let (l, desired, largest) = (length as f64, sets.desired as f64, sets.largest as f64);
        let area = desired / (2.0 * l);
        let is_abrupt = sets.desired == 1;
        let (width, power) = match is_abrupt || sets.desired == sets.largest {
            true => (2.0 * area, 1.0),
            false => {
                let width = largest / (l + largest - 1.0);
                (width, area / (width - area))
            }
        };
        Self {
            length,
            width,
            power,
            is_abrupt,
        }
    }

    /// b, the length of the interval in which a position becomes masked.
    pub fn width(&self) -> f64 {
        self.width
    }

    /// k, the exponent.
    pub fn power(&self) -> f64 {
        self.power
    }

    /// loc of a position, up to which time it is clean: evenly spaced from 1 - b at the left end to 0 at the right end.
    pub fn start(&self, place: usize) -> f64 {
        let end = 1.0 - self.width;
        let last = self.length.saturating_sub(1);
        let step = end / last.max(1) as f64;
        // Computed from the nearer end, as in the published code, so that rounding does not differ.
        match last - place.min(last) {
            _ if last == 0 => 0.0,
            from_right if from_right < self.length / 2 => step * from_right as f64,
            _ => end - step * place as f64,
        }
    }

    /// How far a position is through its interval at time `t`: at most 0 before it, at least 1 after it.
    fn progress(&self, place: usize, t: f64) -> f64 {
        (t - self.start(place)) / self.width
    }

    /// The probability that a position is clean at time `t`.
    pub fn alpha(&self, place: usize, t: f64) -> f64 {
        let progress = self.progress(place, t).clamp(0.0, 1.0);
        match self.is_abrupt {
            true if progress > 0.0 => 0.0,
            true => 1.0,
            false => (1.0 - progress).powf(self.power),
        }
    }

    /// The derivative of [`Staggered::alpha`] by time; 0 outside the interval.
    pub fn alpha_derivative(&self, place: usize, t: f64) -> f64 {
        let progress = self.progress(place, t);
        match progress > 0.0 && progress <= 1.0 {
            // At the very end it may be infinite; as published, it is evaluated just before.
            true => {
                let left = 1.0 - progress.min(1.0 - f64::EPSILON);
                -(self.power / self.width) * left.powf(self.power - 1.0)
            }
            false => 0.0,
        }
    }

    /// Hitting times of the positions from `first` on, one per exponential random number.
    pub fn times(&self, first: usize, exponentials: &[f64]) -> Vec<f64> {
        let time = |(place, e): (usize, &f64)| {
            self.start(place) + self.width * (1.0 - (-e / self.power).exp())
        };
        (first..).zip(exponentials).map(time).collect()
    }

    /// An order of a text of `length` tokens: those outside `free`, which are given, from left to right, then those
    /// inside by their hitting times. `exponentials` has one number for each of the latter.
    pub fn order(&self, length: usize, free: &Range<usize>, exponentials: &[f64]) -> Vec<u32> {
        let given = (0..length).filter(|place| !free.contains(place));
        let given = given.map(|place| place as u32);
        let drawn = by_time(&self.times(free.start, exponentials));
        given
            .chain(drawn.into_iter().map(|place| place + free.start as u32))
            .collect()
    }
}

/// Moves leading given positions to the front and trailing ones to the end. As published, given positions in between
/// keep the place that their time gives them. `is_free` says which positions are not given.
pub fn hold(times: &mut [f64], is_free: &[bool]) {
    let given = |is_free: &&bool| !**is_free;
    let leading = is_free.iter().take_while(given).count();
    let trailing = is_free.iter().rev().take_while(given).count();
    let end = times.len() - trailing.min(times.len() - leading);
    times[..leading].fill(f64::INFINITY);
    times[end..].fill(f64::NEG_INFINITY);
}

/// Positions by their hitting times, latest first, with ties from left to right.
pub fn by_time(times: &[f64]) -> Vec<u32> {
    let mut order: Vec<u32> = (0..times.len() as u32).collect();
    order.sort_by(|&a, &b| times[b as usize].total_cmp(&times[a as usize]));
    order
}
