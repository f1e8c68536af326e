//! `esolm train`: from a recipe to a Hugging Face folder.

use std::io::IsTerminal;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use esolm::DeviceChoice;
use esolm::checkpoint::{Checkpoint, OpenOptions};
use esolm_train::{Event, Line, Options, Recipe, Source};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::arguments::Train;
use crate::failure::Failure;
use crate::{failure, files, interrupts, output};

/// Runs the command.
pub fn run(arguments: &Train) -> Result<(), Failure> {
    files::check_folder(&arguments.out)?;
    let mut show = Show::new(arguments.quiet);
    let (recipe, source) = recipe(arguments, &mut show)?;
    // The device is from the recipe, not from the command line.
    let choice: DeviceChoice = (recipe.run.device.parse())
        .map_err(|error| Failure::failed(failure::engine_sentence(&error)))?;
    let (device, device_name) = pollster::block_on(esolm::device::tensors(choice))?;
    let stop = Arc::new(AtomicBool::new(false));
    let options = Options {
        out: &arguments.out,
        resume: arguments.resume,
        accept_changed_text: arguments.accept_changed_text,
        init: source.as_ref(),
        device,
        device_name,
        stop: &stop,
    };
    let ended = esolm_train::train(&recipe, &options, &mut |event| {
        // Before its first step, a training has nothing to save and can be ended at once.
        if matches!(event, Event::Line(Line::Start { .. })) {
            interrupts::stop(stop.clone());
        }
        show.event(&event);
    });
    show.clear();
    let ended = ended.map_err(Failure::training)?;
    if !arguments.quiet {
        let folder = ended.model.display();
        output::note(&if ended.interrupted {
            format!(
                "stopped and saved after step {}; --resume goes on, {folder} holds the model so far",
                ended.step
            )
        } else {
            format!("done; esolm sample --model {folder}")
        });
    }
    Ok(())
}

/// What to train, and the checkpoint that a new training starts from.
fn recipe(arguments: &Train, show: &mut Show) -> Result<(Recipe, Option<Source>), Failure> {
    let text = arguments.recipe.as_ref().map(|path| {
        std::fs::read_to_string(path).map_err(|error| {
            Failure::failed(format!(
                "cannot read the recipe {}: {error}; give a TOML file, as `esolm train --help` shows",
                path.display()
            ))
        })
    });
    let text = text.transpose()?;
    let mut set = arguments.set.clone();
    if let Some(init) = &arguments.init {
        check_init(init, text.as_deref().unwrap_or_default(), &set)?;
        // A JSON string is a valid TOML string.
        set.push(format!("model.init={}", serde_json::json!(init)));
    }
    let out = &arguments.out;
    let recipe = match text {
        None => esolm_train::saved_recipe(out, &set, &mut |event| show.event(&event)),
        Some(text) if arguments.resume => esolm_train::resumed_recipe(out, &text, &set),
        Some(text) => {
            let Some(name) = Recipe::init(&text, &set).map_err(Failure::training)? else {
                let recipe = Recipe::parse(&text, &set).map_err(Failure::training)?;
                return Ok((recipe, None));
            };
            let options = OpenOptions {
                config: arguments.config.clone(),
                raw_weights: arguments.raw_weights,
                progress: !arguments.quiet,
                ..OpenOptions::default()
            };
            let source = Source::new(&name, Checkpoint::open(&name, &options)?);
            let recipe = Recipe::parse_from(&text, &set, &source).map_err(Failure::training)?;
            return Ok((recipe, Some(source)));
        }
    };
    Ok((recipe.map_err(Failure::training)?, None))
}

/// Refuses an `--init` that would silently override another checkpoint named by the recipe or `--set`.
fn check_init(init: &str, recipe: &str, set: &[String]) -> Result<(), Failure> {
    match Recipe::init(recipe, set).map_err(Failure::training)? {
        Some(other) if !esolm_train::is_same_place(&other, init) => Err(Failure::usage(format!(
            "--init is {init:?}, but the recipe has model.init = {other:?}; leave one of them out"
        ))),
        _ => Ok(()),
    }
}

/// Progress on a terminal, or in a file that stderr is redirected to.
struct Show {
    quiet: bool,
    bar: Option<ProgressBar>,
    /// Steps completed when this run began, and when it began.
    began: (u64, Instant),
    steps: u64,
    speed: f64,
}

impl Show {
    fn new(quiet: bool) -> Self {
        let live = !quiet && std::io::stderr().is_terminal();
        let bar = live.then(|| {
            let style = ProgressStyle::with_template("{msg} {wide_bar} {pos}/{len}")
                .expect("the template is a constant");
            let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
            bar.set_style(style);
            bar
        });
        Self {
            quiet,
            bar,
            began: (0, Instant::now()),
            steps: 0,
            speed: 0.0,
        }
    }

    fn event(&mut self, event: &Event) {
        match event {
            Event::Step { step, losses } => {
                let Some(bar) = &self.bar else { return };
                let (first, started) = self.began;
                let pace = started.elapsed().as_secs_f64() / (step - first).max(1) as f64;
                let left = Duration::from_secs_f64(pace * self.steps.saturating_sub(*step) as f64);
                bar.set_message(format!(
                    "loss {:.3} (diffusion {:.3}, sequential {:.3}), {:.0} tokens/s, {} left",
                    losses.total(),
                    losses.diffusion,
                    losses.sequential,
                    self.speed,
                    clock(left)
                ));
                bar.set_position(*step);
            }
            Event::Line(line) => {
                match line {
                    Line::Start { step, steps, .. } => {
                        self.began = (*step, Instant::now());
                        self.steps = *steps;
                        if let Some(bar) = &self.bar {
                            bar.set_length(*steps);
                        }
                    }
                    Line::Train {
                        tokens_per_second, ..
                    } => self.speed = *tokens_per_second,
                    _ => {}
                }
                // On a terminal, a bar shows the steps; validation results stay readable above it.
                if self.bar.is_none() || !matches!(line, Line::Train { .. }) {
                    self.say(&sentence(line));
                }
            }
            Event::Saved(path) => self.say(&format!("saved {}", path.display())),
            Event::Note(note) => self.say(note),
        }
    }

    fn say(&self, line: &str) {
        match (&self.bar, self.quiet) {
            (_, true) => {}
            (Some(bar), _) => bar.println(line),
            (None, _) => output::note(line),
        }
    }

    fn clear(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// A log line for human readers.
fn sentence(line: &Line) -> String {
    match line {
        Line::Start {
            step,
            steps,
            parameters,
            epoch_tokens,
            device,
        } => format!(
            "{:.2} M parameters, {:.2} M training tokens an epoch, steps {step} to {steps}, on {device}",
            *parameters as f64 / 1e6,
            *epoch_tokens as f64 / 1e6
        ),
        Line::Train {
            step,
            tokens,
            loss,
            diffusion,
            sequential,
            tokens_per_second,
            ..
        } => format!(
            "step {step}, {:.2} M tokens: loss {loss:.4} (diffusion {diffusion:.4}, sequential {sequential:.4}), {tokens_per_second:.0} tokens/s",
            *tokens as f64 / 1e6
        ),
        Line::Validation {
            step,
            loss,
            diffusion,
            sequential,
            ..
        } => format!(
            "step {step}, hold-out: {loss:.4} nats a token (diffusion {diffusion:.4}, sequential {sequential:.4})"
        ),
        Line::End { step, seconds, .. } => {
            format!(
                "ended at step {step} after {}",
                clock(Duration::from_secs_f64(*seconds))
            )
        }
    }
}

fn clock(time: Duration) -> String {
    let seconds = time.as_secs();
    let (hours, minutes) = (seconds / 3600, seconds / 60 % 60);
    if hours > 0 {
        format!("{hours} h {minutes:02} min")
    } else if minutes > 0 {
        format!("{minutes} min {:02} s", seconds % 60)
    } else {
        format!("{seconds} s")
    }
}
