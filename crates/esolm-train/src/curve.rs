//! A plot of the losses over the number of tokens.

use plotters::prelude::*;

use crate::Line;

/// Blue and orange that colour-blind readers can distinguish (Okabe and Ito).
const TRAINING: RGBColor = RGBColor(0, 114, 178);
const VALIDATION: RGBColor = RGBColor(213, 94, 0);

/// An SVG of a log's training and validation losses. A log may have been edited by hand; losses so large that the axis
/// would overflow, which makes `plotters` look for ticks forever, are left out.
pub fn svg(lines: &[Line]) -> String {
    let drawable = |loss: f64| loss.abs() < 1e9;
    let training: Vec<(f64, f64)> = lines
        .iter()
        .filter_map(|line| match line {
            Line::Train { tokens, loss, .. } if drawable(*loss) => {
                Some((*tokens as f64 / 1e6, *loss))
            }
            _ => None,
        })
        .collect();
    let validation: Vec<(f64, f64)> = lines
        .iter()
        .filter_map(|line| match line {
            Line::Validation { tokens, loss, .. } if drawable(*loss) => {
                Some((*tokens as f64 / 1e6, *loss))
            }
            _ => None,
        })
        .collect();
    let mut svg = String::new();
    // Drawing into a string cannot fail; a log with fewer than two points yields an empty frame.
    let _ = draw(&mut svg, &training, &validation);
    svg
}

fn draw(
    svg: &mut String,
    training: &[(f64, f64)],
    validation: &[(f64, f64)],
) -> Result<(), Box<dyn std::error::Error>> {
    let all = || training.iter().chain(validation);
    let right = all().map(|p| p.0).fold(1e-3, f64::max);
    // The first steps would squeeze everything else to the bottom.
    let top = all()
        .filter(|p| p.0 > right * 0.02)
        .map(|p| p.1)
        .fold(0.0, f64::max);
    let bottom = all().map(|p| p.1).fold(f64::INFINITY, f64::min).min(top);
    let margin = ((top - bottom) * 0.05).max(0.01);
    let root = SVGBackend::with_string(svg, (720, 420)).into_drawing_area();
    root.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&root)
        .margin(12)
        .x_label_area_size(44)
        .y_label_area_size(56)
        .build_cartesian_2d(0.0..right, bottom - margin..top + margin)?;
    chart
        .configure_mesh()
        .x_desc("million tokens")
        .y_desc("loss, nats a token")
        .light_line_style(BLACK.mix(0.04))
        .draw()?;
    for (name, points, colour) in [
        ("training", training, TRAINING),
        ("hold-out, averaged weights", validation, VALIDATION),
    ] {
        if points.is_empty() {
            continue;
        }
        chart
            .draw_series(LineSeries::new(
                points.iter().copied(),
                colour.stroke_width(2),
            ))?
            .label(name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], colour.stroke_width(2)));
    }
    if !(training.is_empty() && validation.is_empty()) {
        chart
            .configure_series_labels()
            .background_style(WHITE.mix(0.9))
            .border_style(BLACK.mix(0.2))
            .draw()?;
    }
    root.present()?;
    Ok(())
}
