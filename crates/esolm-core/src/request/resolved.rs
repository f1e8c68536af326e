//! A resolved request: its plan, how its attempts draw, and the resulting texts.

use super::{Given, MAX_REDRAWS, RequestError};
use crate::config::Family;
use crate::ending::{Ending, Watch};
use crate::plan::{Plan, PlanOptions, Schedule};
use crate::rng::redraw_seed;
use crate::sampler::Sampler;
use crate::stop::StopRules;
use crate::text::TextCodec;
use crate::trace::{self, Header};

/// A resolved request: everything that determines what is written.
#[derive(Debug, Clone)]
pub struct Resolved {
    /// Options of the plan.
    pub options: PlanOptions,
    /// How tokens are drawn.
    pub sampler: Sampler,
    /// Tokens that are never drawn, ascending.
    pub suppressed: Vec<u32>,
    /// Tokens whose confidence is 0, ascending.
    pub unsure: Vec<u32>,
    /// What is known before the model writes.
    pub given: Given,
    /// Rules that end a text early.
    pub stop: StopRules,
    /// Whether log-probabilities are reported.
    pub logprobs: bool,
}

impl Resolved {
    /// The plan.
    ///
    /// # Errors
    /// If an option is out of range.
    pub fn plan(&self) -> Result<Plan, RequestError> {
        Ok(Plan::new(&self.options)?)
    }

    /// The seed of an attempt, counted from 0. Every attempt has its own random numbers.
    pub fn seed(&self, attempt: u32) -> u64 {
        match attempt {
            0 => self.options.seed,
            _ => redraw_seed(self.options.seed, attempt),
        }
    }

    /// How an attempt draws. At temperature 0 all attempts would write the same, so the temperature of further attempts
    /// rises to 1.
    pub fn sampler(&self, attempt: u32) -> Sampler {
        let temperature = match self.sampler.temperature {
            0.0 if attempt > 0 => attempt as f32 / MAX_REDRAWS as f32,
            temperature => temperature,
        };
        Sampler {
            temperature,
            ..self.sampler
        }
    }

    /// The plan for another attempt, counted from 1, at only `texts` (indices within the batch). A text does not depend
    /// on which others are redrawn with it.
    ///
    /// # Errors
    /// See [`Resolved::plan`].
    pub fn redraw(&self, texts: &[usize], attempt: u32) -> Result<Plan, RequestError> {
        let one = |index: usize, known: Vec<_>| {
            Plan::new(&PlanOptions {
                first_sequence: self.options.first_sequence + index as u32,
                known: vec![known],
                seed: self.seed(attempt),
                ..self.options.clone()
            })
        };
        let mut plan = one(0, self.options.known[0].clone())?;
        plan.sequences.clear();
        for &index in texts {
            let known = self.options.known[index].clone();
            plan.sequences.append(&mut one(index, known)?.sequences);
        }
        Ok(plan)
    }

    /// The first line of a trace of `plan`, which is an attempt at `texts`.
    pub fn header(&self, model: &str, plan: &Plan, attempt: u32, texts: Vec<usize>) -> Header {
        let (options, sampler) = (&self.options, self.sampler(attempt));
        Header {
            esolm_trace: trace::VERSION,
            esolm: env!("CARGO_PKG_VERSION").into(),
            model: model.into(),
            family: options.family,
            length: options.length,
            block_size: options.block_size,
            window: plan.window,
            alpha_0: options.alpha_0,
            steps: options.steps,
            schedule: options.schedule,
            sar_steps: (options.schedule == Schedule::BlockAutoregressive)
                .then_some(options.sar_steps),
            confidence: (options.schedule == Schedule::Confidence).then_some(options.reveal.by),
            confidence_threshold: options.reveal.threshold,
            prompt_tail: (options.family == Family::Bd3Lm)
                .then_some(options.block_rules)
                .flatten()
                .map(|rules| rules.tail),
            suppress_tokens: self.suppressed.clone(),
            begin_suppress_tokens: self.unsure.clone(),
            top_k: sampler.top_k,
            top_p: sampler.top_p,
            top_p_crossing: sampler.top_p_crossing,
            min_p: sampler.min_p,
            temperature: sampler.temperature,
            seed: options.seed,
            first: options.first_sequence,
            batch: options.known.len(),
            vocab_size: options.vocab_size,
            mask_index: options.mask_index,
            nfe: plan.nfe(),
            attempt,
            known: self.given.known.clone(),
            altered: self.given.altered.clone(),
            texts,
        }
    }

    /// Watches a text (an index within the batch). `tokens` are in natural order, with the mask where unknown.
    pub fn watch<'a>(
        &'a self,
        text: usize,
        tokens: Vec<u32>,
        codec: Option<&'a TextCodec>,
    ) -> Watch<'a> {
        let options = &self.options;
        let known = &self.given.known[text];
        let watch = Watch::new(
            &self.stop,
            codec,
            options.mask_index,
            options.block_size,
            known,
            tokens,
        );
        match options.family {
            Family::SetDlm => watch.of_sets(),
            // Among AR models, only a decoder's text may end this way.
            Family::Ar if !self.stop.rules.is_empty() => watch.of_tokens(),
            Family::Bd3Lm if options.block_rules.is_some() => watch.of_decoder(self.pad(text)),
            _ => watch,
        }
    }

    /// Indices of the texts in which the model extended a given word, such as "cats" for "cat ____".
    pub fn run_on(&self, texts: &[Vec<u32>], codec: Option<&TextCodec>) -> Vec<usize> {
        let Some(codec) = codec else {
            return Vec::new();
        };
        (0..texts.len())
            .filter(|&index| !codec.keeps_words(&texts[index], &self.given.word_ends))
            .collect()
    }

    /// The texts of `tokens`, which are in natural order and cut according to `endings`. In an interrupted run, unknown
    /// stretches show as underscores. Without a tokenizer, texts are token ids.
    pub fn texts(
        &self,
        tokens: &[Vec<u32>],
        endings: &[Ending],
        codec: Option<&TextCodec>,
    ) -> Vec<String> {
        let mask = self.options.mask_index;
        let one = |(tokens, &until): (&Vec<u32>, &usize)| match codec {
            None => {
                let numbers: Vec<String> = tokens.iter().map(u32::to_string).collect();
                numbers.join(" ")
            }
            Some(codec) if tokens.contains(&mask) => tokens
                .chunk_by(|a, b| (*a == mask) == (*b == mask))
                .map(|stretch| match stretch[0] == mask {
                    true => " ____ ".into(),
                    false => codec.decode_plain(stretch),
                })
                .collect(),
            Some(codec) => codec.text(tokens, until),
        };
        let texts = tokens.iter().zip(&self.given.until).zip(endings);
        texts
            .map(|(text, ending)| ending.text.clone().unwrap_or_else(|| one(text)))
            .collect()
    }
}
