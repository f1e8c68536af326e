//! What a configuration says about its network beside sizes, and whether that is what will be computed.

use std::fmt;

use super::fields::Figure;
use super::partial::other_kind;
use super::{AttentionKind, ConfigError, Family, ModelConfig, ROTARY_BASE};
use crate::message::shorten;

/// Fields at the top of a configuration and in the sections where such fields are put.
macro_rules! places {
    ($($name:literal),+) => {
        &[$(
            $name,
            concat!("algo.", $name),
            concat!("model.", $name),
            concat!("backbone.", $name),
            concat!("backbone_config.", $name),
            concat!("tokenizer.", $name),
            concat!("tokenizer_config.", $name),
            concat!("tokenization_config.", $name),
            concat!("generation_config.", $name),
        )+]
    };
}

const TIME: &[&str] = places!("time_conditioning");
const ADA_LN: &[&str] = places!("adaLN", "adaln");
const CAUSAL: &[&str] = places!("causal", "causal_attention");
const PARAMETERIZATION: &[&str] = places!("parameterization");
const MASK: &[&str] = places!("mask_index", "mask_token_id", "mask_id");
const DIFFUSION: &[&str] = places!("diffusion", "diffusion_type");
const ROTARY: &[&str] = places!("rope_theta", "rope_parameters.rope_theta");
/// What may be said of stretched rotary angles; its kind is named rather than the whole of it.
const STRETCHED: &[&str] = places!(
    "rope_scaling.rope_type",
    "rope_scaling.type",
    "rope_scaling"
);

/// A value of a configuration, in whichever form it was written.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Scalar {
    Truth(bool),
    Number(f64),
    Text(String),
    /// Anything else, described.
    Other(String),
}

impl Scalar {
    /// Truth in any of its spellings: configurations pass through YAML, command lines and JSON.
    fn truth(&self) -> Option<bool> {
        match self {
            Self::Truth(value) => Some(*value),
            Self::Number(value) => Some(*value != 0.0),
            Self::Text(text) => match text.trim().to_ascii_lowercase().as_str() {
                "true" | "yes" | "on" | "1" => Some(true),
                "false" | "no" | "off" | "0" | "" => Some(false),
                _ => None,
            },
            Self::Other(_) => None,
        }
    }

    fn number(&self) -> Option<f64> {
        match self {
            Self::Number(value) => Some(*value),
            Self::Text(text) => text.trim().parse().ok(),
            _ => None,
        }
    }

    fn token(&self) -> Option<u32> {
        match *self {
            Self::Number(value)
                if value.fract() == 0.0 && (0.0..=4294967295.0).contains(&value) =>
            {
                Some(value as u32)
            }
            _ => None,
        }
    }
}

impl fmt::Display for Scalar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Truth(value) => write!(f, "{value}"),
            Self::Number(value) => Figure(*value).fmt(f),
            Self::Text(text) => write!(f, "\"{}\"", shorten(text)),
            Self::Other(what) => f.write_str(what),
        }
    }
}

/// One statement, and where it stands.
#[derive(Debug, Clone, PartialEq)]
struct Claim {
    /// The statement with its source, as half a sentence.
    said: String,
    what: What,
}

#[derive(Debug, Clone, PartialEq)]
enum What {
    Mask(u32),
    /// The time input is live.
    Time,
    /// Whether the network has adaLN layers.
    AdaLn(bool),
    Causal(bool),
    Parameterization(String),
    /// The noise that diffusion ends in is not the mask.
    OtherNoise,
    /// Base of the rotary angles.
    RotaryBase(f64),
    /// Rotary angles that are not those of the base alone.
    Stretched,
}

/// Everything that was said.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Claims(Vec<Claim>);

impl Claims {
    /// Collects what `value`, which looks up a dotted path in the configuration `source`, says.
    pub fn read(
        source: &str,
        value: impl Fn(&'static str) -> Option<Scalar>,
    ) -> Result<Self, ConfigError> {
        let mut claims = Self::default();
        let found = |paths: &'static [&'static str]| {
            paths
                .iter()
                .filter_map(|&path| Some((path, value(path)?)))
                .collect::<Vec<_>>()
        };
        let said = |path: &str, value: &Scalar| format!("\"{path}\" of {source} is {value}");
        let invalid = |path, value: &Scalar, expected| super::invalid(path, value, expected);
        for (path, value) in found(TIME) {
            let live = value.truth();
            if live.ok_or_else(|| invalid(path, &value, "true or false"))? {
                claims.push(said(path, &value), What::Time);
            }
        }
        for (path, value) in found(ADA_LN) {
            let wanted = value.truth();
            let wanted = wanted.ok_or_else(|| invalid(path, &value, "true or false"))?;
            claims.push(said(path, &value), What::AdaLn(wanted));
        }
        for (path, value) in found(CAUSAL) {
            let causal = value.truth();
            let causal = causal.ok_or_else(|| invalid(path, &value, "true or false"))?;
            claims.push(said(path, &value), What::Causal(causal));
        }
        for (path, value) in found(PARAMETERIZATION) {
            let Scalar::Text(name) = &value else {
                return Err(invalid(path, &value, "a text in quotes"));
            };
            claims.push(
                said(path, &value),
                What::Parameterization(name.to_lowercase()),
            );
        }
        for (path, value) in found(DIFFUSION) {
            if let Scalar::Text(name) = &value
                && ["uniform", "gaussian"]
                    .iter()
                    .any(|other| name.to_lowercase().contains(other))
            {
                claims.push(said(path, &value), What::OtherNoise);
            }
        }
        for (path, value) in found(ROTARY) {
            let base = value.number();
            let base = base.ok_or_else(|| invalid(path, &value, "a number"))?;
            claims.push(said(path, &value), What::RotaryBase(base));
        }
        let is_plain = |kind: &Scalar| matches!(kind, Scalar::Text(name) if name == "default");
        let stretched = found(STRETCHED);
        if let Some((path, value)) = stretched.first()
            && !stretched.iter().any(|(_, kind)| is_plain(kind))
        {
            claims.push(said(path, value), What::Stretched);
        }
        claims.extend(Self::read_mask(source, value)?);
        Ok(claims)
    }

    /// As [`Claims::read`], of the mask alone.
    pub fn read_mask(
        source: &str,
        value: impl Fn(&'static str) -> Option<Scalar>,
    ) -> Result<Self, ConfigError> {
        let mut claims = Self::default();
        for &path in MASK {
            let Some(value) = value(path) else { continue };
            let expected = "a token index, that is a whole number";
            let token = value.token();
            let token = token.ok_or_else(|| super::invalid(path, &value, expected))?;
            claims.mask_is(format!("\"{path}\" of {source} is {value}"), token);
        }
        Ok(claims)
    }

    fn push(&mut self, said: String, what: What) {
        self.0.push(Claim { said, what });
    }

    /// Adds that the mask token has this index; `said` is where that stands, as half a sentence.
    pub fn mask_is(&mut self, said: String, index: u32) {
        self.push(said, What::Mask(index));
    }

    /// Adds what another source says.
    pub fn extend(&mut self, other: Self) {
        self.0.extend(other.0);
    }

    /// The mask index and where it stands, where all who speak of it agree; `None` where nobody does.
    pub fn mask(&self) -> Result<Option<(&str, u32)>, ConfigError> {
        let mut masks = self.0.iter().filter_map(|claim| match claim.what {
            What::Mask(index) => Some((&claim.said, index)),
            _ => None,
        });
        let Some((first, index)) = masks.next() else {
            return Ok(None);
        };
        match masks.find(|&(_, other)| other != index) {
            None => Ok(Some((first, index))),
            Some((second, _)) => Err(ConfigError::Contradiction {
                first: first.clone(),
                second: second.clone(),
                remedy: "correct the one that is wrong".into(),
            }),
        }
    }

    /// Whether the network is said to have adaLN layers, by anybody.
    pub fn ada_ln(&self) -> Option<bool> {
        let said = self.0.iter().filter_map(|claim| match claim.what {
            What::AdaLn(wanted) => Some(wanted),
            _ => None,
        });
        said.reduce(|one, other| one || other)
    }

    /// Compares what was said with the network as it will be computed.
    pub fn check(&self, config: &ModelConfig) -> Result<(), ConfigError> {
        let family = config.family;
        for claim in &self.0 {
            let (holds, computed) = match &claim.what {
                What::Mask(_) => continue,
                // The published scripts set it for AR models too, most of which have no time input.
                What::Time => (
                    config.cond_dim == 0,
                    "only networks whose time input is constant (time_conditioning false) can be run".into(),
                ),
                // Published BD3-LMs say false and have it.
                What::AdaLn(wanted) => (
                    !wanted || config.cond_dim > 0,
                    "the weights have none of its tensors (sigma_map, adaLN_modulation)".into(),
                ),
                // The published Eso-LM says false there and has its own switches.
                What::Causal(false) if family == Family::EsoLm => continue,
                What::Causal(causal) => (
                    *causal == (config.attention == AttentionKind::Causal),
                    format!("the attention of this {family} is {}", config.attention),
                ),
                What::Parameterization(name) => {
                    let own = if family == Family::Ar { "ar" } else { "subs" };
                    let why = other_kind(name).map_or(String::new(), |why| format!("; {why}"));
                    (name == own, format!("that of an {family} is \"{own}\"{why}"))
                }
                // Nothing diffuses in an AR model.
                What::OtherNoise => (
                    family == Family::Ar,
                    "only models that diffuse to the mask can be run; those that diffuse to other noise, as Duo does to uniform noise, \
                     are another kind of model"
                        .into(),
                ),
                What::RotaryBase(base) => (
                    *base == ROTARY_BASE,
                    format!("the rotary angles are computed with base {ROTARY_BASE}"),
                ),
                What::Stretched => (
                    false,
                    format!("the rotary angles are computed with base {ROTARY_BASE} and not scaled"),
                ),
            };
            if !holds {
                return Err(ConfigError::Contradiction {
                    first: claim.said.clone(),
                    second: computed,
                    remedy: "give a model of that kind, or the configuration that belongs to these weights".into(),
                });
            }
        }
        Ok(())
    }
}

/// The indices of a vocabulary that neither have a token nor are the mask: padding, which networks are given for round sizes.
pub(crate) fn unused_tokens(
    tokens: impl Iterator<Item = u32>,
    vocab_size: usize,
    mask: u32,
) -> Vec<u32> {
    let mut used = vec![false; vocab_size];
    for index in tokens.chain([mask]) {
        if let Some(used) = used.get_mut(index as usize) {
            *used = true;
        }
    }
    (0u32..)
        .zip(used)
        .filter_map(|(index, used)| (!used).then_some(index))
        .collect()
}

/// Which of a tokenizer's tokens are its mask by their names: those called as mask tokens mostly are (`[MASK]`, `<mask>`, `<|mask|>`),
/// or else the only special one with "mask" in its name. `tokens` are names and indices, and whether the token is special; a token may
/// come more than once.
///
/// # Errors
/// Two names, where several special tokens have "mask" in theirs and none is called as mask tokens mostly are.
pub fn mask_tokens<'a>(
    tokens: impl Iterator<Item = (&'a str, u32, bool)>,
) -> Result<Vec<(&'a str, u32)>, [&'a str; 2]> {
    let (mut called, mut similar) = (Vec::new(), Vec::new());
    for (name, index, special) in tokens {
        if is_mask_name(name) {
            called.push((name, index));
        } else if special && name.to_ascii_lowercase().contains("mask") {
            similar.push((name, index));
        }
    }
    for list in [&mut called, &mut similar] {
        list.sort_unstable();
        list.dedup();
    }
    match (&called[..], &similar[..]) {
        ([], [(first, _), (second, _), ..]) => Err([first, second]),
        ([], _) => Ok(similar),
        _ => Ok(called),
    }
}

fn is_mask_name(name: &str) -> bool {
    let bare = name.trim_matches(|c| "[]<>|{}".contains(c));
    bare.len() + 2 <= name.len()
        && ["mask", "mask_token"].contains(&bare.to_ascii_lowercase().as_str())
}
