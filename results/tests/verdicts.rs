//! The verdicts of the page, and its plots.

use esolm_results::plan::Setting;
use esolm_results::record::Samples;
use esolm_results::render::chart::Chart;
use esolm_results::render::verdicts::{Ranked, front, order, versus};
use esolm_results::reports::Figure;
use serde_json::{Value, json};

fn ranked(figures: &[(&str, f64, f64)]) -> Value {
    let ranked = |&(title, published, measured): &(&str, f64, f64)| Ranked {
        title: title.into(),
        published,
        measured,
        error: 0.03,
    };
    order(&figures.iter().map(ranked).collect::<Vec<_>>())
}

#[test]
fn the_same_order_agrees_everywhere() {
    let order = ranked(&[("c", 3.0, 30.0), ("a", 1.0, 10.0), ("b", 2.0, 20.0)]);
    assert_eq!(
        (&order["pairs"], &order["differing"]),
        (&json!(3), &json!([]))
    );
    assert_eq!(
        (&order["published"], &order["measured"]),
        (&json!(["a", "b", "c"]), &json!(["a", "b", "c"]))
    );
}

#[test]
fn exchanged_pairs_are_named_with_their_distance() {
    let order = ranked(&[("a", 1.0, 1.5), ("b", 2.0, 1.0), ("c", 3.0, 1.05)]);
    let pair = |at: usize| {
        [
            &order["differing"][at]["better"],
            &order["differing"][at]["worse"],
        ]
    };
    assert_eq!(
        (pair(0), pair(1)),
        ([&json!("b"), &json!("a")], [&json!("c"), &json!("a")])
    );
    assert_eq!(order["differing"].as_array().map(Vec::len), Some(2));
    assert_eq!(
        (&order["pairs"], &order["measured"]),
        (&json!(3), &json!(["b", "c", "a"]))
    );
    assert_eq!(
        (
            &order["differing"][0]["by"],
            &order["differing"][0]["is_small"]
        ),
        (&json!(0.5), &json!(false))
    );
}

#[test]
fn small_differences_are_called_small() {
    let order = ranked(&[("a", 1.0, 1.05), ("b", 2.0, 1.0)]);
    assert_eq!(order["differing"][0]["is_small"], true);
}

fn sample(steps: usize, seconds: f64, ppl: f64) -> Samples {
    Samples {
        setting: Setting {
            steps: Some(steps),
            ..Setting::default()
        },
        seconds_per_sample: seconds,
        seconds_alone: Some(10.0 - seconds),
        judge: Figure {
            ppl,
            ..Figure::default()
        },
        ..Samples::default()
    }
}

#[test]
fn fronts_hold_what_nothing_beats() {
    let lines = [
        sample(1, 1.0, 9.0),
        sample(2, 3.0, 5.0),
        sample(3, 2.0, 7.0),
        sample(4, 2.0, 8.0),
        sample(5, 3.0, 5.0),
    ];
    let steps = |alone| {
        front(&lines, alone)
            .iter()
            .filter_map(|line| line.setting.steps)
            .collect::<Vec<_>>()
    };
    assert_eq!(steps(false), [1, 3, 2, 5], "equals stay");
    assert_eq!(steps(true), [2, 5]);
}

#[test]
fn pairs_have_the_same_steps() {
    let (ours, theirs) = (
        [sample(1, 1.0, 2.0), sample(2, 1.0, 2.0)],
        [sample(2, 1.0, 3.0), sample(3, 1.0, 1.0)],
    );
    let versus = versus(&ours, &theirs);
    assert_eq!(
        (&versus["better"], versus["pairs"].as_array().map(Vec::len)),
        (&json!(1), Some(1))
    );
    assert_eq!(versus["pairs"][0][1]["judge"]["ppl"], 3.0);
}

fn chart(lines: &Value) -> Chart {
    let chart = json!({
        "title": "A title",
        "caption": "A caption",
        "x": { "title": "seconds per sample", "field": "a.b", "log": true, "unit": 10 },
        "y": { "title": "perplexity", "field": "c" },
        "label": "d",
        "series": [{ "title": "a series & more", "colour": 1, "marker": 1, "lines": lines }],
    });
    serde_json::from_value(chart).expect("complete")
}

#[test]
fn charts_hold_titles_legend_and_background() {
    let lines = json!([{ "a": { "b": 1.0 }, "c": 3.0, "d": 77 }, { "c": 5.0 }, { "a": { "b": 10.0 }, "c": 2.0 }]);
    let svg = chart(&lines).draw().expect("drawn");
    for text in [
        "A title",
        "seconds per sample",
        "perplexity",
        "a series &amp; more",
        "77",
        "#FFFFFF",
        "#D55E00",
    ] {
        assert!(svg.contains(text), "{text}");
    }
    assert_eq!(
        svg.matches("<polygon").count(),
        3,
        "two points and the legend"
    );
    assert_eq!(svg, chart(&lines).draw().expect("drawn"));
}

#[test]
fn what_has_no_place_is_refused() {
    assert!(!chart(&json!([{ "c": 1.0 }, { "a": { "b": null }, "c": 1.0 }])).has_points());
    for lines in [json!([]), json!([{ "a": { "b": 0.0 }, "c": 1.0 }])] {
        assert!(chart(&lines).draw().is_err(), "{lines}");
    }
}

/// The numbers beside the horizontal axis of a plot whose points are at `ends`.
fn ticks(log: bool, ends: [f64; 2]) -> Vec<String> {
    let chart = json!({
        "title": "",
        "caption": "",
        "x": { "title": "", "field": "x", "log": log },
        "y": { "title": "", "field": "y", "log": true },
        "label": null,
        "series": [{ "title": "", "colour": 0, "marker": 0, "lines": [{ "x": ends[0], "y": 2e9 }, { "x": ends[1], "y": 3e9 }] }],
    });
    let chart: Chart = serde_json::from_value(chart).expect("complete");
    let svg = chart.draw().expect("drawn");
    let numbers = svg
        .lines()
        .filter(|line| line.parse().is_ok_and(|number: f64| number < 1e9));
    numbers.map(String::from).collect()
}

#[test]
fn ticks_are_round_and_inside() {
    assert_eq!(ticks(false, [0.6, 5.8]), ["1", "2", "3", "4", "5", "6"]);
    assert_eq!(
        ticks(true, [0.01, 100.0]),
        ["0.01", "0.1", "1", "10", "100"]
    );
    assert!(ticks(true, [20.0, 150.0]).len() >= 3);
    let near = ["0.014", "0.016", "0.018", "0.02", "0.022", "0.024"];
    assert_eq!(ticks(true, [0.014, 0.024]), near);
    assert!(ticks(false, [3.0, 3.4]).contains(&"3.2".to_string()));
}
