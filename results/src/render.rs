//! `cargo xtask results render`: docs/results.md, its plots, and the model card's table, from the records and the template
//! results/page.md alone. The template holds the prose, the tables and what each plot shows; here is what it calls.

pub mod chart;
pub mod verdicts;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Serde, Value};
use minijinja::{Environment, Error as PageError, UndefinedBehavior};
use serde_json::json;

use crate::error::Error;
use crate::record::{self, Records, Samples};
use chart::Chart;

/// Texts by their path below the repository's root.
pub type Files = BTreeMap<PathBuf, String>;

const TEMPLATE: &str = "results/page.md";
const PAGE: &str = "docs/results.md";
const CARD: &str = "models/stories/README.md";
/// The block of the template that goes into the model card, between these comments.
const BLOCK: &str = "comparison";
const OPEN: &str = "<!-- results:model -->\n";
const CLOSE: &str = "<!-- end of results:model -->";

/// `render`: writes [`files`].
///
/// # Errors
/// As [`files`], and [`Error::File`].
pub fn write(root: &Path) -> Result<(), Error> {
    for (path, text) in files(root)? {
        let path = root.join(path);
        record::replace(&path, text.as_bytes())?;
        eprintln!("wrote {}", path.display());
    }
    Ok(())
}

/// Every file that the records under `root` make: the page, its plots, and the model card where it has markers.
///
/// # Errors
/// A sentence about the record or file that cannot be used.
pub fn files(root: &Path) -> Result<Files, Error> {
    let records = Arc::new(Records::read(&root.join("docs/results"))?);
    let template = root.join(TEMPLATE);
    let template = fs::read_to_string(&template).map_err(Error::file("read", &template))?;
    let card = fs::read_to_string(root.join(CARD)).unwrap_or_default();
    let plots = Arc::new(Mutex::new(Files::new()));
    let environment = environment(&records, &plots)?;
    let mut page = environment
        .template_from_named_str(TEMPLATE, &template)?
        .render_captured(Serde(context(&records)))?;

    let mut files = std::mem::take(&mut *plots.lock().unwrap_or_else(PoisonError::into_inner));
    let parts = card
        .split_once(OPEN)
        .and_then(|(before, rest)| Some((before, rest.split_once(CLOSE)?.1)));
    if let Some((before, after)) = parts.filter(|_| records.model.is_some()) {
        let block = page.with_state_mut(|state| state.render_block(BLOCK))?;
        files.insert(
            CARD.into(),
            format!("{before}{OPEN}{}\n{CLOSE}{after}", block.trim()),
        );
    }
    files.insert(PAGE.into(), page.output().trim().to_string() + "\n");
    Ok(files)
}

/// The records as the template sees them: with the models of the plan, and their likelihoods of the whole hold-out, by name.
fn context(records: &Records) -> serde_json::Value {
    let mut context = json!(records);
    let models = records.setup.iter().flat_map(|setup| setup.plan.all());
    context["models"] = models
        .map(|model| (model.name.clone(), json!(model)))
        .collect();
    let whole = records.likelihood.iter().filter(|line| line.whole);
    context["whole"] = whole
        .map(|line| (line.name.clone(), json!(line.answer.report)))
        .collect();
    context
}

/// What the template may use beside the records. Filters write "-" for a figure that is none.
fn environment(
    records: &Arc<Records>,
    plots: &Arc<Mutex<Files>>,
) -> Result<Environment<'static>, PageError> {
    let mut environment = Environment::new();
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    let mut syntax = SyntaxConfig::builder();
    syntax.trim_blocks(true).lstrip_blocks(true);
    environment.set_syntax(syntax.build()?);
    environment.add_filter("short", |value: Option<f64>| dash(value, short));
    environment.add_filter("grouped", |value: Option<u64>| dash(value, grouped));
    environment.add_filter("number", |value: Option<f64>| {
        dash(value, |value| value.to_string())
    });
    environment.add_filter("fixed", |value: Option<f64>, digits: usize| {
        dash(value, |value| format!("{value:.digits$}"))
    });
    environment.add_filter("signed", |value: f64| format!("{value:+.3}"));
    environment.add_filter("ln", f64::ln);
    environment.add_filter("json", |value: Value| json!(value).to_string());

    // The likelihood of the first windows under a model at some alpha_0, and its samples.
    let of = Arc::clone(records);
    environment.add_function(
        "first_windows",
        move |name: String, alpha_0: Option<f64>, orders: u64| {
            let line = of.likelihood.iter().find(|line| {
                !line.whole
                    && line.name == name
                    && line.alpha_0 == alpha_0
                    && line.answer.report.orders == Some(orders)
            });
            Serde(line.map(|line| line.answer.report.clone()))
        },
    );
    let of = Arc::clone(records);
    environment.add_function(
        "runs",
        move |name: String, alpha_0: Option<f64>, schedule: String| {
            Value::from(Serde(verdicts::runs(&of, &name, alpha_0, &schedule)))
        },
    );
    environment.add_filter("front", |lines: Serde<Vec<Samples>>, alone: bool| {
        Value::from(Serde(verdicts::front(&lines, alone)))
    });
    environment.add_function(
        "versus",
        |ours: Serde<Vec<Samples>>, theirs: Serde<Vec<Samples>>| {
            Serde(verdicts::versus(&ours, &theirs))
        },
    );
    environment.add_filter("order", |ranked: Serde<Vec<verdicts::Ranked>>| {
        Serde(verdicts::order(&ranked))
    });
    // Draws a plot and shows it with its caption, or nothing where it has no points.
    let plots = Arc::clone(plots);
    environment.add_function(
        "plot",
        move |name: String, chart: Serde<Chart>| -> Result<String, PageError> {
            if !chart.has_points() {
                return Ok(String::new());
            }
            let mut plots = plots.lock().unwrap_or_else(PoisonError::into_inner);
            plots.insert(format!("docs/results/{name}.svg").into(), chart.draw()?);
            Ok(format!("![{}](results/{name}.svg)\n\n", chart.caption))
        },
    );
    Ok(environment)
}

fn dash<T>(value: Option<T>, text: impl Fn(T) -> String) -> String {
    value.map_or_else(|| "-".into(), text)
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
    match number / 1000 {
        0 => number.to_string(),
        thousands => format!("{},{:03}", grouped(thousands), number % 1000),
    }
}
