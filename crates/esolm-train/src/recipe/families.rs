//! Requirements of single families.

use esolm::config::Family;
use esolm::forward_process::can_resample;

use super::{Model, Recipe, must};
use crate::TrainError;
use crate::loss::BlockNoise;

impl Recipe {
    /// Checks the settings that a SetDLM requires, and no other family has.
    pub(super) fn check_sets(&self) -> Result<(), TrainError> {
        let Model {
            family,
            length,
            set_size,
            max_set_size,
            ..
        } = self.model;
        let keys = [
            ("model.set_size", set_size),
            ("model.max_set_size", max_set_size),
        ];
        if family != Family::SetDlm {
            let foreign = keys.iter().find_map(|&(key, size)| Some((key, size?)));
            let expected = format!("left out, since {} has no sets", family.one());
            return foreign.map_or(Ok(()), |(key, size)| must(key, size, false, &expected));
        }
        let key = keys[0].0;
        let expected = format!("a whole number from 1 to model.length = {length}");
        let Some(size) = set_size else {
            return Err(TrainError::Missing { key, expected });
        };
        let largest = max_set_size.unwrap_or(size.saturating_mul(2));
        must(
            keys[1].0,
            largest,
            (1..=length).contains(&largest),
            &expected,
        )?;
        let expected = format!("a whole number from 1 to model.max_set_size = {largest}");
        must(key, size, (1..=largest).contains(&size), &expected)
    }

    /// Checks the settings that a BD3-LM requires, and no other family has.
    pub(super) fn check_blocks(&self) -> Result<(), TrainError> {
        let Model {
            family,
            length,
            block_size,
            ..
        } = self.model;
        let key = "model.block_size";
        let expected = format!("a whole number that divides model.length = {length}");
        let size = match (family, block_size) {
            (Family::Bd3Lm, Some(size)) => size,
            (Family::Bd3Lm, None) => return Err(TrainError::Missing { key, expected }),
            (_, Some(size)) => {
                let expected = format!("left out, since {} has no blocks", family.one());
                return must(key, size, false, &expected);
            }
            (_, None) => return Ok(()),
        };
        must(
            key,
            size,
            size > 0 && length.is_multiple_of(size),
            &expected,
        )?;
        let [low, high] = self.loss.noise_range.unwrap_or(BlockNoise::WHOLE);
        let resample = self.loss.resample;
        must(
            "loss.noise_range",
            format!("[{low}, {high}]"),
            low > 0.0 && low <= high && high <= 1.0,
            "two numbers above 0 up to 1, the first not above the second",
        )?;
        must(
            "loss.resample",
            resample,
            !resample || can_resample(size, [low, high]),
            &format!(
                "false, since no number of masked tokens in a block of {size} is a share from {low} to {high}"
            ),
        )
    }
}
