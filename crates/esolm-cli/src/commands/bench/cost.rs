//! What fewer bits cost: the likelihood that each form assigns to texts written by the model itself. No text from the
//! user is needed; `esolm ppl` measures on the user's texts.

use esolm::Likelihood;
use esolm::engine::Engine;
use esolm::executor::Draw;
use esolm::likelihood::{Purpose, Summary, evaluate, without_exact};
use esolm::passes::Window;
use esolm::plan::{Plan, PlanOptions};
use esolm::sampler::Sampler;
use esolm_checkpoint::message::count;
use pollster::block_on;
use serde::Serialize;

use super::Form;
use crate::failure::Failure;
use crate::output;

/// Total tokens of all texts; fewer for a decoder, where each takes more computation.
const TOKENS: [usize; 2] = [2048, 256];
/// Diffusion steps per text.
const STEPS: usize = 64;
/// Draws of the bound, if there is no exact likelihood.
const DRAWS: u32 = 4;

/// The perplexities of all forms.
#[derive(Serialize)]
pub struct Cost {
    /// Number of scored tokens, which the first form wrote.
    pub tokens: usize,
    /// Whether the perplexities are exact, or from the bound.
    pub exact: bool,
    /// The perplexity of each form.
    pub forms: Vec<(String, f64)>,
}

impl Cost {
    /// Writes texts with the first engine, and scores them with all.
    pub fn measure(engines: &mut [(Form, Engine)]) -> Result<Self, Failure> {
        let (_, writer) = &mut engines[0];
        let config = writer.config().clone();
        let tokens = TOKENS[usize::from(config.decoder.is_some())];
        let length = config.length.min(tokens);
        let plan = Plan::new(&PlanOptions {
            length,
            ..PlanOptions::new(&config, tokens.div_ceil(length), STEPS, 1)
        })?;
        output::note(&format!(
            "perplexity: of {}, written in {}",
            count(plan.layout().tokens, "token"),
            count(plan.nfe(), "pass")
        ));
        let draw = Draw {
            sampler: Sampler::default(),
            seed: 1,
            ..Draw::default()
        };
        let written = block_on(writer.run(&plan, draw, false)?.finish())?;
        let windows = written.tokens.into_iter().zip(0..);
        let windows: Vec<Window> = (windows.map(|(tokens, i)| Window::whole(tokens, i))).collect();
        let exact = without_exact(&config).is_none();
        let (orders, draws) = match exact {
            true => (1, 0),
            false => (0, DRAWS),
        };
        let options = Likelihood {
            orders: Some(orders),
            draws: Some(draws),
            ..Likelihood::default()
        };
        let options = options.resolve(&config, Purpose::Perplexity)?;
        let mut cost = Self {
            tokens: 0,
            exact,
            forms: Vec::new(),
        };
        for (form, engine) in engines {
            let mut go_on = |_, _| true;
            let scores = block_on(evaluate(engine, &windows, None, &options, &mut go_on));
            let scores = scores.map_err(esolm::Error::from)?.unwrap_or_default();
            let summary = Summary::of(&scores);
            let nats = summary.exact.unwrap_or(summary.nelbo);
            cost.tokens = summary.tokens;
            cost.forms.push((form.to_string(), nats.per_token.exp()));
        }
        Ok(cost)
    }
}
