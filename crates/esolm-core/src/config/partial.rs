//! A configuration as written, in either form, and its completion from the tensors.

use std::fmt;

use serde_json::{Map, Value};

use crate::message::shorten;
use crate::noise;

use super::claims::Claims;
use super::decoder::{self, PartialDecoder};
use super::document::Fields;
use super::fields::{
    Figure, agreeing, float, lookup, number, present, scalar, section, string, token,
};
use super::{
    AttentionKind, ConfigError, Family, MAX_BLOCKS, MAX_VOCAB, MAX_WIDTH, ModelConfig, Prepend,
    Quantization, ReadAs, Sets, invalid, sets,
};

/// A configuration as written, before what it leaves out is taken from the tensors.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct PartialConfig {
    pub family: Option<Family>,
    pub hidden: Option<usize>,
    pub cond_dim: Option<usize>,
    pub n_blocks: Option<usize>,
    pub n_heads: Option<usize>,
    pub length: Option<usize>,
    pub vocab_size: Option<usize>,
    pub alpha_0: Option<f64>,
    pub prepend: Option<Prepend>,
    pub bos: Option<u32>,
    pub eos: Option<u32>,
    pub more_eos: Vec<u32>,
    pub dropout: Option<f64>,
    pub attention: Option<AttentionKind>,
    pub block_size: Option<usize>,
    /// Both ends of the noise range of a BD3-LM, which may also stand beside the weights.
    pub noise_range: [Option<f64>; 2],
    /// What a SetDLM says of its noise.
    pub sets: Option<Sets>,
    /// The mask index, and what must agree with the network that is computed.
    pub claims: Claims,
    /// How the weights beside it are quantised.
    pub quantization: Option<Quantization>,
    /// Whether the network has adaLN layers, once the tensors were seen.
    pub conditioned: Option<bool>,
    /// What a decoder has beside.
    pub decoder: Option<PartialDecoder>,
}

impl PartialConfig {
    /// Reads a `config.json`, which messages call `source`.
    pub(crate) fn from_json(json: &str, source: &str) -> Result<Self, ConfigError> {
        let Fields { map, twin } = Fields::read(json)?;
        if let Some(twin) = twin {
            return Err(twin.contradiction(source));
        }
        if let Some(decoder) = decoder::read(&map, source)? {
            return Ok(decoder);
        }
        section(&map, "backbone_config")?;
        // Published files of other families have it and say null.
        if present(&map, "noise_config").is_some() {
            section(&map, "noise_config")?;
        }
        // Written by hand, `algo` can be the name alone.
        let algorithm = lookup(&map, "algo.name").or_else(|| lookup(&map, "algo"));
        let mut family = string(&map, "model_type")?
            .map(|name| parse_family("model_type", name))
            .transpose()?;
        for (field, class) in classes(&map) {
            if other_kind(class).is_some() {
                return Err(unknown_family(field, class));
            }
            // Wrappers may have any name.
            let named = parse_family(field, class).ok();
            // A SetDLM has the model type of a BD3-LM, and the published files load it by that class.
            match (family, named) {
                (Some(Family::SetDlm), Some(Family::Bd3Lm)) => continue,
                (Some(Family::Bd3Lm), Some(Family::SetDlm)) => family = named,
                _ => {}
            }
            let there = format!("the class in \"{field}\"");
            settle(["\"model_type\"", &there], &mut family, named)?;
        }
        if let Some(name) = algorithm.and_then(Value::as_str) {
            let named = Some(parse_family("algo.name", name)?);
            settle(["\"model_type\"", "\"algo.name\""], &mut family, named)?;
        }
        let size = |paths: &[&'static str]| agreeing(paths, |path| number(&map, path));
        let cond_dim = size(&["cond_dim", "model.cond_dim", "backbone_config.cond_dim"])?;
        let is_set = family == Some(Family::SetDlm);
        // Other families of the same code have these fields without a use for them.
        let has_blocks = [None, Some(Family::Bd3Lm)].contains(&family);
        let of_blocks = |path| match has_blocks {
            true => Ok(float(&map, path)?.map(|Figure(share)| share)),
            false => Ok(None),
        };
        // Fields of other families may stand in the section as well.
        let of = |wanted, paths: [&'static str; 2]| match family == Some(wanted) {
            true => paths.to_vec(),
            false => vec![paths[0]],
        };
        let mut lengths = vec![
            "model_length",
            "length",
            "model.length",
            "model.model_length",
            "backbone_config.length",
        ];
        lengths.extend(is_set.then_some("noise_config.length"));
        let length = size(&lengths)?;
        if is_set {
            sets::check_block_size(&map, length)?;
        }
        Ok(Self {
            family,
            hidden: size(&[
                "hidden_size",
                "hidden_dim",
                "model.hidden_size",
                "model.hidden_dim",
                "backbone_config.hidden_size",
            ])?,
            cond_dim,
            n_blocks: size(&["n_blocks", "model.n_blocks", "backbone_config.num_layers"])?,
            n_heads: size(&["n_heads", "model.n_heads", "backbone_config.n_heads"])?,
            length,
            vocab_size: size(&[
                "vocab_size",
                "model.vocab_size",
                "backbone_config.vocab_size",
            ])?,
            alpha_0: agreeing(&of(Family::EsoLm, ["alpha_0", "algo.alpha_0"]), |path| {
                float(&map, path)
            })?
            .map(|Figure(alpha_0)| alpha_0),
            prepend: agreeing(
                &of(Family::Ar, ["prepend_token", "algo.prepend_token"]),
                |path| string(&map, path)?.map(parse_prepend).transpose(),
            )?,
            bos: token(&map, "bos_token_id")?,
            eos: token(&map, "eos_token_id")?,
            more_eos: Vec::new(),
            dropout: agreeing(&["dropout", "backbone_config.dropout"], |path| {
                float(&map, path)
            })?
            .map(|Figure(dropout)| dropout),
            attention: agreeing(
                &of(
                    Family::EsoLm,
                    ["diffusion_attn_mode", "algo.diffusion_attn_mode"],
                ),
                |path| string(&map, path)?.map(parse_attention).transpose(),
            )?,
            block_size: match has_blocks {
                true => size(&["block_size", "backbone_config.block_size"])?,
                false => None,
            },
            noise_range: [
                of_blocks("sampling_eps_min")?,
                of_blocks("sampling_eps_max")?,
            ],
            sets: match is_set {
                true => Sets::read(&map)?,
                false => None,
            },
            claims: Claims::read(source, |path| lookup(&map, path).map(scalar))?,
            quantization: Quantization::read(&map)?,
            // The model type has two meanings: the flat one has adaLN whatever "adaln" says, the nested one says.
            conditioned: match family == Some(Family::Bd3Lm) {
                true if present(&map, "backbone_config").is_none() => cond_dim.map(|c| c > 0),
                _ => None,
            },
            decoder: None,
        })
    }

    /// Adds what somebody says of a model that leaves it open.
    pub(crate) fn read_as(&mut self, said: &ReadAs) -> Result<(), ConfigError> {
        let Some(decoder) = &self.decoder else {
            return match said.family {
                Some(family) if self.family.is_some_and(|own| own != family) => {
                    Err(self.contradicts(family))
                }
                _ => Ok(()),
            };
        };
        match said.family {
            Some(family) if !decoder.may_be(self.family, family) => {
                return Err(self.contradicts(family));
            }
            Some(family) => self.family = Some(family),
            None => {}
        }
        if said.block_size.is_some() && self.family == Some(Family::Bd3Lm) {
            self.block_size = said.block_size;
        }
        if let Some(mask) = said.mask {
            self.claims
                .mask_is(format!("the mask is said to be {mask}"), mask);
        }
        Ok(())
    }

    fn contradicts(&self, said: Family) -> ConfigError {
        let own = self.family.map_or("another model", Family::one);
        ConfigError::OtherFamily { said, own }
    }

    /// Adds what the checkpoint says of itself to a configuration that is used in its place. Sizes that only this one gives are taken;
    /// the length, `alpha_0`, the dropout and the ends of texts may differ.
    pub(crate) fn add_own(&mut self, own: Self) -> Result<(), ConfigError> {
        const OWN: &str = "what the checkpoint says of itself";
        settle(
            ["the family of the configuration", OWN],
            &mut self.family,
            own.family,
        )?;
        settle(
            ["\"n_heads\" of the configuration", OWN],
            &mut self.n_heads,
            own.n_heads,
        )?;
        settle(
            ["\"prepend_token\" of the configuration", OWN],
            &mut self.prepend,
            own.prepend,
        )?;
        settle(
            ["\"diffusion_attn_mode\" of the configuration", OWN],
            &mut self.attention,
            own.attention,
        )?;
        self.hidden = self.hidden.or(own.hidden);
        self.cond_dim = self.cond_dim.or(own.cond_dim);
        self.n_blocks = self.n_blocks.or(own.n_blocks);
        self.length = self.length.or(own.length);
        self.vocab_size = self.vocab_size.or(own.vocab_size);
        self.alpha_0 = self.alpha_0.or(own.alpha_0);
        self.bos = self.bos.or(own.bos);
        if self.eos.is_none() {
            self.more_eos = own.more_eos;
        }
        self.eos = self.eos.or(own.eos);
        self.dropout = self.dropout.or(own.dropout);
        self.block_size = self.block_size.or(own.block_size);
        for (end, own) in self.noise_range.iter_mut().zip(own.noise_range) {
            *end = end.or(own);
        }
        self.sets = self.sets.or(own.sets);
        self.claims.extend(own.claims);
        self.quantization = self.quantization.take().or(own.quantization);
        self.decoder = self.decoder.take().or(own.decoder);
        Ok(())
    }

    /// Fills what was left out and compares what was said with the shapes of the tensors. `shape` looks a tensor up by its name
    /// without `backbone.`.
    pub(crate) fn reconcile<'a>(
        &mut self,
        shape: impl Fn(&str) -> Option<&'a [usize]>,
    ) -> Result<(), ConfigError> {
        if let Some(decoder) = &mut self.decoder {
            decoder.reconcile(shape);
            return Ok(());
        }
        let has = |name: &str| shape(name).is_some();
        let conditioned = has("sigma_map.mlp.0.weight") || has("blocks.0.adaLN_modulation.weight");
        match self.family {
            None if !conditioned => self.family = Some(Family::Ar),
            None if self.alpha_0.is_some() => self.family = Some(Family::EsoLm),
            _ => {}
        }
        if conditioned {
            self.conditioned = Some(true);
            for (tensor, dimension) in [
                ("sigma_map.mlp.0.weight", 0),
                ("blocks.0.adaLN_modulation.weight", 1),
            ] {
                if let Some(&width) = shape(tensor).and_then(|shape| shape.get(dimension)) {
                    agree("cond_dim", &mut self.cond_dim, width, tensor)?;
                }
            }
        } else if has("vocab_embed.embedding") {
            // Published configurations name a cond_dim for networks without conditioning too; nothing in these has that size.
            self.conditioned = Some(false);
        }
        if let Some(&[v, d]) = shape("vocab_embed.embedding") {
            agree(
                "vocab_size",
                &mut self.vocab_size,
                v,
                "vocab_embed.embedding",
            )?;
            agree("hidden_size", &mut self.hidden, d, "vocab_embed.embedding")?;
        }
        if self.n_blocks.is_none() {
            let counted = (0..MAX_BLOCKS)
                .take_while(|i| has(&format!("blocks.{i}.norm1.weight")))
                .count();
            self.n_blocks = (counted > 0).then_some(counted);
        }
        if let (Some(d), Some(&[half_head])) = (self.hidden, shape("rotary_emb.inv_freq"))
            && half_head > 0
            && half_head <= MAX_WIDTH
            && d.is_multiple_of(2 * half_head)
        {
            agree(
                "n_heads",
                &mut self.n_heads,
                d / (2 * half_head),
                "rotary_emb.inv_freq",
            )?;
        }
        Ok(())
    }

    /// The finished configuration, or the field that is missing.
    pub(crate) fn complete(self) -> Result<ModelConfig, ConfigError> {
        if let Some(decoder) = &self.decoder {
            return self.complete_decoder(decoder);
        }
        let missing = |field, expected| ConfigError::Missing { field, expected };
        let family = self.family.ok_or(missing("model_type", MODEL_TYPES))?;
        // Without tensors to tell, most of the published AR networks are plain and the others are not.
        let conditioned = self.conditioned.or_else(|| self.claims.ada_ln());
        let conditioned =
            conditioned.unwrap_or(family != Family::Ar && self.cond_dim.is_some_and(|c| c > 0));
        let vocab_size = self.vocab_size.ok_or(missing(
            "vocab_size",
            "the number of token embeddings, mask included",
        ))?;
        let config = ModelConfig {
            family,
            hidden: self.hidden.ok_or(missing(
                "hidden_size (or hidden_dim)",
                "the width of the model",
            ))?,
            cond_dim: match conditioned {
                false => 0,
                true => self
                    .cond_dim
                    .ok_or(missing("cond_dim", "the width of the conditioning vector"))?,
            },
            n_blocks: self
                .n_blocks
                .ok_or(missing("n_blocks", "the number of transformer blocks"))?,
            n_heads: self
                .n_heads
                .ok_or(missing("n_heads", "the number of attention heads"))?,
            length: self.length.ok_or(missing(
                "model_length (or length)",
                "the context length in tokens",
            ))?,
            vocab_size,
            // Published: without a mask token in the tokenizer, one is appended to the vocabulary (algo.py, AbsorbingState).
            mask_index: match self.claims.mask()? {
                // Named as it was written, which need not be "mask_index".
                Some((said, index)) if index as usize >= vocab_size => {
                    return Err(ConfigError::Contradiction {
                        first: said.into(),
                        second: format!(
                            "a token index must be below vocab_size, which is {vocab_size}"
                        ),
                        remedy:
                            "correct it, or give the configuration that belongs to these weights"
                                .into(),
                    });
                }
                Some((_, index)) => index,
                None => u32::try_from(vocab_size.saturating_sub(1)).map_err(|_| {
                    invalid(
                        "vocab_size",
                        vocab_size,
                        format!("a whole number from 2 to {MAX_VOCAB}"),
                    )
                })?,
            },
            alpha_0: self.alpha_0,
            prepend: self.prepend.unwrap_or_default(),
            bos: self.bos,
            eos: self.eos,
            more_eos: Vec::new(),
            dropout: self.dropout.unwrap_or(0.1), // the published default; inference does not use it
            attention: match family {
                Family::EsoLm => self.attention.unwrap_or(AttentionKind::Causal),
                Family::Mdlm => AttentionKind::Bidirectional,
                Family::Ar => AttentionKind::Causal,
                Family::Bd3Lm => AttentionKind::Block,
                Family::SetDlm => AttentionKind::Set,
            },
            block_size: self.block_size.filter(|_| family == Family::Bd3Lm),
            noise_range: noise_range(self.noise_range).filter(|_| family == Family::Bd3Lm),
            sets: self.sets.filter(|_| family == Family::SetDlm),
            decoder: None,
        };
        config.validate()?;
        self.claims.check(&config)?;
        Ok(config)
    }
}

const MODEL_TYPES: &str = "\"EsoLM\", \"mdlm\", \"bd3lm\", \"SetDLM\" or \"ar\"";

/// Both ends of a noise range; where only one is said, the other is the end of the published schedule.
pub(crate) fn noise_range([least, most]: [Option<f64>; 2]) -> Option<[f64; 2]> {
    let said = least.is_some() || most.is_some();
    said.then_some([least.unwrap_or(noise::EPS), most.unwrap_or(1.0)])
}

/// The family of a `model_type` or an `algo.name`, whose published spellings differ in case.
pub(crate) fn parse_family(field: &'static str, name: &str) -> Result<Family, ConfigError> {
    match name.to_ascii_lowercase().as_str() {
        "esolm" => Ok(Family::EsoLm),
        "mdlm" => Ok(Family::Mdlm),
        "ar" => Ok(Family::Ar),
        "bd3lm" => Ok(Family::Bd3Lm),
        "setdlm" => Ok(Family::SetDlm),
        _ => Err(unknown_family(field, name)),
    }
}

/// What is said of models of the same code that are not run, by the beginning of their names.
const OTHER_KINDS: [(&str, &str); 3] = [
    (
        "duo",
        "Duo diffuses to uniform noise with a live time input, which is another kind of model",
    ),
    (
        "sedd",
        "SEDD predicts ratios of probabilities instead of tokens, which is another kind of model",
    ),
    (
        "d3pm",
        "D3PM goes through a fixed number of times, each with a step of its own, which is another kind of model",
    ),
];

/// What is said of a kind of model that is not run.
pub(crate) fn other_kind(name: &str) -> Option<&'static str> {
    let name = name.to_ascii_lowercase();
    let kind = |(start, _): &&(&str, &str)| name.starts_with(start);
    OTHER_KINDS.iter().find(kind).map(|(_, why)| *why)
}

fn unknown_family(field: &'static str, name: &str) -> ConfigError {
    let why = other_kind(name).map_or(String::new(), |why| format!("; {why}"));
    let names = match field {
        "algo.name" => MODEL_TYPES.to_lowercase(),
        "model_type" => format!("{MODEL_TYPES}, or {}", decoder::MODEL_TYPES),
        _ => MODEL_TYPES.into(),
    };
    invalid(field, format!("\"{}\"", shorten(name)), names + &why)
}

/// Takes the second statement where the first is missing, and compares where neither is.
fn settle<T: Copy + PartialEq + fmt::Display>(
    [first, second]: [&str; 2],
    given: &mut Option<T>,
    own: Option<T>,
) -> Result<(), ConfigError> {
    match (*given, own) {
        (Some(given), Some(own)) if given != own => Err(ConfigError::Contradiction {
            first: format!("{first} is {given}"),
            second: format!("{second} is {own}"),
            remedy: "give the configuration that belongs to these weights".into(),
        }),
        _ => {
            *given = given.or(own);
            Ok(())
        }
    }
}

/// `algo.diffusion_attn_mode` of the published configuration.
pub(crate) fn parse_attention(text: &str) -> Result<AttentionKind, ConfigError> {
    match text {
        "causal" => Ok(AttentionKind::Causal),
        "bidirectional" => Ok(AttentionKind::Bidirectional),
        "mixed" | "mixed2" => Ok(AttentionKind::Mixed),
        other => Err(invalid(
            "diffusion_attn_mode",
            format!("\"{}\"", shorten(other)),
            "\"causal\", \"bidirectional\", \"mixed\" or \"mixed2\"",
        )),
    }
}

/// `algo.prepend_token` of the published configuration.
pub(crate) fn parse_prepend(text: &str) -> Result<Prepend, ConfigError> {
    match text {
        "none" => Ok(Prepend::None),
        "bos" => Ok(Prepend::Bos),
        "mask" => Ok(Prepend::Mask),
        other => Err(invalid(
            "prepend_token",
            format!("\"{}\"", shorten(other)),
            "\"none\", \"bos\" or \"mask\"",
        )),
    }
}

/// Takes `found` from a tensor where the configuration is silent, and compares where it is not.
fn agree(
    field: &'static str,
    said: &mut Option<usize>,
    found: usize,
    tensor: &str,
) -> Result<(), ConfigError> {
    match *said {
        Some(value) if value != found => Err(ConfigError::Contradiction {
            first: format!("the configuration's field \"{field}\" is {value}"),
            second: format!("the shape of tensor {tensor} makes it {found}"),
            remedy: "give the configuration that belongs to these weights".into(),
        }),
        _ => {
            *said = Some(found);
            Ok(())
        }
    }
}

/// The classes that load the model in other programs, with the field that names them.
pub(super) fn classes(map: &Map<String, Value>) -> impl Iterator<Item = (&'static str, &str)> {
    let listed = present(map, "architectures").and_then(Value::as_array);
    let listed = listed
        .into_iter()
        .flatten()
        .map(|name| ("architectures", name));
    let mapped = present(map, "auto_map").and_then(Value::as_object);
    let mapped = mapped
        .into_iter()
        .flatten()
        // Of tokenizers and the like nothing follows.
        .filter(|(of, _)| of.starts_with("AutoModel") || of.starts_with("AutoConfig"))
        .map(|(_, name)| ("auto_map", name));
    // With its module, and that with its repository.
    listed.chain(mapped).filter_map(move |(field, name)| {
        let name = name.as_str()?;
        Some((field, name.rsplit('.').next().unwrap_or(name)))
    })
}
