//! Tensors that files of decoders carry and nothing is computed with.

use std::collections::HashMap;

use super::parameter::Place;
use crate::config::{DECODER_HEAD, PartialConfig};

/// Rotary frequencies, which older files carry for every layer, and which are computed from the base.
const FREQUENCIES: &str = "rotary_emb.inv_freq";

/// Takes them out of what was found, and gives their names: rotary frequencies, and a copy of the embedding where that is the output matrix
/// too.
pub(super) fn take_ignored(
    config: &PartialConfig,
    found: &mut HashMap<String, Place>,
) -> Vec<String> {
    let is_tied = config
        .decoder
        .as_ref()
        .is_some_and(|decoder| decoder.is_tied());
    let is_ignored =
        |name: &String| name.ends_with(FREQUENCIES) || (is_tied && name == DECODER_HEAD);
    let mut names: Vec<String> = found
        .keys()
        .filter(|name| is_ignored(name))
        .cloned()
        .collect();
    names.sort();
    names.iter().for_each(|name| {
        found.remove(name);
    });
    names
}
