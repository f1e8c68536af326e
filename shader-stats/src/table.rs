//! The numbers of all forms on all chips, as the table in the repository has them, and the list of those that spill.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use crate::driver::COLUMNS;

/// How the table is written anew.
const ANEW: &str = "`cargo xtask shader-stats --write` writes it anew";
/// The columns that count spilled registers.
const SPILLED: &str = "spilled_";

/// A form of a shader, and a chip.
type Place = (String, String);

/// The numbers of every form on every chip.
pub struct Table {
    /// The driver's version.
    version: String,
    rows: BTreeMap<Place, Vec<u64>>,
}

impl Table {
    /// Reads what the processes for the chips printed: the driver's version, then a line for each form.
    ///
    /// # Errors
    /// A sentence about a line that is not such a one.
    pub fn new(printed: &[(&str, String)]) -> Result<Self, String> {
        let mut table = Self {
            version: String::new(),
            rows: BTreeMap::new(),
        };
        for (chip, text) in printed {
            let (version, lines) = text.split_once('\n').unwrap_or_default();
            table.version = version.to_string();
            for line in lines.lines() {
                let mut words = line.split('\t');
                let form = words.next().unwrap_or_default();
                let numbers: Vec<u64> = words.filter_map(|word| word.parse().ok()).collect();
                if numbers.len() != COLUMNS.len() {
                    return Err(format!(
                        "the driver's numbers for {chip} have the odd line {line:?}"
                    ));
                }
                let place = (form.to_string(), chip.to_string());
                table.rows.insert(place, numbers);
            }
        }
        Ok(table)
    }

    /// The forms that spill, with the chips on which they do.
    fn spilling(&self) -> BTreeMap<&str, Vec<&str>> {
        let mut spilling: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for ((form, chip), numbers) in &self.rows {
            let mut columns = COLUMNS.iter().zip(numbers);
            if columns.any(|(name, number)| name.starts_with(SPILLED) && *number > 0) {
                spilling.entry(form).or_default().push(chip);
            }
        }
        spilling
    }

    /// One line about it all.
    pub fn summary(&self) -> String {
        let forms: BTreeSet<_> = self.rows.keys().map(|(form, _)| form).collect();
        let chips: BTreeSet<_> = self.rows.keys().map(|(_, chip)| chip).collect();
        format!(
            "{} forms convert to MSL and HLSL and compile for {} chips with {}; {} of them spill registers",
            forms.len(),
            chips.len(),
            self.version,
            self.spilling().len()
        )
    }

    /// What is wrong with the list of forms that spill: one a line, among remarks that begin with `#`.
    pub fn against_list(&self, list: &str) -> Vec<String> {
        let lines = list.lines().map(str::trim);
        let listed: BTreeSet<&str> = lines
            .filter(|line| !line.is_empty() && !line.starts_with('#'))
            .collect();
        let spilling = self.spilling();
        let more = spilling.iter().filter(|(form, _)| !listed.contains(*form)).map(|(form, chips)| {
            let chips = chips.join(", ");
            format!("{form} spills registers on {chips} and is not on the list of forms that may; let an invocation hold fewer values")
        });
        let fewer = listed
            .iter()
            .filter(|form| !spilling.contains_key(*form))
            .map(|form| {
                format!(
                    "{form} spills no registers any more or is gone; take it off the list of forms that may"
                )
            });
        more.chain(fewer).collect()
    }

    /// Whether the table in the repository is of the same forms. Its numbers are the driver's and may be another version's.
    pub fn against_file(&self, file: &str) -> Vec<String> {
        let lines = file.lines().filter(|line| !line.starts_with('#')).skip(1);
        let places = lines.filter_map(|line| {
            let mut words = line.split('\t');
            Some((words.next()?.to_string(), words.next()?.to_string()))
        });
        let there: BTreeSet<Place> = places.collect();
        let here: BTreeSet<Place> = self.rows.keys().cloned().collect();
        let differs = here.symmetric_difference(&there).next();
        let fault = differs.map(|(form, chip)| {
            let has = if here.contains(&(form.clone(), chip.clone())) {
                "lacks"
            } else {
                "still has"
            };
            format!("the table of shader statistics {has} {form} on {chip}; {ANEW}")
        });
        fault.into_iter().collect()
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "# What the driver's compiler makes of every form of every shader; {ANEW}, and docs/testing.md explains it."
        )?;
        writeln!(f, "# {}", self.version)?;
        writeln!(f, "form\tchip\t{}", COLUMNS.join("\t"))?;
        for ((form, chip), numbers) in &self.rows {
            write!(f, "{form}\t{chip}")?;
            for number in numbers {
                write!(f, "\t{number}")?;
            }
            writeln!(f)?;
        }
        Ok(())
    }
}
