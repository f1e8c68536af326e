//! The page that records make, from records made up here.

use std::fs;
use std::path::{Path, PathBuf};

use esolm_core::config::Family;
use esolm_results::plan::Plan;
use esolm_results::record::Answer;
use esolm_results::record::{
    self, Compared, Comparison, ExactAt, Likelihood, MiddleFigures, Point, Samples, Setup,
    TextFigures, Training, training_file,
};
use esolm_results::render;
use esolm_results::reports::{Figure, Nelbo, Perplexity};
use serde_json::json;

/// A folder that is removed in the end.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("esolm-{name}-{}", std::process::id()));
        for folder in ["docs/results", "results", "models/stories"] {
            fs::create_dir_all(path.join(folder)).expect("made");
        }
        Self(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // What is left in the folder for temporary files does no harm.
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn plan() -> Plan {
    Plan::read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("plan.json")).expect("usable")
}

fn figure(nats: f64) -> Figure {
    Figure {
        nats_per_token: nats,
        standard_error: Some(0.01),
        bits_per_byte: Some(nats / 2.0),
        ppl: nats.exp(),
    }
}

/// Losses in the paper's order, but for MDLM, which is best here.
fn nats(name: &str) -> f64 {
    match name {
        "mdlm" => 2.0,
        "ar" => 2.5,
        "bd3lm-4" => 2.55,
        "esolm-0.125" => 2.6,
        "bd3lm-16" => 2.65,
        "esolm-0.25" => 2.7,
        "esolm-0.25-seed2" => 2.85,
        "esolm-0.5" | "esolm-0.5-seed2" => 2.8,
        "mdlm-low_var-5m" => 2.2,
        "esolm-1-5m" => 2.4,
        _ => 2.9,
    }
}

fn write_records(root: &Path) {
    let plan = plan();
    let out = root.join("docs/results");
    let save = |name: &str, value: serde_json::Value| {
        record::write(&out.join(name), &value).expect("written");
    };
    save(
        "setup.json",
        json!(Setup {
            date: "2026-01-02 03:04".into(),
            version: "esolm 0".into(),
            machine: "a machine".into(),
            command: "cargo xtask results run".into(),
            train: Default::default(),
            judge_train: Default::default(),
            holdout: Default::default(),
            recipe: "[model]\nhidden = 1\n".into(),
            plan: plan.clone(),
        }),
    );
    let mut likelihood = Vec::new();
    for model in plan.all() {
        let points = |count: u64| {
            (1..=count)
                .map(|at| Point {
                    tokens: at * 100_000,
                    loss: nats(&model.name) + 3.0 / at as f64,
                })
                .collect()
        };
        save(
            &training_file(&model.name),
            json!(Training {
                name: model.name.clone(),
                command: format!("esolm train --out train/{}", model.name),
                date: "2026-01-02 03:04".into(),
                parameters: Some(1_000_000),
                steps: 20,
                tokens: 2_000_000,
                seconds: 100.0,
                train: points(20),
                validation: points(20),
                tail: vec![json!({"kind": "end"})],
            }),
        );
        let is_bounded = matches!(model.family, Family::Mdlm | Family::Bd3Lm);
        let exact = (!is_bounded).then(|| figure(nats(&model.name)));
        let line = |alpha_0, whole, exact: Option<Figure>| Likelihood {
            name: model.name.clone(),
            alpha_0,
            whole,
            answer: Answer {
                command: "esolm ppl".into(),
                date: "2026-01-02 03:04".into(),
                report: Perplexity {
                    device: "CPU".into(),
                    windows: 100,
                    length: 128,
                    tokens: 12_800,
                    bytes: None,
                    orders: Some(1),
                    draws: Some(1),
                    nelbo: (whole && model.family != Family::Ar).then(|| Nelbo {
                        diffusion: Some(1.0),
                        sequential: None,
                        total: figure(nats(&model.name) + 0.05),
                    }),
                    exact,
                    seconds: 1.0,
                },
            },
        };
        likelihood.push(line(model.alpha_0, true, exact));
        if let Some(own) = model.alpha_0 {
            for alpha_0 in [1.0, 0.25] {
                let distance: f64 = own - alpha_0;
                likelihood.push(line(
                    Some(alpha_0),
                    false,
                    Some(figure(3.0 + distance.abs())),
                ));
            }
        }
    }
    save("likelihood.json", json!(likelihood));
    let samples: Vec<Samples> = plan
        .settings()
        .into_iter()
        .map(|setting| {
            let steps = setting.steps.unwrap_or(128);
            let alpha_0 = setting.alpha_0.unwrap_or(1.0);
            let nfe = steps.max(128 - (alpha_0 * 128.0) as usize) as u64;
            let slow = match setting.name.as_str() {
                "mdlm" => 10.0,
                "bd3lm-4" | "bd3lm-16" => 2.0,
                _ => 1.0,
            };
            Samples {
                command: format!("esolm sample {}", setting.key()),
                judge_command: format!("esolm ppl {}", setting.key()),
                date: "2026-01-02 03:04".into(),
                device: "CPU".into(),
                batch: 64,
                length: 128,
                nfe,
                seconds_per_sample: slow * nfe as f64 / 1000.0
                    + if setting.name == "ar" { -0.01 } else { 0.0 },
                seconds_alone: Some(
                    slow * nfe as f64 / 500.0 + if setting.name == "ar" { -0.01 } else { 0.0 },
                ),
                judge: figure(nats(&setting.name) + 4.0 / (steps as f64).sqrt()),
                entropy: 4.0 - 1.0 / (steps as f64).sqrt(),
                entropy_error: 0.01,
                text: format!("Once upon {}", setting.key()),
                setting,
            }
        })
        .collect();
    save("samples.json", json!(samples));
    let compared = |name: &str, nats: f64| Compared {
        name: name.into(),
        shape: "Eso-LM".into(),
        parameters: Some(4_000_000),
        exact: vec![ExactAt {
            alpha_0: Some(0.25),
            length: 128,
            figure: figure(nats),
        }],
        middles: MiddleFigures {
            nats_per_token: nats,
            bits_per_byte: nats / 2.0,
            bits_per_byte_error: 0.01,
        },
        sampling: "top_p 0.9".into(),
        texts: TextFigures {
            judge_ppl: nats.exp(),
            judge_bits_per_byte: nats,
            distinct: [0.1, 0.5, 0.9],
            copied: 0.01,
            words: 1000,
            entropy: 4.0,
        },
        examples: vec!["An example.".into()],
        commands: vec!["esolm ppl".into()],
    };
    save(
        "model.json",
        json!(Comparison {
            date: "2026-01-02 03:04".into(),
            command: "cargo xtask results compare".into(),
            judge: "AR".into(),
            sampling: "as always".into(),
            samples: 200,
            distinct_words: 900,
            middles: 200,
            middle_words: 8,
            around_words: 24,
            train: Default::default(),
            holdout: Default::default(),
            models: vec![compared("starter", 3.0), compared("stories", 2.5)],
            baseline: compared("", 2.0).texts,
        }),
    );
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("page.md");
    let page = fs::read_to_string(page).expect("there");
    fs::write(root.join("results/page.md"), page + "\nA reason.\n").expect("written");
}

#[test]
fn the_page_holds_figures_verdicts_and_reasons() {
    let folder = Folder::new("page");
    write_records(&folder.0);
    let card = Path::new("models/stories/README.md");
    fs::write(folder.0.join(card), "no markers").expect("written");
    let files = render::files(&folder.0).expect("rendered");
    assert!(
        !files.contains_key(card),
        "a card without markers is left alone"
    );
    let page = &files[Path::new("docs/results.md")];
    for text in [
        // the paper's figures
        "24.71",
        "25.19",
        // the order, with MDLM first: it passes AR, 0.125 and 0.25, which the paper has before it
        "Here: MDLM < AR < BD3-LM (4) < Eso-LM, α₀ = 0.125",
        "**17 of 21 pairs are in the paper's order.**",
        "MDLM is better here than AR, by 0.450 nats per token (standard error at most 0.014)",
        "All 10 pairs are in the paper's order.",
        // one model at several alpha_0
        "Best at each alpha_0 of evaluation: 1: Eso-LM, α₀ = 1; 0.25: Eso-LM, α₀ = 0.25",
        // the models of the paper on block diffusion, in its own order
        "Order by NELBO with the models of arXiv 2503.09573, Table 4, best first. Paper: AR < BD3-LM (4) < BD3-LM (16) < MDLM.",
        "**3 of 6 pairs are in the paper's order.**",
        // what was trained to find the reason for a result
        "In 2 of the 4 pairs of seeds 0.25 is better",
        "the order of NELBO is MDLM, 5 million tokens < Eso-LM, α₀ = 1, 5 million tokens, the paper's: 2.250 for MDLM and 2.450",
        "The order is the paper's: AR, then Eso-LM, then BD3-LM, then MDLM.",
        "| BD3-LM (16) | 0.256 | 0.512 | 21.3 | 268 |",
        "| SetDLM (4) | 0.128 | 0.256 | - | - |",
        "| BD3-LM over Eso-LM | 2.00x | 2.00x | 1.46x | 3.27x |",
        "Eso-LM, α₀ = 1 in 5 of 5 steps upwards",
        "A reason.",
        "Better than starter: bits per byte of the hold-out at alpha_0 = 0.25 (1.50 to 1.25)",
        "esolm train --out train/mdlm",
        "Once upon ar",
    ] {
        assert!(page.contains(text), "{text} is not in\n{page}");
    }
    for plot in ["loss", "pareto", "latency", "entropy", "alpha", "blocks"] {
        let name = format!("results/{plot}.svg");
        assert!(page.contains(&format!("]({name})")), "{name} is shown");
        let svg = &files[&Path::new("docs").join(name)];
        assert!(svg.starts_with("<svg") && svg.trim_end().ends_with("</svg>"));
    }
}

#[test]
fn a_card_takes_the_table_between_its_markers() {
    let folder = Folder::new("card");
    write_records(&folder.0);
    let path = folder.0.join("models/stories/README.md");
    let text = "# stories\n\n<!-- results:model -->\nold\n<!-- end of results:model -->\n\nMore.\n";
    fs::write(&path, text).expect("written");
    render::write(&folder.0).expect("rendered");
    let once = fs::read_to_string(&path).expect("there");
    assert!(once.starts_with("# stories\n") && once.ends_with("\n\nMore.\n"));
    assert!(once.contains("| starter | stories |") && !once.contains("\nold\n"));
    render::write(&folder.0).expect("rendered");
    assert_eq!(
        once,
        fs::read_to_string(&path).expect("there"),
        "again the same"
    );
    assert!(folder.0.join("docs/results/pareto.svg").is_file());
}

#[test]
fn a_damaged_record_is_named() {
    let folder = Folder::new("damaged");
    write_records(&folder.0);
    let path = folder.0.join("docs/results/samples.json");
    fs::write(&path, "[{").expect("written");
    let error = render::files(&folder.0).expect_err("damaged").to_string();
    assert!(
        error.contains("samples.json") && !error.contains('\n'),
        "{error}"
    );
}

#[test]
fn a_folder_without_records_makes_the_head_of_the_page() {
    let folder = Folder::new("empty");
    let template = Path::new(env!("CARGO_MANIFEST_DIR")).join("page.md");
    fs::copy(template, folder.0.join("results/page.md")).expect("copied");
    let files = render::files(&folder.0).expect("rendered");
    let page = &files[Path::new("docs/results.md")];
    assert!(page.starts_with("# Results in miniature") && !page.contains("## "));
    assert_eq!(files.len(), 1);
}

#[test]
fn a_model_that_the_paper_does_not_have_stands_in_no_order() {
    let folder = Folder::new("other");
    write_records(&folder.0);
    for name in ["setup", "likelihood", "samples"] {
        let path = folder.0.join(format!("docs/results/{name}.json"));
        let text = fs::read_to_string(&path).expect("there");
        let renamed = text.replace("\"esolm-0.5\"", "\"other\"");
        fs::write(&path, renamed).expect("written");
    }
    let files = render::files(&folder.0).expect("rendered");
    let page = &files[Path::new("docs/results.md")];
    assert!(page.contains("| Eso-LM, α₀ = 0.5 | - | 17.3 |"), "{page}");
    assert!(
        page.contains("of 15 pairs are in the paper's order"),
        "{page}"
    );
}

#[test]
fn a_wrong_template_is_named_with_its_line() {
    let folder = Folder::new("template");
    write_records(&folder.0);
    fs::write(
        folder.0.join("results/page.md"),
        "one\n{{ setup.plan.name }}\n",
    )
    .expect("written");
    let error = render::files(&folder.0).expect_err("undefined").to_string();
    assert!(error.contains("results/page.md:2"), "{error}");
    assert_eq!(error.lines().count(), 1, "{error}");
    assert!(!folder.0.join("docs/results.md").exists());
}

#[test]
fn numbers_are_short() {
    let folder = Folder::new("numbers");
    let template = "{{ [0.012345|short, 1|short, 23.456|short, 1234.5|short, 0|short, none|short]|join(' ') }}
{{ [1234567|grouped, 1000010|grouped, 999|grouped, 2|fixed(2), 1.0|number, 0.5|signed]|join(' ') }}";
    fs::write(folder.0.join("results/page.md"), template).expect("written");
    let files = render::files(&folder.0).expect("rendered");
    assert_eq!(
        files[Path::new("docs/results.md")],
        "0.0123 1.00 23.5 1234 0 -\n1,234,567 1,000,010 999 2.00 1 +0.500\n"
    );
}
