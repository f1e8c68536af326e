//! Byte-pair encoding over bytes: tiktoken's ranks, and GPT-2's vocabulary with merges.

use std::collections::HashMap;

use serde_json::{Value, json};

use super::TokenizerError;
use super::draft::{Added, Draft, vocabulary};

/// Maximum bytes of a token in a table of ranks, so that trying every split of every token stays cheap. The longest
/// published tokens have 128 bytes.
const MAX_TOKEN: usize = 256;
/// Maximum merges derived from ranks; 200,000 published tokens have 450,000.
const MAX_MERGES: usize = 1 << 20;

/// Tokens are byte sequences in the notation of the tokenizers library: printable bytes stand for themselves, others
/// become characters from U+0100 on.
fn written(bytes: &[u8], alphabet: &[char; 256]) -> String {
    bytes.iter().map(|&b| alphabet[usize::from(b)]).collect()
}

fn alphabet() -> [char; 256] {
    let mut next = 256;
    std::array::from_fn(|byte| {
        let code = match byte {
            33..=126 | 161..=172 | 174..=255 => byte as u32,
            _ => {
                next += 1;
                next - 1
            }
        };
        char::from_u32(code).unwrap_or_default()
    })
}

/// The merges implied by a table of ranks. tiktoken joins the two neighbours whose concatenation has the lowest rank,
/// so every split of a token into two others is a merge, in the order of the resulting token's rank.
fn merges<'a>(ranks: &HashMap<&'a [u8], u32>) -> Result<Vec<[&'a [u8]; 2]>, TokenizerError> {
    let mut merges = Vec::new();
    for (&token, &rank) in ranks {
        if token.len() > MAX_TOKEN {
            let text = format!(
                "with a token of {} bytes, at most {MAX_TOKEN} are read",
                token.len()
            );
            return Err(TokenizerError::Vocabulary(text));
        }
        for cut in 1..token.len() {
            let (left, right) = token.split_at(cut);
            if let (Some(&first), Some(&second)) = (ranks.get(left), ranks.get(right)) {
                merges.push((rank, first, second, [left, right]));
            }
        }
        if merges.len() > MAX_MERGES {
            let text = "whose tokens can be cut in too many ways".into();
            return Err(TokenizerError::Vocabulary(text));
        }
    }
    merges.sort_unstable_by_key(|&(rank, first, second, _)| (rank, first, second));
    Ok(merges.into_iter().map(|(_, _, _, pair)| pair).collect())
}

/// A tiktoken tokenizer: `pattern` splits the text, `ranks` maps tokens to indices, and `special` has further tokens.
pub(super) fn tiktoken(
    pattern: &str,
    ranks: &HashMap<&[u8], u32>,
    special: Vec<Added>,
) -> Result<Draft, TokenizerError> {
    let alphabet = alphabet();
    let merges = merges(ranks)?;
    let tokens = ranks
        .iter()
        .map(|(token, &id)| (written(token, &alphabet), id));
    let merges = (merges.iter()).map(|pair| pair.map(|part| written(part, &alphabet)));
    let splits = json!([
        {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": false},
        byte_level(false, false),
    ]);
    Ok(Draft {
        normalizer: Value::Null,
        pre_tokenizer: json!({"type": "Sequence", "pretokenizers": splits}),
        // A piece that is itself a token is not assembled from parts.
        model: bpe(vocabulary(tokens, &special)?, merges.collect(), true),
        decoder: byte_level(true, true),
        added: special,
    })
}

/// GPT-2's tokenizer: tokens in the library's notation, and pairs of tokens in the order in which they are merged.
pub(super) fn gpt2(
    tokens: Vec<(String, u32)>,
    merges: Vec<[String; 2]>,
    prefix_space: bool,
    added: Vec<Added>,
) -> Result<Draft, TokenizerError> {
    Ok(Draft {
        normalizer: Value::Null,
        pre_tokenizer: byte_level(prefix_space, true),
        model: bpe(vocabulary(tokens, &added)?, merges, false),
        decoder: byte_level(true, true),
        added,
    })
}

fn byte_level(prefix_space: bool, splits: bool) -> Value {
    json!({"type": "ByteLevel", "add_prefix_space": prefix_space, "trim_offsets": true, "use_regex": splits})
}

fn bpe(vocabulary: Value, merges: Vec<[String; 2]>, ignore_merges: bool) -> Value {
    json!({
        "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null, "end_of_word_suffix": null,
        "fuse_unk": false, "byte_fallback": false, "ignore_merges": ignore_merges, "vocab": vocabulary, "merges": merges,
    })
}
