//! From the text of a recipe to its values: overrides, what a checkpoint to start from says in its place, and keys of another family.

use esolm::config::{Family, ModelConfig};
use toml::{Table, Value};

use super::{Recipe, is_conditioned};
use crate::TrainError;
use crate::error::Changed;
use crate::init::Source;

/// The keys of `[loss]` with the families whose loss they belong to.
const LOSS_KEYS: [(&str, &[Family]); 7] = {
    use Family::{Bd3Lm, EsoLm, Mdlm};
    [
        ("loss.alpha_0", &[EsoLm]),
        ("loss.alpha_0_range", &[EsoLm]),
        ("loss.infill", &[EsoLm]),
        ("loss.batch_split", &[EsoLm]),
        ("loss.kind", &[EsoLm, Mdlm, Bd3Lm]),
        ("loss.noise_range", &[Bd3Lm]),
        ("loss.resample", &[Bd3Lm]),
    ]
};

/// The family of a recipe that names none, and starts from no checkpoint.
pub(super) const DEFAULT: Family = Family::EsoLm;

/// What a recipe takes from elsewhere where it says nothing.
struct Taken {
    key: &'static str,
    value: Value,
    /// Whether it must not say anything else either.
    is_fixed: bool,
}

impl Recipe {
    /// Reads a recipe, with `table.key=value` overrides on top.
    ///
    /// # Errors
    /// Text that is not TOML, unknown keys, values out of range, and keys of `[loss]` that belong to another family.
    pub fn parse(text: &str, overrides: &[String]) -> Result<Self, TrainError> {
        let table = table(text, overrides)?;
        refuse_others(&table)?;
        Self::of(table)
    }

    /// As [`Recipe::parse`], for a training that starts from the weights of `source`: what describes those is taken from there, and so is, where
    /// the recipe does not say it, the family, the context and, of the same family, the size of a block or set, `loss.alpha_0` and
    /// `loss.noise_range`. A source without adaLN stays so in its own family, and as an AR model or a SetDLM.
    ///
    /// # Errors
    /// As there, and [`TrainError::SourceDiffers`] where the recipe describes other weights.
    pub fn parse_from(
        text: &str,
        overrides: &[String],
        source: &Source,
    ) -> Result<Self, TrainError> {
        let mut table = table(text, overrides)?;
        let config = source.checkpoint().config();
        if config.decoder.is_some() {
            return Err(TrainError::SourceIsDecoder(source.name().into()));
        }
        let own = config.family;
        let family = family(&table, own).unwrap_or(own);
        let changed = take(&mut table, of_source(source.name(), config, family));
        refuse_others(&table)?;
        match changed.is_empty() {
            true => Self::of(table),
            false => Err(TrainError::SourceDiffers {
                source_name: source.name().into(),
                changed,
            }),
        }
    }

    /// As [`Recipe::parse`], for a training that goes on. If it started from a checkpoint, what the recipe does not say of the network
    /// is taken from the one that it was trained by before.
    pub(crate) fn parse_after(
        text: &str,
        overrides: &[String],
        before: &Self,
    ) -> Result<Self, TrainError> {
        let mut table = table(text, overrides)?;
        if before.model.init.is_some() {
            let text = before.to_toml();
            let before: Table = text.parse().expect("it was just written");
            let keys = KEPT
                .into_iter()
                .filter_map(|key| Some((key, get(&before, key)?)));
            let taken = keys.map(|(key, value)| Taken {
                key,
                value: value.clone(),
                is_fixed: false,
            });
            take(&mut table, taken.collect());
        }
        refuse_others(&table)?;
        Self::of(table)
    }

    /// Reads a recipe that a training saved. Earlier versions wrote every key of `[loss]` out, of whatever family.
    pub(crate) fn parse_saved(text: &str, overrides: &[String]) -> Result<Self, TrainError> {
        let mut saved = table(text, &[])?;
        let family = family(&table(text, overrides)?, DEFAULT).unwrap_or(DEFAULT);
        if let Some(loss) = saved.get_mut("loss").and_then(Value::as_table_mut) {
            for key in others(family) {
                loss.remove(name(key));
            }
        }
        for assignment in overrides {
            set(&mut saved, assignment)?;
        }
        refuse_others(&saved)?;
        Self::of(saved)
    }

    /// The checkpoint that a recipe says to start from, `model.init`.
    ///
    /// # Errors
    /// Text that is not TOML, and what is no name.
    pub fn init(text: &str, overrides: &[String]) -> Result<Option<String>, TrainError> {
        match get(&table(text, overrides)?, "model.init") {
            None => Ok(None),
            Some(Value::String(name)) => Ok(Some(name.clone())),
            Some(other) => Err(TrainError::Value {
                key: "model.init".into(),
                value: other.to_string(),
                expected: "the path of a checkpoint, or hf:owner/name, as text".into(),
            }),
        }
    }

    fn of(table: Table) -> Result<Self, TrainError> {
        let parsed: Self = (table.clone().try_into()).map_err(|error| mistyped(&table, error))?;
        parsed.check()?;
        Ok(parsed)
    }

    /// The recipe with every default written out, but for keys of `[loss]` that belong to another family.
    pub fn to_toml(&self) -> String {
        let text = toml::to_string(self).expect("tables of numbers, texts and lists are TOML");
        let mut section = "";
        let mut kept = String::with_capacity(text.len());
        for line in text.lines() {
            if line.starts_with('[') {
                section = line;
            }
            let key = line.split(" = ").next();
            let is_other = others(self.model.family).any(|other| key == Some(name(other)));
            if section != "[loss]" || !is_other {
                kept += line;
                kept.push('\n');
            }
        }
        kept
    }
}

/// What a training that started from a checkpoint took from there, or was told instead.
const KEPT: [&str; 13] = [
    "model.init",
    "model.family",
    "model.hidden",
    "model.blocks",
    "model.heads",
    "model.cond_dim",
    "model.length",
    "model.block_size",
    "model.set_size",
    "model.max_set_size",
    "data.vocab_size",
    "loss.alpha_0",
    "loss.noise_range",
];

/// What a recipe of `family` takes from the source of this name.
fn of_source(source: &str, config: &ModelConfig, family: Family) -> Vec<Taken> {
    let count = |n: usize| Value::Integer(n as i64);
    let taken = |is_fixed| {
        move |(key, value)| Taken {
            key,
            value,
            is_fixed,
        }
    };
    let is_same = config.family == family;
    let has_adaln = config.cond_dim > 0;
    let fixed = [
        Some(("model.hidden", count(config.hidden))),
        Some(("model.blocks", count(config.n_blocks))),
        Some(("model.heads", count(config.n_heads))),
        has_adaln.then(|| ("model.cond_dim", count(config.cond_dim))),
        // The mask is not counted.
        Some(("data.vocab_size", count(config.vocab_size - 1))),
    ];
    let family_name = Value::try_from(config.family).expect("a text is TOML");
    let alpha_0 = config.alpha_0.filter(|_| is_same);
    let range = config.noise_range.filter(|_| is_same);
    let block_size = config.block_size.filter(|_| is_same);
    let sets = config.sets.as_ref().filter(|_| is_same);
    let default = [
        Some(("model.init", Value::String(source.into()))),
        Some(("model.family", family_name)),
        Some(("model.length", count(config.length))),
        (!has_adaln && (is_same || !is_conditioned(family))).then(|| ("model.cond_dim", count(0))),
        block_size.map(|size| ("model.block_size", count(size))),
        sets.map(|sets| ("model.set_size", count(sets.desired))),
        sets.map(|sets| ("model.max_set_size", count(sets.largest))),
        alpha_0.map(|alpha_0| ("loss.alpha_0", Value::Float(alpha_0))),
        // Published configurations have a range that begins at 0, which no time of a block is.
        range
            .filter(|[low, _]| *low > 0.0)
            .map(|range| ("loss.noise_range", Value::from(range.to_vec()))),
    ];
    let fixed = fixed.into_iter().flatten().map(taken(true));
    fixed
        .chain(default.into_iter().flatten().map(taken(false)))
        .collect()
}

/// Fills in what a recipe does not say, and gives what it says otherwise though it must not.
fn take(table: &mut Table, all: Vec<Taken>) -> Vec<Changed> {
    let mut changed = Vec::new();
    for Taken {
        key,
        value,
        is_fixed,
    } in all
    {
        match get(table, key) {
            Some(said) if is_fixed && *said != value => changed.push(Changed {
                key,
                saved: value.to_string(),
                now: said.to_string(),
            }),
            Some(_) => {}
            None => {
                let (section, name) = key.split_once('.').expect("keys have a table");
                let section = table.entry(section).or_insert_with(|| Table::new().into());
                // What is not a table is refused where the recipe is read.
                if let Some(section) = section.as_table_mut() {
                    section.insert(name.into(), value);
                }
            }
        }
    }
    changed
}

/// A key without its table.
fn name(key: &str) -> &str {
    key.rsplit('.').next().unwrap_or(key)
}

fn get<'a>(table: &'a Table, key: &str) -> Option<&'a Value> {
    let (section, name) = key.split_once('.')?;
    table.get(section)?.get(name)
}

/// The family that a table names, or the one for a table that names none; nothing where it names what is no family, which is refused when the
/// recipe is read.
fn family(table: &Table, unsaid: Family) -> Option<Family> {
    match get(table, "model.family") {
        Some(said) => said.clone().try_into().ok(),
        None => Some(unsaid),
    }
}

/// Keys that the loss of a family has no use for.
fn others(family: Family) -> impl Iterator<Item = &'static str> {
    LOSS_KEYS
        .into_iter()
        .filter_map(move |(key, families)| (!families.contains(&family)).then_some(key))
}

/// Refuses what a recipe says of the loss of another family, since it would have no effect.
fn refuse_others(table: &Table) -> Result<(), TrainError> {
    let Some(family) = family(table, DEFAULT) else {
        return Ok(());
    };
    let said = others(family).find_map(|key| Some((key, get(table, key)?)));
    match said {
        None => Ok(()),
        Some((key, value)) => Err(TrainError::Value {
            key: key.into(),
            value: value.to_string(),
            expected: format!(
                "left out, since the loss of {} does not use it",
                family.one()
            ),
        }),
    }
}

fn table(text: &str, overrides: &[String]) -> Result<Table, TrainError> {
    let text = esolm::documents::normalize(text);
    let mut table: Table = text.parse().map_err(unusable)?;
    for assignment in overrides {
        set(&mut table, assignment)?;
    }
    Ok(table)
}

fn unusable(error: toml::de::Error) -> TrainError {
    let message = error.to_string();
    TrainError::Recipe(message.split_whitespace().collect::<Vec<_>>().join(" "))
}

/// Keys whose values are lists.
const LISTS: [&str; 4] = [
    "data.train",
    "data.holdout",
    "loss.alpha_0_range",
    "loss.noise_range",
];

/// Why a table is no recipe. Of a value of another type the reader speaks of types of the program.
fn mistyped(table: &Table, error: toml::de::Error) -> TrainError {
    let message = error.to_string();
    let message: Vec<&str> = message.split_whitespace().collect();
    let message = message.join(" ");
    let place = message
        .strip_suffix('`')
        .and_then(|m| m.rsplit_once(" in `"));
    let found = place.and_then(|(why, key)| Some((why, key, get(table, key)?)));
    let Some((why, key, value)) = found else {
        return unusable(error);
    };
    let is_list = LISTS.contains(&key) && value.is_array();
    let kind = why.split_once("expected ").map_or("", |(_, kind)| kind);
    let expected = match kind {
        "usize" | "u64" | "u32" => "a whole number, 0 or more".into(),
        "f64" | "f32" if is_list => "a list of numbers".into(),
        "f64" | "f32" => "a number".into(),
        "a boolean" => "true or false".into(),
        "a string" | "string only" | "path string" if is_list => "a list of texts".into(),
        "a string" | "string only" | "path string" => "a text".into(),
        "a sequence" => "a list".into(),
        "an array of length 2" => "a list of two numbers".into(),
        names if names.contains('`') => names.replace('`', "\""),
        _ => return unusable(error),
    };
    TrainError::Value {
        key: key.to_string().into(),
        value: value.to_string(),
        expected,
    }
}

/// `table.key=value`; what is not a TOML value is a text.
fn set(table: &mut Table, assignment: &str) -> Result<(), TrainError> {
    let wrong = || TrainError::Override(assignment.into());
    let (path, value) = assignment.split_once('=').ok_or_else(wrong)?;
    let (section, key) = path.trim().split_once('.').ok_or_else(wrong)?;
    let value = value.trim();
    let value = format!("x = {value}")
        .parse::<Table>()
        .ok()
        .and_then(|mut table| table.remove("x"))
        .unwrap_or_else(|| Value::String(value.into()));
    table
        .entry(section)
        .or_insert_with(|| Table::new().into())
        .as_table_mut()
        .ok_or_else(wrong)?
        .insert(key.into(), value);
    Ok(())
}
