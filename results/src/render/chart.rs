//! One kind of chart: points and lines over two axes, with a legend beside them. Readable on white and on dark pages (it brings its own
//! white), and without colour (each series has a shape of its own).

use std::ops::Range;

use plotters::coord::Shift;
use plotters::coord::ranged1d::{KeyPointHint, NoDefaultFormatting, Ranged, ValueFormatter};
use plotters::element::DashedPathElement;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use crate::failure::Error;

/// Colours that stay apart for colour-blind readers (Okabe and Ito); its yellow is too pale for white.
pub const COLOURS: [RGBColor; 7] = [
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

/// The form of a marker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// Filled circle.
    Circle,
    /// Filled square.
    Square,
    /// Filled triangle.
    Triangle,
    /// Cross.
    Cross,
    /// Open circle.
    Ring,
    /// Open square.
    Box,
}

/// Shapes in the order of [`COLOURS`].
pub const SHAPES: [Shape; 6] = [
    Shape::Square,
    Shape::Triangle,
    Shape::Circle,
    Shape::Ring,
    Shape::Box,
    Shape::Cross,
];

/// An axis.
#[derive(Debug, Clone)]
pub struct Axis {
    /// Its name with the unit.
    pub title: &'static str,
    /// Whether it is logarithmic.
    pub log: bool,
}

/// A series of points.
#[derive(Debug, Clone)]
pub struct Series {
    /// Name in the legend.
    pub title: String,
    /// Its colour.
    pub colour: RGBColor,
    /// Its marker.
    pub shape: Shape,
    /// Whether its line is broken.
    pub dashed: bool,
    /// The points, in the order of the line.
    pub points: Vec<(f64, f64)>,
    /// Small text beside the points, empty where there is none.
    pub labels: Vec<String>,
}

/// Draws a chart as SVG.
///
/// # Errors
/// [`Error::Plot`] where there is no point, or a logarithmic axis has one that is not positive.
pub fn draw(title: &str, x: &Axis, y: &Axis, series: &[Series]) -> Result<String, Error> {
    let plot = |error: &dyn std::fmt::Display| Error::Plot(format!("{title}: {error}"));
    let points = || series.iter().flat_map(|one| &one.points);
    let across = Scale::new(x.log, points().map(|point| point.0))
        .ok_or_else(|| plot(&"its x axis has no usable point"))?;
    let up = Scale::new(y.log, points().map(|point| point.1))
        .ok_or_else(|| plot(&"its y axis has no usable point"))?;

    let mut svg = String::new();
    {
        let root = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
        root.fill(&WHITE).map_err(|error| plot(&error))?;
        let (left, right) = root.split_horizontally(SIZE.0 - LEGEND);
        let mut chart = ChartBuilder::on(&left)
            .caption(title, ("sans-serif", 18))
            .margin(12)
            .x_label_area_size(46)
            .y_label_area_size(58)
            .build_cartesian_2d(across, up)
            .map_err(|error| plot(&error))?;
        chart
            .configure_mesh()
            .x_desc(x.title)
            .y_desc(y.title)
            .axis_desc_style(("sans-serif", 15))
            .label_style(("sans-serif", 13))
            .light_line_style(TRANSPARENT)
            .bold_line_style(RGBColor(225, 225, 225))
            .draw()
            .map_err(|error| plot(&error))?;
        for one in series {
            let at = &one.points;
            let line = one.colour.stroke_width(2);
            if at.len() > 1 && one.dashed {
                chart
                    .draw_series(DashedLineSeries::new(at.iter().copied(), 6, 4, line))
                    .map_err(|error| plot(&error))?;
            } else if at.len() > 1 {
                chart
                    .draw_series(LineSeries::new(at.iter().copied(), line))
                    .map_err(|error| plot(&error))?;
            }
            let area = chart.plotting_area();
            for (index, point) in at.iter().enumerate() {
                let pixel = area.map_coordinate(point);
                marker(&left, one.shape, one.colour, pixel).map_err(|error| plot(&error))?;
                if let Some(label) = one.labels.get(index).filter(|label| !label.is_empty()) {
                    let style = ("sans-serif", 11)
                        .into_text_style(&left)
                        .color(&one.colour)
                        .pos(Pos::new(HPos::Left, VPos::Bottom));
                    left.draw(&Text::new(label.clone(), (pixel.0 + 5, pixel.1 - 3), style))
                        .map_err(|error| plot(&error))?;
                }
            }
        }
        legend(&right, series).map_err(|error| plot(&error))?;
        root.present().map_err(|error| plot(&error))?;
    }
    Ok(svg)
}

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type Drawn<'a> = Result<(), DrawingAreaErrorKind<<SVGBackend<'a> as DrawingBackend>::ErrorType>>;

/// A marker around a pixel.
fn marker<'a>(area: &Area<'a>, shape: Shape, colour: RGBColor, at: (i32, i32)) -> Drawn<'a> {
    let (x, y) = at;
    let square = [(x - 4, y - 4), (x + 4, y + 4)];
    match shape {
        Shape::Circle => area.draw(&Circle::new(at, 4, colour.filled())),
        Shape::Square => area.draw(&Rectangle::new(square, colour.filled())),
        Shape::Triangle => area.draw(&TriangleMarker::new(at, 6, colour.filled())),
        Shape::Cross => area.draw(&Cross::new(at, 4, colour.stroke_width(2))),
        Shape::Ring => {
            area.draw(&Circle::new(at, 4, WHITE.filled()))?;
            area.draw(&Circle::new(at, 4, colour.stroke_width(2)))
        }
        Shape::Box => {
            area.draw(&Rectangle::new(square, WHITE.filled()))?;
            area.draw(&Rectangle::new(square, colour.stroke_width(2)))
        }
    }
}

/// The names of the series, one below the other.
fn legend<'a>(area: &Area<'a>, series: &[Series]) -> Drawn<'a> {
    for (index, one) in series.iter().enumerate() {
        let y = 56 + 24 * index as i32;
        let ends = [(4, y), (34, y)];
        let style = one.colour.stroke_width(2);
        if one.dashed {
            area.draw(&DashedPathElement::new(ends, 6, 4, style))?;
        } else {
            area.draw(&PathElement::new(ends, style))?;
        }
        marker(area, one.shape, one.colour, (19, y))?;
        let text = ("sans-serif", 14)
            .into_text_style(area)
            .pos(Pos::new(HPos::Left, VPos::Center));
        area.draw(&Text::new(one.title.clone(), (42, y), text))?;
    }
    Ok(())
}

/// An axis with its ends and ticks, all in its own numbers: the values, or their logarithms.
#[derive(Debug, Clone, PartialEq)]
struct Scale {
    log: bool,
    low: f64,
    high: f64,
    ticks: Vec<f64>,
}

impl Scale {
    /// An axis that holds all values with some room at both ends. `None` where there is no finite value, or one that has no logarithm.
    fn new(log: bool, values: impl Iterator<Item = f64>) -> Option<Self> {
        let mut range = (f64::INFINITY, f64::NEG_INFINITY);
        for value in values {
            let value = if log { value.log10() } else { value };
            if !value.is_finite() {
                return None;
            }
            range = (range.0.min(value), range.1.max(value));
        }
        let (low, high) = range;
        if low > high {
            return None;
        }
        let room = match high - low {
            0.0 => 0.5,
            width => width * 0.06,
        };
        let (low, high) = (low - room, high + room);
        let ticks = match log {
            true => log_ticks(low, high),
            false => even_ticks(low, high),
        };
        Some(Self {
            log,
            low,
            high,
            ticks,
        })
    }

    fn place(&self, value: f64) -> f64 {
        match self.log {
            true => value.log10(),
            false => value,
        }
    }

    fn value(&self, at: f64) -> f64 {
        match self.log {
            true => 10f64.powf(at),
            false => at,
        }
    }

    fn label(&self, at: f64) -> String {
        let value = self.value(at);
        // As many decimals as tell neighbours apart; zeros at the end say nothing on a logarithmic axis.
        if self.log {
            let decimals = 2.0 - value.log10().floor().min(0.0);
            let text = format!("{value:.*}", decimals as usize);
            return text.trim_end_matches('0').trim_end_matches('.').into();
        }
        let step = self.ticks.get(1).map_or(1.0, |tick| tick - self.ticks[0]);
        let decimals = (-(step + 1e-12).log10().floor()).max(0.0);
        format!("{value:.*}", decimals as usize)
    }
}

impl Ranged for Scale {
    type FormatOption = NoDefaultFormatting;
    type ValueType = f64;

    fn map(&self, value: &f64, limit: (i32, i32)) -> i32 {
        let share = (self.place(*value) - self.low) / (self.high - self.low);
        limit.0 + (share * f64::from(limit.1 - limit.0)).round() as i32
    }

    fn key_points<Hint: KeyPointHint>(&self, _: Hint) -> Vec<f64> {
        self.ticks.iter().map(|&tick| self.value(tick)).collect()
    }

    fn range(&self) -> Range<f64> {
        self.value(self.low)..self.value(self.high)
    }
}

impl ValueFormatter<f64> for Scale {
    fn format_ext(&self, value: &f64) -> String {
        self.label(self.place(*value))
    }
}

/// 1, 2 and 5 times powers of ten, or more of them where few fit.
fn log_ticks(low: f64, high: f64) -> Vec<f64> {
    let of = |steps: &[f64]| -> Vec<f64> {
        (low.floor() as i32..=high.ceil() as i32)
            .flat_map(|power| {
                steps
                    .iter()
                    .map(move |step| step.log10() + f64::from(power))
            })
            .filter(|tick| (low..=high).contains(tick))
            .collect()
    };
    let few = of(&[1.0, 2.0, 5.0]);
    match few.len() {
        0..=1 => even_ticks(10f64.powf(low), 10f64.powf(high))
            .into_iter()
            .map(f64::log10)
            .collect(),
        2..=3 => of(&[1.0, 1.2, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0]),
        4..=9 => few,
        _ => of(&[1.0]),
    }
}

/// About six round steps.
fn even_ticks(low: f64, high: f64) -> Vec<f64> {
    let rough = (high - low) / 6.0;
    let power = 10f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0]
        .map(|step| step * power)
        .into_iter()
        .find(|step| *step >= rough)
        .unwrap_or(rough);
    ((low / step).ceil() as i64..=(high / step).floor() as i64)
        .map(|count| count as f64 * step)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn series(points: &[(f64, f64)]) -> Series {
        Series {
            title: "a series & more".into(),
            colour: COLOURS[1],
            shape: Shape::Triangle,
            dashed: false,
            points: points.into(),
            labels: Vec::new(),
        }
    }

    #[test]
    fn ticks_are_round_and_inside() {
        assert_eq!(even_ticks(0.3, 6.1), [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
        let scale = Scale::new(true, [0.01, 100.0].into_iter()).expect("positive");
        let labels: Vec<String> = scale.ticks.iter().map(|&at| scale.label(at)).collect();
        assert_eq!(labels, ["0.01", "0.1", "1", "10", "100"]);
        let scale = Scale::new(true, [20.0, 150.0].into_iter()).expect("positive");
        assert!(scale.ticks.len() >= 3);
        let scale = Scale::new(true, [0.014, 0.024].into_iter()).expect("positive");
        let labels: Vec<String> = scale.ticks.iter().map(|&at| scale.label(at)).collect();
        assert_eq!(
            labels,
            ["0.014", "0.016", "0.018", "0.02", "0.022", "0.024"]
        );
        let scale = Scale::new(false, [3.0, 3.4].into_iter()).expect("finite");
        assert_eq!(scale.label(3.2), "3.2");
    }

    #[test]
    fn charts_hold_titles_legend_and_background() {
        let x = Axis {
            title: "seconds a sample",
            log: true,
        };
        let y = Axis {
            title: "perplexity",
            log: false,
        };
        let svg = draw("A title", &x, &y, &[series(&[(0.1, 3.0), (1.0, 2.0)])]).expect("drawn");
        for text in [
            "A title",
            "seconds a sample",
            "perplexity",
            "a series &amp; more",
            "#FFFFFF",
            "#D55E00",
        ] {
            assert!(svg.contains(text), "{text}");
        }
        assert_eq!(
            svg,
            draw("A title", &x, &y, &[series(&[(0.1, 3.0), (1.0, 2.0)])]).expect("drawn")
        );
    }

    #[test]
    fn what_has_no_place_is_refused() {
        let axis = Axis {
            title: "x",
            log: true,
        };
        assert!(draw("t", &axis, &axis, &[]).is_err());
        assert!(draw("t", &axis, &axis, &[series(&[(0.0, 1.0)])]).is_err());
        assert!(draw("t", &axis, &axis, &[series(&[(1.0, f64::NAN)])]).is_err());
    }
}
