//! One kind of chart: points and lines over two axes, with a legend beside them. Readable on white and on dark pages (it brings its own
//! white), and without colour (each series has a marker of its own).

use std::fmt::Display;
use std::ops::Range;

use minijinja::{Error, ErrorKind};
use plotters::coord::ranged1d::{KeyPointHint, NoDefaultFormatting, Ranged, ValueFormatter};
use plotters::coord::types::RangedCoordf64;
use plotters::element::{DynElement, IntoDynElement};
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};
use serde::Deserialize;
use serde_json::Value;

/// Colours that colour-blind readers can tell apart (Okabe and Ito); its yellow is too pale for white.
const COLOURS: [RGBColor; 7] = [
    RGBColor(0, 0, 0),
    RGBColor(213, 94, 0),
    RGBColor(0, 114, 178),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(230, 159, 0),
    RGBColor(86, 180, 233),
];

/// Width and height of every chart, in pixels.
const SIZE: (u32, u32) = (880, 480);
/// Width of the legend.
const LEGEND: u32 = 240;

/// A chart of fields of records.
#[derive(Debug, Deserialize)]
pub struct Chart {
    title: String,
    /// What the page says below it.
    pub caption: String,
    x: Axis,
    y: Axis,
    series: Vec<Series>,
    /// The field to write beside the ends of each series, which tells the direction; more numbers would cover each other.
    label: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Axis {
    title: String,
    /// A path of names in a record, `a.b`.
    field: String,
    /// What the field is divided by.
    unit: Option<f64>,
    #[serde(default)]
    log: bool,
}

#[derive(Debug, Deserialize)]
struct Series {
    title: String,
    colour: usize,
    marker: usize,
    /// The records, in the order of the line; those without the fields are left out.
    lines: Vec<Value>,
}

impl Axis {
    fn value(&self, record: &Value) -> Option<f64> {
        let value = field(record, &self.field)?.as_f64()?;
        Some(value / self.unit.unwrap_or(1.0))
    }
}

fn field<'a>(record: &'a Value, path: &str) -> Option<&'a Value> {
    path.split('.')
        .try_fold(record, |value, name| value.get(name))
}

impl Chart {
    fn points(&self, series: &Series) -> Vec<(f64, f64)> {
        let points = series.lines.iter();
        points
            .filter_map(|line| self.x.value(line).zip(self.y.value(line)))
            .collect()
    }

    /// Whether there is something to draw.
    pub fn has_points(&self) -> bool {
        self.series
            .iter()
            .any(|series| !self.points(series).is_empty())
    }

    /// Draws it as SVG.
    ///
    /// # Errors
    /// Where there is no point, or an axis cannot show one.
    pub fn draw(&self) -> Result<String, Error> {
        let refused = |why: &dyn Display| {
            let why = format!("the plot {:?}: {why}", self.title);
            Error::new(ErrorKind::InvalidOperation, why)
        };
        let points: Vec<_> = self
            .series
            .iter()
            .flat_map(|one| self.points(one))
            .collect();
        let x = Scale::new(self.x.log, points.iter().map(|point| point.0));
        let y = Scale::new(self.y.log, points.iter().map(|point| point.1));
        let Some((x, y)) = x.zip(y) else {
            return Err(refused(&"an axis has no place for a point"));
        };
        let mut svg = String::new();
        let drawn = self.draw_on(SVGBackend::with_string(&mut svg, SIZE), x, y);
        drawn.map_err(|error| refused(&error))?;
        Ok(svg)
    }

    fn draw_on<'a>(&self, backend: SVGBackend<'a>, x: Scale, y: Scale) -> Drawn<'a> {
        let root = backend.into_drawing_area();
        root.fill(&WHITE)?;
        let (left, right) = root.split_horizontally(SIZE.0 - LEGEND);
        let mut chart = ChartBuilder::on(&left)
            .caption(&self.title, ("sans-serif", 18))
            .margin(12)
            .x_label_area_size(46)
            .y_label_area_size(58)
            .build_cartesian_2d(x, y)?;
        chart
            .configure_mesh()
            .x_desc(&self.x.title)
            .y_desc(&self.y.title)
            .axis_desc_style(("sans-serif", 15))
            .label_style(("sans-serif", 13))
            .light_line_style(TRANSPARENT)
            .bold_line_style(RGBColor(225, 225, 225))
            .draw()?;
        let text = |size: i32, colour: RGBColor| ("sans-serif", size).into_font().color(&colour);
        for (index, series) in self.series.iter().enumerate() {
            let colour = COLOURS[series.colour % COLOURS.len()];
            let style = colour.stroke_width(2);
            let marker = |x| marker(series.marker, colour, x);
            let points = self.points(series);
            chart.draw_series(LineSeries::new(points.iter().copied(), style))?;
            chart.draw_series(points.iter().map(|&at| EmptyElement::at(at) + marker(0)))?;
            let small = text(11, colour).pos(Pos::new(HPos::Left, VPos::Bottom));
            let ends = [
                (series.lines.first(), points.first()),
                (series.lines.last(), points.last()),
            ];
            chart.draw_series(ends.into_iter().filter_map(|(line, at)| {
                let label = field(line?, self.label.as_ref()?).filter(|label| !label.is_null())?;
                Some(EmptyElement::at(*at?) + Text::new(label.to_string(), (5, -3), small.clone()))
            }))?;
            let title = text(14, BLACK).pos(Pos::new(HPos::Left, VPos::Center));
            let title = Text::new(series.title.clone(), (38, 0), title);
            let line = PathElement::new([(0, 0), (30, 0)], style);
            let y = 56 + 24 * index as i32;
            right.draw(&(EmptyElement::at((4, y)) + line + marker(15) + title))?;
        }
        root.present()
    }
}

type Drawn<'a> = Result<(), DrawingAreaErrorKind<<SVGBackend<'a> as DrawingBackend>::ErrorType>>;

/// A marker `x` pixels to the right.
fn marker<'a>(
    shape: usize,
    colour: RGBColor,
    x: i32,
) -> DynElement<'static, SVGBackend<'a>, (i32, i32)> {
    let square = [(x - 4, -4), (x + 4, 4)];
    let line = colour.stroke_width(2);
    match shape % 6 {
        0 => Rectangle::new(square, colour.filled()).into_dyn(),
        1 => TriangleMarker::new((x, 0), 6, colour.filled()).into_dyn(),
        2 => Circle::new((x, 0), 4, colour.filled()).into_dyn(),
        3 => Circle::new((x, 0), 4, line).into_dyn(),
        4 => Rectangle::new(square, line).into_dyn(),
        _ => Cross::new((x, 0), 4, line).into_dyn(),
    }
}

/// An axis: its ends, which are logarithms where it is logarithmic, and its ticks.
#[derive(Debug, Clone, PartialEq)]
struct Scale {
    log: bool,
    ends: Range<f64>,
    ticks: Vec<f64>,
}

impl Scale {
    /// An axis that holds all values with some room at both ends. `None` where there is no value, or one without a place on it.
    fn new(log: bool, values: impl Iterator<Item = f64>) -> Option<Self> {
        let place = |value: f64| if log { value.log10() } else { value };
        let places: Vec<f64> = values.map(place).collect();
        let low = places.iter().copied().reduce(f64::min)?;
        let high = places.iter().copied().reduce(f64::max)?;
        let margin = if high > low { (high - low) * 0.06 } else { 0.5 };
        let ends = low - margin..high + margin;
        let powers = ends.start.floor() as i32..=ends.end.ceil() as i32;
        let of = |steps: &[f64]| -> Vec<f64> {
            let ticks = powers
                .clone()
                .flat_map(|power| steps.iter().map(move |step| step * 10f64.powi(power)));
            ticks.filter(|&tick| ends.contains(&place(tick))).collect()
        };
        // 1, 2 and 5 times powers of ten on a logarithmic axis, or the powers alone where those are many; even steps where they are few.
        let few = of(&[1.0, 2.0, 5.0]);
        let ticks = match few.len() {
            4..=9 if log => few,
            10.. if log => of(&[1.0]),
            _ => Vec::new(),
        };
        let mut scale = Self { log, ends, ticks };
        if scale.ticks.is_empty() {
            scale.ticks = RangedCoordf64::from(scale.range()).key_points(8);
        }
        places
            .iter()
            .all(|place| place.is_finite())
            .then_some(scale)
    }
}

impl Ranged for Scale {
    type FormatOption = NoDefaultFormatting;
    type ValueType = f64;

    fn map(&self, value: &f64, limit: (i32, i32)) -> i32 {
        let place = if self.log { value.log10() } else { *value };
        RangedCoordf64::from(self.ends.clone()).map(&place, limit)
    }

    fn key_points<Hint: KeyPointHint>(&self, _: Hint) -> Vec<f64> {
        self.ticks.clone()
    }

    fn range(&self) -> Range<f64> {
        match self.log {
            true => 10f64.powf(self.ends.start)..10f64.powf(self.ends.end),
            false => self.ends.clone(),
        }
    }
}

impl ValueFormatter<f64> for Scale {
    /// Three significant digits and at least one decimal, without zeros at the end.
    fn format_ext(&self, value: &f64) -> String {
        let decimals = 2.0 - value.abs().max(1e-9).log10().floor();
        let text = format!("{value:.*}", decimals.clamp(1.0, 9.0) as usize);
        text.trim_end_matches('0').trim_end_matches('.').into()
    }
}
