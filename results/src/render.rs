//! `cargo xtask results render`: docs/results.md, its plots, and the model card's table, from the records and the hand-kept notes alone.

mod chart;
mod likelihood;
mod model;
mod order;
mod samples;
mod schedules;
mod setup;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use crate::arguments::{Arguments, one};
use crate::failure::Error;
use crate::plan::Plan;
use crate::record::{self, Records};

/// Opens the part of a model card that `render` writes.
const OPEN: &str = "<!-- results:model -->";
/// Closes it.
const CLOSE: &str = "<!-- end of results:model -->";

/// Prose about the results, by section: what stands below each `## ` heading of results/notes.md.
#[derive(Debug, Default)]
pub struct Notes(BTreeMap<String, String>);

impl Notes {
    /// Cuts a text at its headings; what stands before the first is for those who edit it.
    pub fn parse(text: &str) -> Self {
        let mut notes = BTreeMap::new();
        for section in text.split("\n## ").skip(1) {
            let (heading, body) = section.split_once('\n').unwrap_or((section, ""));
            notes.insert(heading.trim().to_string(), body.trim().to_string());
        }
        Self(notes)
    }

    /// The section as a paragraph, or nothing.
    fn section(&self, heading: &str) -> String {
        match self.0.get(heading).map(String::as_str) {
            None | Some("") => String::new(),
            Some(text) => format!("{text}\n\n"),
        }
    }
}

/// Texts by their path below the repository's root.
pub type Files = BTreeMap<PathBuf, String>;

/// Every file that the records make, by its path below the repository's root.
///
/// # Errors
/// [`Error::Plot`] where a chart has no points.
pub fn files(records: &Records, notes: &Notes) -> Result<Files, Error> {
    let mut files = BTreeMap::new();
    let mut text = "# Results in miniature\n\n\
        `cargo xtask results render` makes this page, its plots and its verdicts from the records in [results](results); \
        what is hand-written stands in results/notes.md. A test holds the page to that.\n\n"
        .to_string();
    let mut plots = Vec::new();
    if let Some(setup) = &records.setup {
        let names = Names::new(&setup.plan);
        text += &setup::section(setup, records, &names);
        text += &notes.section("setup");
        text += &likelihood::section(records, &names, &mut plots)?;
        text += &notes.section("likelihood");
        text += &samples::quality(records, &names, &mut plots)?;
        text += &notes.section("samples");
        text += &schedules::section(records, &names, &mut plots)?;
        text += &notes.section("schedules");
        text += &schedules::time(records, &names);
        text += &notes.section("time");
    }
    if let Some(comparison) = &records.model {
        text += &model::section(comparison);
        text += &notes.section("model");
    }
    if let Some(setup) = &records.setup {
        let names = Names::new(&setup.plan);
        text += &schedules::examples(records, &names);
        text += &setup::commands(setup, records, &names);
    }
    files.insert("docs/results.md".into(), text.trim_end().to_string() + "\n");
    for (name, svg) in plots {
        files.insert(Path::new("docs/results").join(name), svg);
    }
    Ok(files)
}

/// The text of a model card with the comparison between its markers, or `None` where it has no markers.
pub fn card(card: &str, records: &Records) -> Option<String> {
    let comparison = records.model.as_ref()?;
    let (before, rest) = card.split_once(OPEN)?;
    let (_, after) = rest.split_once(CLOSE)?;
    Some(format!(
        "{before}{OPEN}\n{}\n{CLOSE}{after}",
        model::table(comparison).trim_end()
    ))
}

/// `render`.
///
/// # Errors
/// A sentence about the record or file that cannot be used.
pub fn command(words: &[String], root: &Path) -> Result<(), Error> {
    let arguments = Arguments::parse(words, &[one("--root")])?;
    let root = arguments.get("--root").map_or(root, Path::new);
    let (files, card) = everything(root)?;
    for (path, text) in files.into_iter().chain(card) {
        let path = root.join(path);
        record::replace(&path, &text)?;
        eprintln!("wrote {}", path.display());
    }
    Ok(())
}

/// What `render` writes under `root`: the page with its plots, and the model card where it has markers.
///
/// # Errors
/// As [`command`].
pub fn everything(root: &Path) -> Result<(Files, Option<(PathBuf, String)>), Error> {
    let records = Records::read(&root.join("docs/results"))?;
    let notes = root.join("results/notes.md");
    let notes = Notes::parse(&fs::read_to_string(&notes).map_err(Error::reading(&notes))?);
    let files = files(&records, &notes)?;
    let card_path = PathBuf::from("models/stories/README.md");
    let old = fs::read_to_string(root.join(&card_path)).unwrap_or_default();
    let card = card(&old, &records).map(|text| (card_path, text));
    Ok((files, card))
}

/// Titles, colours and shapes of the models of a plan.
#[derive(Debug)]
struct Names<'a> {
    plan: &'a Plan,
}

impl<'a> Names<'a> {
    fn new(plan: &'a Plan) -> Self {
        Self { plan }
    }

    /// The title in tables, or the name itself for a model that the plan does not know.
    fn title(&self, name: &'a str) -> &'a str {
        self.plan.model(name).map_or(name, |model| &model.title)
    }

    /// Whether it is one of the models that are compared, neither a control nor the judge.
    fn is_compared(&self, name: &str) -> bool {
        self.plan.models.iter().any(|model| model.name == name)
    }

    /// The place in the plan, which decides colour and shape.
    fn index(&self, name: &str) -> usize {
        self.plan
            .all()
            .position(|model| model.name == name)
            .unwrap_or(self.plan.models.len())
    }
}

/// A row of a Markdown table.
fn row<S: AsRef<str>>(cells: &[S]) -> String {
    let cells: Vec<&str> = cells.iter().map(AsRef::as_ref).collect();
    format!("| {} |\n", cells.join(" | "))
}

/// A Markdown table's head.
fn head(cells: &[&str]) -> String {
    row(cells) + &row(&vec!["---"; cells.len()])
}

/// Three significant digits, more for what is above 1000.
fn short(value: f64) -> String {
    let decimals = match value.abs() {
        0.0 => 0,
        size => (2.0 - size.log10().floor()).clamp(0.0, 6.0) as usize,
    };
    format!("{value:.decimals$}")
}

/// A number with commas between thousands.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A share as a percentage.
fn percent(share: f64) -> String {
    format!("{:.1} %", 100.0 * share)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notes_are_cut_at_headings() {
        let notes = Notes::parse("For editors.\n\n## a\n\ntext\nmore\n\n## b\n");
        assert_eq!(notes.section("a"), "text\nmore\n\n");
        assert_eq!(notes.section("b"), "");
        assert_eq!(notes.section("c"), "");
    }

    #[test]
    fn numbers_are_short() {
        assert_eq!(short(0.012345), "0.0123");
        assert_eq!(short(1.0), "1.00");
        assert_eq!(short(23.456), "23.5");
        assert_eq!(short(1234.5), "1234");
        assert_eq!(short(0.0), "0");
        assert_eq!(grouped(1_234_567), "1,234,567");
        assert_eq!(grouped(999), "999");
        assert_eq!(percent(0.1234), "12.3 %");
    }

    #[test]
    fn a_card_without_markers_stays() {
        assert_eq!(card("no markers", &Records::default()), None);
    }
}
