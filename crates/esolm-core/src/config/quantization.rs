//! How the accompanying weights are quantised, in MLX's format: the object `quantization`.
//!
//! ```json
//! "quantization": {"group_size": 32, "bits": 4, "backbone.vocab_embed": {"group_size": 32, "bits": 8}}
//! ```
//!
//! An entry that is an object applies to the module of that name only; an entry that is false marks the module as not
//! quantised.

use std::collections::BTreeMap;
use std::fmt;

use serde_json::{Map, Value, json};

use super::fields::{present, shown};
use super::{ConfigError, invalid};
use crate::message::shorten;

/// Name of the field.
pub(super) const FIELD: &str = "quantization";
/// Name under which newer MLX versions repeat the field, and under which other programs store their own format.
const TWIN: &str = "quantization_config";

/// A quantisation format: codes in groups that share a scale and an offset, with weight = scale x code + offset.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Grid {
    /// Bits per code: 4 or 8.
    pub bits: usize,
    /// Codes per group, adjacent along the inputs: 32, 64 or 128.
    pub group: usize,
}

impl fmt::Display for Grid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bits in groups of {}", self.bits, self.group)
    }
}

/// The field of [`Quantization::parameters`].
const PARAMETERS: &str = "parameters";

/// Which weights are quantised, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Quantization {
    /// Format of modules without an entry.
    pub rest: Grid,
    /// Format by module name, as written; `None` for modules that are not quantised.
    pub modules: BTreeMap<String, Option<Grid>>,
    /// Values of all weights before they were quantised, and with that perhaps folded, where that is told.
    pub parameters: Option<u64>,
}

impl Quantization {
    /// Reads it from a configuration.
    pub(super) fn read(map: &Map<String, Value>) -> Result<Option<Self>, ConfigError> {
        let object = |field: &'static str| match present(map, field) {
            None => Ok(None),
            Some(Value::Object(object)) => Ok(Some(object)),
            Some(other) => Err(invalid(field, shown(other), "an object")),
        };
        // In files of other programs this field describes an intended or a different quantisation, which does not apply
        // here.
        let twin = object(TWIN)?;
        if let Some(method) = twin.and_then(|twin| twin.get("quant_method"))
            && method != "mlx"
        {
            return Err(invalid(
                "quantization_config.quant_method",
                shown(method),
                "left out, since only the affine groups of MLX are read",
            ));
        }
        let twin = twin.filter(|twin| twin.contains_key("bits"));
        match (object(FIELD)?, twin) {
            (Some(own), Some(twin)) if !Self::of(own)?.agrees(&Self::of(twin)?) => {
                Err(ConfigError::Contradiction {
                    first: format!("the configuration's object \"{FIELD}\" says one thing"),
                    second: format!("its object \"{TWIN}\" another"),
                    remedy: "remove the wrong one".into(),
                })
            }
            (own, twin) => own.or(twin).map(Self::of).transpose(),
        }
    }

    fn of(object: &Map<String, Value>) -> Result<Self, ConfigError> {
        let mut modules = BTreeMap::new();
        let rest = grid(object, "")?;
        for (name, value) in object {
            let entry = match value {
                Value::Object(entry) => Some(grid(entry, name)?),
                Value::Bool(true) => Some(rest),
                Value::Bool(false) => None,
                _ => continue,
            };
            modules.insert(name.clone(), entry);
        }
        Ok(Self {
            rest,
            modules,
            parameters: present(object, PARAMETERS).map(count).transpose()?,
        })
    }

    /// Whether both say the same of what is stored.
    fn agrees(&self, other: &Self) -> bool {
        self.rest == other.rest && self.modules == other.modules
    }

    /// The JSON object, which [`super::ModelConfig::from_json`] reads back.
    pub(super) fn to_json(&self) -> Value {
        let grid = |grid: &Grid| json!({"group_size": grid.group, "bits": grid.bits});
        let mut object = grid(&self.rest);
        for (name, entry) in &self.modules {
            object[name] = entry.as_ref().map_or(Value::Bool(false), grid);
        }
        if let Some(parameters) = self.parameters {
            object[PARAMETERS] = parameters.into();
        }
        object
    }
}

/// A number of weights; larger ones could not be written exactly.
fn count(value: &Value) -> Result<u64, ConfigError> {
    let count = value.as_u64().filter(|count| (1..=1 << 53).contains(count));
    count.ok_or_else(|| {
        invalid(
            "quantization.parameters",
            shown(value),
            "the number of weights before they were quantised, or left out",
        )
    })
}

/// The format in an object, for the module of that name; an empty name means all other modules.
fn grid(object: &Map<String, Value>, module: &str) -> Result<Grid, ConfigError> {
    let found = |value: &Value| match module {
        "" => shown(value),
        module => format!("{} for \"{}\"", shown(value), shorten(module)),
    };
    match present(object, "mode") {
        None => {}
        Some(mode) if mode == "affine" => {}
        Some(mode) => {
            return Err(invalid("quantization.mode", found(mode), "\"affine\""));
        }
    }
    let number = |name: &str, field: &'static str, expected: &'static str, allowed: &[usize]| {
        let value = present(object, name).ok_or(ConfigError::Missing { field, expected })?;
        let number = value.as_u64().and_then(|n| usize::try_from(n).ok());
        let number = number.filter(|number| allowed.contains(number));
        number.ok_or_else(|| invalid(field, found(value), expected))
    };
    Ok(Grid {
        bits: number("bits", "quantization.bits", "4 or 8", &[4, 8])?,
        group: number(
            "group_size",
            "quantization.group_size",
            "32, 64 or 128",
            &[32, 64, 128],
        )?,
    })
}
