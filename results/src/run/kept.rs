//! Records of an earlier run that are not made again.

use std::path::Path;

use crate::error::Error;
use crate::record::{
    self, LIKELIHOOD, Likelihood, SAMPLES, SETUP, Samples, Setup, Training, training_file,
};

/// What the folder of the records held when the run began. A record counts only if the commands that made it are those of the plan.
#[derive(Debug, Default)]
pub struct Kept {
    training: Vec<Training>,
    likelihood: Vec<(Likelihood, String)>,
    samples: Vec<(Samples, String)>,
}

impl Kept {
    /// Reads what is there of the models of a plan, unless it was made from another recipe or text, which commands do not show.
    pub fn read(out: &Path, setup: &Setup) -> Result<Self, Error> {
        let before: Option<Setup> = record::read(&out.join(SETUP))?;
        if let Some(changed) = before.and_then(|before| changed(&before, setup)) {
            let out = out.display();
            return Err(Error::Usage(format!(
                "the records in {out} were made with another {changed}; give the same again, or leave --keep-records out to measure everything anew"
            )));
        }
        let plan = &setup.plan;
        let training = plan
            .all()
            .map(|model| record::read(&out.join(training_file(&model.name))));
        let training: Result<Vec<Option<Training>>, Error> = training.collect();
        Ok(Self {
            training: training?.into_iter().flatten().collect(),
            likelihood: record::read_lines(&out.join(LIKELIHOOD))?,
            samples: record::read_lines(&out.join(SAMPLES))?,
        })
    }

    /// Removes what is there if it was made from another recipe or text: beside the new setup it would look like its own.
    pub fn remove_others(out: &Path, setup: &Setup) -> Result<(), Error> {
        let before: Option<Setup> = record::read(&out.join(SETUP))?;
        let Some(before) = before.filter(|before| changed(before, setup).is_some()) else {
            return Ok(());
        };
        let trainings = before.plan.all().map(|model| training_file(&model.name));
        for name in trainings.chain([LIKELIHOOD.into(), SAMPLES.into()]) {
            record::remove(&out.join(name))?;
        }
        Ok(())
    }

    /// A training by this command.
    pub fn training(&self, command: &str) -> Option<&Training> {
        let mut all = self.training.iter();
        all.find(|kept| is_same(&kept.command, command))
    }

    /// The line of a measurement by this command.
    pub fn likelihood(&self, command: &str) -> Option<&String> {
        let mut all = self.likelihood.iter();
        let found = all.find(|(kept, _)| is_same(&kept.answer.command, command));
        found.map(|(_, line)| line)
    }

    /// The line of samples that these commands drew and judged.
    pub fn samples(&self, command: &str, judge_command: &str) -> Option<&String> {
        let mut all = self.samples.iter();
        let found = all.find(|(kept, _)| {
            is_same(&kept.command, command) && is_same(&kept.judge_command, judge_command)
        });
        found.map(|(_, line)| line)
    }

    /// `lines`, and behind them the kept ones that are not among those: what the file holds while more of it is made.
    pub fn with_likelihood(&self, lines: &[String]) -> Vec<String> {
        with(lines, &self.likelihood)
    }

    /// As [`Kept::with_likelihood`].
    pub fn with_samples(&self, lines: &[String]) -> Vec<String> {
        with(lines, &self.samples)
    }
}

/// Which of what all commands share is not the same in both setups.
fn changed(before: &Setup, now: &Setup) -> Option<String> {
    let all = [
        ("recipe", before.recipe != now.recipe),
        (
            "training text",
            (&before.train, &before.judge_train) != (&now.train, &now.judge_train),
        ),
        ("hold-out", before.holdout != now.holdout),
    ];
    let changed: Vec<&str> = (all.into_iter())
        .filter_map(|(name, is_other)| is_other.then_some(name))
        .collect();
    (!changed.is_empty()).then(|| changed.join(" and another "))
}

/// Whether two command lines give a program the same words: quotes may be set in several ways.
pub fn is_same(a: &str, b: &str) -> bool {
    a == b || shlex::split(a).is_some_and(|words| Some(words) == shlex::split(b))
}

fn with<T>(lines: &[String], kept: &[(T, String)]) -> Vec<String> {
    let kept = kept.iter().map(|(_, line)| line);
    let rest = kept.filter(|line| !lines.contains(line));
    lines.iter().chain(rest).cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::is_same;

    #[test]
    fn commands_are_compared_by_their_words() {
        let plain = "esolm train recipe.toml --set model.family=ar --set data.train='[\"a b\"]'";
        let quoted = "esolm train recipe.toml --set 'model.family=ar' --set 'data.train=[\"a b\"]'";
        assert!(is_same(plain, quoted) && is_same(plain, plain));
        assert!(!is_same(
            plain,
            "esolm train recipe.toml --set model.family=ar"
        ));
        assert!(!is_same("a 'b", "a 'c") && !is_same("a b", "a 'b"));
    }
}
