//! Options of SetDLMs.

use serde::{Deserialize, Serialize};

use super::{Request, RequestError};
use crate::config::{DecoderKind, Family, ModelConfig};
use crate::plan::{Joining, PlanOptions, Schedule, SetRules};
use crate::reveal::{Confidence, Rule};

/// Which given tokens of a template a SetDLM sees.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum InfillContext {
    /// All of them from the start.
    #[default]
    Both,
    /// Those left of the first gap, and each of the others once a token to its right has been drawn.
    Left,
}

impl Request {
    /// Whether a text may be longer than the context.
    pub(super) fn goes_beyond(&self, config: &ModelConfig) -> bool {
        match config.family {
            Family::Bd3Lm => config.decoder.is_none(),
            Family::SetDlm => {
                !self.train_order && [None, Some(Schedule::Confidence)].contains(&self.schedule)
            }
            _ => false,
        }
    }

    /// Rejects options that only a SetDLM with the schedule confidence has.
    pub(super) fn check_sets(&self, family: Family) -> Result<(), RequestError> {
        let given = [
            ("window", self.window.is_some()),
            ("train_order", self.train_order),
            ("infill_context", self.infill_context.is_some()),
        ];
        let given = given.iter().find(|(_, is_given)| *is_given);
        let by_confidence = [None, Some(Schedule::Confidence)].contains(&self.schedule);
        let not = |option, why| Err(RequestError::NotApplicable { option, why });
        match (family, given) {
            (_, None) => {}
            (Family::SetDlm, Some(&(option, _))) if !by_confidence => {
                return not(option, "a schedule that knows its steps beforehand");
            }
            (Family::SetDlm, _) => {}
            (_, Some(&(option, _))) => return not(option, "a model that is not a SetDLM"),
        }
        match (self.infill_context, &self.infill) {
            (Some(_), None) => not("infill_context", "a text without a template"),
            _ => Ok(()),
        }
    }

    /// How a SetDLM goes through its text, starting from the model's own options.
    pub(super) fn set_rules(&self, own: &PlanOptions, length: usize) -> Option<SetRules> {
        let own = own.set_rules?;
        let most = match length > own.context {
            true => own.context.saturating_sub(1) / 2,
            false => length,
        };
        Some(SetRules {
            window: self.window.unwrap_or(own.window.min(most).max(1)),
            joining: match (self.train_order, &self.infill) {
                (true, _) => Joining::Order,
                // As published, a template's tokens join from left to right.
                (false, Some(_)) => Joining::Position,
                (false, None) => own.joining,
            },
            sees_right: self.infill_context.unwrap_or_default() == InfillContext::Both,
            ..own
        })
    }

    /// A model's default rule for choosing by confidence: a SetDLM uses the probability with which a token was drawn;
    /// SDAR, as in its evaluation, the probability after the temperature among all tokens.
    pub(super) fn own_rule(config: &ModelConfig, schedule: Schedule) -> Rule {
        match (config.family, schedule) {
            (Family::SetDlm, Schedule::Confidence) => Rule {
                by: Confidence::Drawn,
                ..Rule::default()
            },
            (Family::Bd3Lm, Schedule::Confidence) => Rule {
                by: match config.decoder.map(|decoder| decoder.kind) {
                    Some(DecoderKind::Sdar) => Confidence::Tempered,
                    _ => Confidence::Model,
                },
                ..Rule::default()
            },
            _ => Rule::default(),
        }
    }
}
