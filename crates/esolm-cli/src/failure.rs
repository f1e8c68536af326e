//! How a command ends when it does not succeed: an exit code and one sentence on stderr.

use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use esolm::EngineError;
use esolm::checkpoint::{CheckpointError, FileError, LightningError};
use esolm::likelihood::LikelihoodError;
use esolm::plan::PlanError;
use esolm::request::RequestError;
use esolm::rows::RowsError;
use esolm::text::TextError;
use esolm_train::TrainError;

/// Bad usage: the command line itself must be changed.
const USAGE: u8 = 2;
/// Everything else.
const FAILED: u8 = 1;
/// What a shell reports for a program that an interrupt ended.
const INTERRUPTED: u8 = 130;

/// Why a command stopped.
#[derive(Debug)]
pub struct Failure {
    code: u8,
    /// Empty when nothing is left to say.
    message: String,
}

impl Failure {
    /// The command line has to be changed.
    pub fn usage(message: impl Into<String>) -> Self {
        Self {
            code: USAGE,
            message: message.into(),
        }
    }

    /// The command line is sound, but something else is not.
    pub fn failed(message: impl Into<String>) -> Self {
        Self {
            code: FAILED,
            message: message.into(),
        }
    }

    /// The user stopped it.
    pub fn interrupted() -> Self {
        Self {
            code: INTERRUPTED,
            message: String::new(),
        }
    }

    /// Writing to stdout failed. A reader that went away, such as `head`, is no error.
    pub fn output(error: &io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe {
            return Self {
                code: 0,
                message: String::new(),
            };
        }
        Self::failed(format!(
            "cannot write to the standard output: {error}; check where it goes"
        ))
    }

    /// Says the sentence and gives the exit code.
    pub fn exit(self) -> ExitCode {
        if !self.message.is_empty() {
            say(&self.message);
        }
        ExitCode::from(self.code)
    }
}

impl From<CheckpointError> for Failure {
    fn from(error: CheckpointError) -> Self {
        let usage = matches!(
            error,
            CheckpointError::HubName { .. } | CheckpointError::RawWeightsNotApplicable
        );
        Self {
            code: if usage { USAGE } else { FAILED },
            message: match checkpoint_remedy(&error) {
                Some(remedy) => format!("{error}; {remedy}"),
                None => error.to_string(),
            },
        }
    }
}

/// What to change on the command line about a checkpoint that does not open.
fn checkpoint_remedy(error: &CheckpointError) -> Option<&'static str> {
    use LightningError as Lightning;
    Some(match error {
        CheckpointError::NoConfig { .. } => {
            "give one with --config FILE, or put config.json beside it"
        }
        CheckpointError::RawWeightsNotApplicable => {
            "leave --raw-weights out, a safetensors file holds one set of weights"
        }
        CheckpointError::Lightning(
            Lightning::NoEma | Lightning::EmaCount { .. } | Lightning::EmaShape { .. },
        ) => "take state_dict with --raw-weights",
        CheckpointError::Lightning(Lightning::NoConfig | Lightning::Interpolation { .. }) => {
            "give a configuration with --config FILE"
        }
        CheckpointError::File(FileError::TooLarge { .. }) => {
            "convert it with `esolm convert` and give the folder"
        }
        _ => return None,
    })
}

impl From<PlanError> for Failure {
    fn from(error: PlanError) -> Self {
        let usage = matches!(error, PlanError::Range { .. } | PlanError::Known { .. });
        Self {
            code: if usage { USAGE } else { FAILED },
            message: error.to_string(),
        }
    }
}

impl From<TextError> for Failure {
    fn from(error: TextError) -> Self {
        let usage = matches!(
            error,
            TextError::Template(_)
                | TextError::Lossy { .. }
                | TextError::MaskInText(_)
                | TextError::Encode(_)
        );
        Self {
            code: if usage { USAGE } else { FAILED },
            message: error.to_string(),
        }
    }
}

impl From<TrainError> for Failure {
    fn from(error: TrainError) -> Self {
        match error {
            TrainError::Engine(error) => error.into(),
            TrainError::Override(_) | TrainError::Occupied(_) | TrainError::NothingToResume(_) => {
                Self::usage(error.to_string())
            }
            _ => Self::failed(error.to_string()),
        }
    }
}

impl From<RowsError> for Failure {
    fn from(error: RowsError) -> Self {
        Self::failed(error.to_string())
    }
}

impl From<EngineError> for Failure {
    fn from(error: EngineError) -> Self {
        match error {
            EngineError::Checkpoint(error) => error.into(),
            EngineError::Plan(error) => error.into(),
            error => Self::failed(error.to_string()),
        }
    }
}

/// What was asked for is named as the option that asks for it.
impl From<RequestError> for Failure {
    fn from(error: RequestError) -> Self {
        match error {
            RequestError::Length { .. } | RequestError::PromptTooLong { .. } => {
                Self::usage(error.to_string().replace("the length", "--length"))
            }
            RequestError::Meaningless { option, why } => Self::usage(format!(
                "--{} has no meaning for {why}; leave it out",
                option.replace('_', "")
            )),
            RequestError::Batch { .. } => {
                Self::usage(error.to_string().replace("a batch of", "--batch"))
            }
            RequestError::Prompts { .. } => {
                Self::usage(error.to_string().replace("give a batch", "give a --batch"))
            }
            RequestError::PromptAndInfill
            | RequestError::NoTokenizer { .. }
            | RequestError::Sampler(_) => Self::usage(error.to_string()),
            RequestError::Text(error) => error.into(),
            RequestError::Plan(error) => error.into(),
        }
    }
}

impl From<LikelihoodError> for Failure {
    fn from(error: LikelihoodError) -> Self {
        match error {
            LikelihoodError::Engine(error) => error.into(),
            error => Self::failed(error.to_string()),
        }
    }
}

/// One sentence on stderr. When even stderr is gone there is nobody to tell.
fn say(message: &str) {
    let _ = writeln!(io::stderr(), "esolm: {message}");
}

/// Ends a run whose command line clap refused: help and version as they are, an error as one sentence.
pub fn usage_exit(error: &clap::Error) -> ExitCode {
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            // Only fails when nobody reads it.
            let _ = error.print();
            ExitCode::SUCCESS
        }
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            let _ = error.print();
            ExitCode::from(USAGE)
        }
        _ => {
            say(&usage_sentence(error));
            ExitCode::from(USAGE)
        }
    }
}

/// clap's message as one sentence: what is wrong, what may have been meant, where to read more.
fn usage_sentence(error: &clap::Error) -> String {
    let rendered = error.render().to_string();
    let first: Vec<&str> = rendered
        .lines()
        .take_while(|line| !line.trim().is_empty())
        .map(str::trim)
        .collect();
    let mut sentence = first.join(" ");
    if let Some(rest) = sentence.strip_prefix("error: ") {
        sentence = rest.into();
    }
    let suggestion = [
        ContextKind::SuggestedArg,
        ContextKind::SuggestedSubcommand,
        ContextKind::SuggestedValue,
    ]
    .into_iter()
    .find_map(|kind| match error.get(kind)? {
        ContextValue::String(one) => Some(one.clone()),
        ContextValue::Strings(some) => some.first().cloned(),
        _ => None,
    });
    if let Some(suggestion) = suggestion {
        sentence.push_str(&format!(", perhaps {suggestion} was meant"));
    }
    sentence + "; --help lists what there is"
}

/// A panic is a fault of the program. It still ends in one sentence, from whatever thread it comes.
pub fn report_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let what = panic
            .payload()
            .downcast_ref::<&str>()
            .map(|text| (*text).to_string())
            .or_else(|| panic.payload().downcast_ref::<String>().cloned())
            .unwrap_or_default();
        let what: Vec<&str> = what.split_whitespace().collect();
        let place = panic
            .location()
            .map(|at| format!(" at {}:{}", at.file(), at.line()))
            .unwrap_or_default();
        if io::stderr().is_terminal() {
            // A watched text may have hidden the cursor.
            let _ = write!(io::stderr(), "\x1b[?25h");
        }
        say(&format!(
            "this is a fault of esolm itself ({}{place}); please report it together with the command line",
            what.join(" ")
        ));
        std::process::exit(FAILED.into());
    }));
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::arguments::Esolm;

    fn sentence(line: &[&str]) -> String {
        let line = std::iter::once("esolm").chain(line.iter().copied());
        usage_sentence(&Esolm::try_parse_from(line).expect_err("bad usage"))
    }

    #[test]
    fn bad_usage_is_one_sentence() {
        for line in [
            &["sample", "--alpha0", "7"][..],
            &["sample", "--seeed", "1"],
            &["sampel"],
            &["sample", "--seed"],
            &["sample", "--schedule", "bloks"],
            &["sample", "--prompt", "a", "--infill", "b __"],
            &["forward"],
            &["sample", "extra"],
        ] {
            let sentence = sentence(line);
            assert!(!sentence.contains('\n'), "{sentence}");
            assert!(!sentence.starts_with("error"), "{sentence}");
            assert!(
                sentence.ends_with("--help lists what there is"),
                "{sentence}"
            );
        }
        assert!(sentence(&["sample", "--alpha0", "7"]).contains("from 0 to 1"));
        assert!(sentence(&["sample", "--seeed", "1"]).contains("perhaps --seed was meant"));
        assert!(sentence(&["sample", "--schedule", "bloks"]).contains("perhaps blocks was meant"));
    }

    #[test]
    fn exit_codes_follow_the_cause() {
        assert_eq!(Failure::output(&io::ErrorKind::BrokenPipe.into()).code, 0);
        assert_eq!(
            Failure::output(&io::ErrorKind::StorageFull.into()).code,
            FAILED
        );
        let range = PlanError::Range {
            name: "steps",
            value: "0".into(),
            range: "1 or more".into(),
        };
        assert_eq!(Failure::from(EngineError::from(range)).code, USAGE);
        let missing = CheckpointError::NotFound { spec: "x".into() };
        assert_eq!(Failure::from(missing).code, FAILED);
        let failure = Failure::from(CheckpointError::from(LightningError::NoEma));
        assert!(
            failure
                .message
                .ends_with("; take state_dict with --raw-weights")
        );
        assert_eq!(Failure::interrupted().code, INTERRUPTED);
    }
}
