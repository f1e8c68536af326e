//! Options of jobs, and the form of what is printed.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use clap::{Args, ValueEnum};

/// A job: a line of JSON in, a line of JSON out.
#[derive(Debug, Clone, Args)]
pub struct Job {
    /// Lines of JSON to do one after the other, each of which gives a line of JSON (docs/scale.md); `-` reads the standard input.
    #[arg(long, value_name = "FILE", help_heading = "Jobs")]
    pub input: Option<PathBuf>,
    /// Where the results go. Default: the standard output.
    #[arg(long, value_name = "FILE", requires = "input", help_heading = "Jobs")]
    pub output: Option<PathBuf>,
    /// Do part I of N of the lines alone, counted from 1. The outputs of all N, put together, are that of one run.
    #[arg(long, value_name = "I/N", requires = "input", value_parser = str::parse::<Shard>, help_heading = "Jobs")]
    pub shard: Option<Shard>,
    /// Go on with the output of a run that ended early, or begin where there is none. Model, input and options must be the same.
    #[arg(long, requires_all = ["input", "output"], help_heading = "Jobs")]
    pub resume: bool,
    /// Give a result with the field error for a line that cannot be done, and go on, instead of ending with the first one.
    #[arg(long, requires = "input", help_heading = "Jobs")]
    pub keep_going: bool,
}

/// Part `index` of `count`, counted from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shard {
    index: u64,
    count: u64,
}

impl Shard {
    pub const ALL: Self = Self { index: 1, count: 1 };

    /// The lines of the part, counted from 0: contiguous, and as many in each part but for one.
    pub fn range(self, lines: u64) -> std::ops::Range<u64> {
        let upto =
            |part: u64| (u128::from(lines) * u128::from(part) / u128::from(self.count)) as u64;
        upto(self.index - 1)..upto(self.index)
    }
}

impl fmt::Display for Shard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.index, self.count)
    }
}

impl FromStr for Shard {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts = text.split_once('/');
        let numbers = parts.and_then(|(i, n)| Some((i.parse().ok()?, n.parse().ok()?)));
        match numbers {
            Some((index, count)) if (1..=count).contains(&index) => Ok(Self { index, count }),
            _ => Err("it must be I/N with I from 1 to N, as 1/8 to 8/8".into()),
        }
    }
}

/// How results are printed.
#[derive(Debug, Clone, Copy, Args)]
pub struct OutputFormat {
    /// text for people; json: one JSON object for all, or of `score` one a text; jsonl: JSON objects on one line each, of `sample` one a text.
    ///
    /// Default: text. A job writes jsonl, and takes nothing else.
    #[arg(long, value_enum, help_heading = "Output")]
    pub format: Option<FormatName>,
    /// Short for --format json.
    #[arg(long, conflicts_with = "format", help_heading = "Output")]
    pub json: bool,
}

impl OutputFormat {
    pub fn format(self) -> FormatName {
        match self.json {
            true => FormatName::Json,
            false => self.format.unwrap_or(FormatName::Text),
        }
    }

    /// Whether nothing but lines of JSON is asked for.
    pub fn is_for_a_job(self) -> bool {
        !self.json && matches!(self.format, None | Some(FormatName::Jsonl))
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum FormatName {
    /// For people.
    Text,
    /// A JSON object over several lines.
    Json,
    /// JSON objects, one a line.
    Jsonl,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shards_are_contiguous_and_lose_nothing() {
        for lines in [0, 1, 5, 7, 100, 1_000_003] {
            for count in [1, 2, 3, 7, 12] {
                let mut next = 0;
                for index in 1..=count {
                    let range = Shard { index, count }.range(lines);
                    assert_eq!(range.start, next);
                    assert!(range.end - range.start <= lines.div_ceil(count));
                    next = range.end;
                }
                assert_eq!(next, lines);
            }
        }
        assert_eq!("2/3".parse(), Ok(Shard { index: 2, count: 3 }));
        for wrong in ["0/3", "4/3", "3", "1/0", "-1/3", "a/b", "1/3/5", ""] {
            assert!(wrong.parse::<Shard>().is_err(), "{wrong}");
        }
    }
}
