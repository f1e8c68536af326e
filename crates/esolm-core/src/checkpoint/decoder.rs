//! Tensors in decoders' files that are not used.

use std::collections::HashMap;

use super::parameter::Place;
use crate::config::{DECODER_HEAD, PartialConfig};

/// Rotary frequencies, which older files store for every layer, but which are computed from the base.
const FREQUENCIES: &str = "rotary_emb.inv_freq";

/// Removes unused tensors from those found, and returns their names: rotary frequencies, and a copy of the embedding if
/// the output matrix is tied to it.
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
