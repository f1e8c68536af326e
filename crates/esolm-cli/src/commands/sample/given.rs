//! What is known before the model writes: the opening token, prompts, an infill template.

use std::ffi::{OsStr, OsString};
use std::io::Read;

use esolm::config::{Family, ModelConfig, Prepend};
use esolm::text::{Ends, Template, TextCodec};

use crate::arguments::Sample;
use crate::failure::Failure;

/// Texts of one run may not be longer together than any real use needs; beyond it, numbers would overflow first.
pub const MAX_BATCH: usize = 1 << 16;

/// Known tokens and what follows from them.
#[derive(Debug)]
pub struct Given {
    /// Known (position, token) pairs, a list for each text.
    pub known: Vec<Vec<(u32, u32)>>,
    /// Tokens of each text.
    pub length: usize,
    /// For each text, the positions up to its last known token: no end-of-text token cuts it there.
    pub until: Vec<usize>,
    /// The beginning-of-text token, if there is one.
    pub bos: Option<u32>,
    /// Positions at which no text may go on with the given word before it.
    pub apart: Vec<usize>,
}

impl Given {
    /// Reads the options; prompts and templates need a tokenizer.
    pub fn new(
        arguments: &Sample,
        config: &ModelConfig,
        codec: Option<&TextCodec>,
    ) -> Result<Self, Failure> {
        let ends = codec.map_or(
            Ends {
                bos: config.bos,
                eos: config.eos,
            },
            TextCodec::ends,
        );
        if let Some(length) = arguments.length
            && length > config.length
        {
            return Err(Failure::usage(format!(
                "--length {length} is more than the model's context of {} tokens; give at most that",
                config.length
            )));
        }
        let most = arguments.length.unwrap_or(config.length);
        // An AR model that prepends a token has it in its plan already.
        let opens =
            !arguments.no_bos && (config.family != Family::Ar || config.prepend == Prepend::None);
        let opening: Vec<u32> = ends.bos.filter(|_| opens).into_iter().collect();
        let opening_known: Vec<(u32, u32)> = (0..).zip(opening.iter().copied()).collect();

        let mut apart = Vec::new();
        let (lists, length) = if let Some(template) = &arguments.infill {
            let template = Template::parse(&utf8(template, "--infill")?)
                .map_err(esolm::text::TextError::from)?;
            let codec = codec.ok_or_else(|| needs_tokenizer("--infill"))?;
            let placed = template.place(codec, &opening, most)?;
            // A template says how long its text is, unless more is asked for.
            let length = arguments.length.unwrap_or(placed.length);
            apart = placed.apart;
            (vec![placed.known], length)
        } else if arguments.prompt.is_empty() {
            // Nothing but the opening token leaves nothing to write in a text of one token.
            let known = if most > opening.len() {
                opening_known
            } else {
                Vec::new()
            };
            (vec![known], most)
        } else {
            let codec = codec.ok_or_else(|| needs_tokenizer("--prompt"))?;
            let prompts = arguments.prompt.iter().map(|prompt| {
                let mut tokens = opening.clone();
                tokens.extend(codec.encode(&utf8(prompt, "--prompt")?)?);
                if tokens.len() >= most {
                    return Err(Failure::usage(format!(
                        "the prompt has {} tokens{}, which leaves nothing to write in a length of {most}; shorten it, or raise --length \
                         up to the model's context",
                        tokens.len(),
                        if opening.is_empty() { "" } else { " with the opening one" }
                    )));
                }
                Ok((0..).zip(tokens).collect())
            });
            (
                prompts.collect::<Result<Vec<Vec<(u32, u32)>>, Failure>>()?,
                most,
            )
        };
        let batch = arguments.batch.unwrap_or(lists.len());
        if batch > MAX_BATCH {
            return Err(Failure::usage(format!(
                "--batch {batch} is too many texts; give at most {MAX_BATCH} at once"
            )));
        }
        if !batch.is_multiple_of(lists.len()) {
            return Err(Failure::usage(format!(
                "{} prompts do not divide a batch of {batch}; give a --batch that is a multiple of their number, or leave it out",
                lists.len()
            )));
        }
        let known: Vec<_> = lists.iter().cycle().take(batch).cloned().collect();
        let until = known
            .iter()
            .map(|list| {
                list.last()
                    .map_or(0, |&(position, _)| position as usize + 1)
            })
            .collect();
        Ok(Self {
            known,
            length,
            until,
            bos: ends.bos,
            apart,
        })
    }

    /// Indices of the texts in which the model went on with a given word, such as "cats" for "cat ____".
    pub fn broken(&self, texts: &[Vec<u32>], codec: Option<&TextCodec>) -> Vec<usize> {
        let Some(codec) = codec else {
            return Vec::new();
        };
        (0..texts.len())
            .filter(|&index| !codec.keeps_words(&texts[index], &self.apart))
            .collect()
    }
}

fn needs_tokenizer(option: &str) -> Failure {
    Failure::usage(format!(
        "{option} needs a tokenizer; give one with --tokenizer FILE instead of none"
    ))
}

/// The text of an option, or of the standard input for `-`.
fn utf8(text: &OsString, option: &str) -> Result<String, Failure> {
    let not_utf8 = || {
        Failure::usage(format!(
            "the text of {option} is not valid UTF-8; write it in UTF-8"
        ))
    };
    if text != OsStr::new("-") {
        return text.clone().into_string().map_err(|_| not_utf8());
    }
    let mut bytes = Vec::new();
    std::io::stdin()
        .lock()
        .read_to_end(&mut bytes)
        .map_err(|error| {
            Failure::failed(format!(
                "cannot read the standard input: {error}; give the text with {option} itself"
            ))
        })?;
    let mut text = String::from_utf8(bytes).map_err(|_| not_utf8())?;
    // The newline that ends a file or an echo is not meant.
    if text.ends_with('\n') {
        text.pop();
    }
    Ok(text)
}
