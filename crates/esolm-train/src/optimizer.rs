//! AdamW over all parameters, with gradient clipping and averaged weights.

use std::collections::BTreeMap;

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::optim::{
    AdamW, AdamWConfig, AdamWState, AdaptiveMomentumState, GradientsParams, Optimizer as _,
};
use burn::tensor::Tensor;
use esolm::network::Network;

use crate::recipe::{LrSchedule, Optimizer, Recipe};
use crate::state::Progress;
use crate::weights::{Path, Weights, flat, host, with_values};

/// Moments of one parameter, flat.
#[derive(Debug, Clone)]
pub struct Moments {
    /// Mean gradient.
    pub first: Tensor<1>,
    /// Mean squared gradient.
    pub second: Tensor<1>,
}

/// AdamW and its state.
pub struct Adam {
    adamw: AdamW,
    /// By parameter path; empty before the first step.
    pub moments: BTreeMap<String, Moments>,
    /// Steps taken.
    pub time: usize,
}

impl Adam {
    /// The state before the first step.
    pub fn new(options: &Optimizer) -> Self {
        let adamw = AdamWConfig::new()
            .with_beta_1(options.beta_1 as f32)
            .with_beta_2(options.beta_2 as f32)
            .with_epsilon(options.epsilon as f32)
            .with_weight_decay(options.weight_decay as f32)
            .build();
        Self {
            adamw,
            moments: BTreeMap::new(),
            time: 0,
        }
    }

    /// Updates every parameter with its gradient, times `scale`, with learning rate `lr`.
    pub fn step(
        &mut self,
        network: Network,
        gradients: GradientsParams,
        scale: f64,
        lr: f64,
    ) -> Network {
        let mut update = Update {
            path: Path::default(),
            adam: self,
            gradients,
            scale,
            lr,
        };
        let network = network.map(&mut update);
        self.time += 1;
        network
    }
}

struct Update<'a> {
    path: Path,
    adam: &'a mut Adam,
    gradients: GradientsParams,
    scale: f64,
    lr: f64,
}

impl ModuleMapper for Update<'_> {
    fn enter_module(&mut self, name: &str, _: &str) {
        self.path.enter(name);
    }

    fn exit_module(&mut self, _: &str, _: &str) {
        self.path.leave();
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let Some(gradient) = self.gradients.remove::<D>(param.id) else {
            return param;
        };
        let name = self.path.name();
        let count = gradient.shape().num_elements();
        let mut gradient = gradient.reshape([count]);
        if self.scale != 1.0 {
            gradient = gradient * self.scale;
        }
        let state = self.adam.moments.remove(&name).map(|moments| {
            let time = self.adam.time;
            AdamWState::new(AdaptiveMomentumState::new(
                time,
                moments.first,
                moments.second,
            ))
        });
        let (adamw, lr, moments) = (&self.adam.adamw, self.lr, &mut self.adam.moments);
        param.map(|tensor| {
            let (values, state) = adamw.step(lr, flat(tensor.clone()), gradient, state);
            if let Some(AdamWState { momentum }) = state {
                let kept = Moments {
                    first: momentum.moment_1,
                    second: momentum.moment_2,
                };
                moments.insert(name, kept);
            }
            with_values(tensor, values)
        })
    }
}

/// The Euclidean norm of all gradients together.
pub fn norm(network: &Network, gradients: &GradientsParams) -> f64 {
    struct Squares<'a>(&'a GradientsParams, Vec<Tensor<1>>);
    impl ModuleVisitor for Squares<'_> {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            if let Some(gradient) = self.0.get::<D>(param.id) {
                let count = gradient.shape().num_elements();
                self.1.push(gradient.square().reshape([count]).sum_dim(0));
            }
        }
    }
    let mut squares = Squares(gradients, Vec::new());
    network.visit(&mut squares);
    if squares.1.is_empty() {
        return 0.0;
    }
    let all = host(Tensor::cat(squares.1, 0));
    all.iter().map(|&s| f64::from(s)).sum::<f64>().sqrt()
}

/// The learning rate of the step after `done`. The warm-up is counted in steps of any size, the schedule after it in
/// tokens.
pub fn learning_rate(recipe: &Recipe, done: &Progress) -> f64 {
    let options = &recipe.optimizer;
    if done.step < options.warmup_steps {
        return options.lr * (done.step + 1) as f64 / options.warmup_steps as f64;
    }
    match options.schedule {
        LrSchedule::Constant => options.lr,
        LrSchedule::Cosine => {
            let end = done.tokens + recipe.steps_after(done.tokens) * recipe.step_tokens();
            let rest = end.saturating_sub(done.warmup_tokens).max(1);
            let fallen = done.tokens.saturating_sub(done.warmup_tokens) as f64 / rest as f64;
            let share = 0.5 * (1.0 + (std::f64::consts::PI * fallen.min(1.0)).cos());
            options.min_lr + (options.lr - options.min_lr) * share
        }
    }
}

/// Moves the averaged weights towards `weights` after update number `updates`, counted from 1. The decay rises with the
/// number of updates, as in the published code (`ExponentialMovingAverage`), so that the initial weights are soon
/// forgotten.
pub fn average(averaged: &mut Weights, weights: &Weights, decay: f64, updates: u64) {
    let updates = updates as f64;
    let decay = decay.min((1.0 + updates) / (10.0 + updates));
    for (name, values) in weights {
        match averaged.remove(name) {
            Some(old) => {
                let moved = old.clone() + (values.clone() - old) * (1.0 - decay);
                averaged.insert(name.clone(), moved);
            }
            None => {
                averaged.insert(name.clone(), values.clone());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Learning rates of a training with batch size `batch(step)`, by the number of tokens before each step.
    fn rates(batch: impl Fn(u64) -> usize) -> BTreeMap<u64, f64> {
        let mut done = Progress::default();
        let mut rates = BTreeMap::new();
        loop {
            let sets = [format!("run.batch={}", batch(done.step))];
            let text = "[model]\nlength = 10\n[data]\ntrain = [\"a\"]\n[run]\ntokens = 4000\n\
                        [optimizer]\nlr = 1.0\nwarmup_steps = 10\nschedule = \"cosine\"\n";
            let recipe = Recipe::parse(text, &sets).unwrap();
            if recipe.steps_after(done.tokens) == 0 {
                return rates;
            }
            rates.insert(done.tokens, learning_rate(&recipe, &done));
            done.advance(&recipe);
        }
    }

    #[test]
    fn the_schedule_follows_the_tokens_whatever_the_size_of_a_step() {
        let even = rates(|_| 4);
        assert_eq!(even.len(), 100);
        assert_eq!(even[&0], 0.1);
        assert_eq!(even[&400], 1.0);
        let middle = 0.5 * (1.0 + (std::f64::consts::PI * 0.5).cos());
        assert!((even[&2200] - middle).abs() < 1e-12);
        // After 50 steps each counts twice; the warm-up does not start over, and the end is the same.
        let changed = rates(|step| if step < 50 { 4 } else { 8 });
        assert_eq!(changed.len(), 75);
        for (tokens, rate) in changed {
            assert!((even[&tokens] - rate).abs() < 1e-12, "{tokens}");
        }
    }
}
