//! How a command ends when it fails: an exit code, and one sentence on stderr.

use std::io::{self, Write};

use clap::error::{ContextKind, ContextValue, ErrorKind};
use esolm::checkpoint::{CheckpointError, FileError, LightningError};
use esolm::config::{ConfigError, Open};
use esolm::documents::BetweenError;
use esolm::plan::PlanError;
use esolm::request::MAX_BATCH;
use esolm::text::{TemplateError, TextError};
use esolm::{
    ChatError, ChatTemplateError, EngineError, Error, ItemError, LikelihoodError, MemoryUse,
    RequestError, SamplerError, Weights,
};
use esolm_checkpoint::atomic;
use esolm_checkpoint::message::count;
use esolm_serve::ServeError;
use esolm_train::TrainError;

use crate::{files, interrupts, output};

/// Bad usage, whenever it is detected: an option is unknown, its value is out of range, the model does not support it,
/// or it contradicts what already exists.
const USAGE: u8 = 2;
/// Everything else: a file, one of its lines or a recipe is wrong, or the machine is not able to do it.
const FAILED: u8 = 1;

/// The remedy if the network's numbers overflow.
pub const OVERFLOWED: &str =
    "give another checkpoint, or use f32 where --weights or --kv-cache say f16";

/// Why a command stopped.
#[derive(Debug)]
pub struct Failure {
    code: u8,
    /// Empty if nothing remains to be said.
    message: String,
}

impl Failure {
    /// The same, with the name of what it is about.
    pub fn about(self, name: &str) -> Self {
        Self {
            message: format!("{name}: {}", self.message),
            ..self
        }
    }

    /// The command line must be changed.
    pub fn usage(message: impl Into<String>) -> Self {
        Self {
            code: USAGE,
            message: message.into(),
        }
    }

    /// The command line is correct, but something else is wrong.
    pub fn failed(message: impl Into<String>) -> Self {
        Self {
            code: FAILED,
            message: message.into(),
        }
    }

    fn of(is_usage: bool, message: String) -> Self {
        match is_usage {
            true => Self::usage(message),
            false => Self::failed(message),
        }
    }

    /// A text that cannot be scored, with its position in the input.
    pub fn item(place: &str, error: &ItemError) -> Self {
        Self::failed(match error {
            ItemError::Between(BetweenError::NothingBefore) => format!(
                "{place}: it has nothing before the text to score, and the model does not predict the first token; give a \
                 context, or begin texts with --bos"
            ),
            error => format!("{place}: {error}"),
        })
    }

    /// A training that did not start or continue.
    pub fn training(error: TrainError) -> Self {
        let (is_usage, remedy) = match error {
            TrainError::Engine(error) => return error.into(),
            TrainError::Checkpoint(error) => return error.into(),
            TrainError::Text(error) => return error.into(),
            TrainError::Override(_) => (true, "an example is --set run.batch=16"),
            TrainError::Occupied(_) => (true, "continue it with --resume, or give another --out"),
            TrainError::NothingToResume(_) => (true, "start one without --resume"),
            TrainError::Locked(_) => (false, "wait for its end, or give another --out"),
            TrainError::TextChanged(_) => (
                false,
                "give the same text, or --accept-changed-text if the change is meant",
            ),
            TrainError::NetworkChanged { .. } => (
                false,
                "keep the values that it was trained with, or give another --out for a new training",
            ),
            TrainError::SourceDiffers { .. } => (
                false,
                "leave these keys out, since the weights to start from settle them",
            ),
            TrainError::NotOpened(_) => (true, "name it with --init"),
            TrainError::TokenizerChanged { .. } => (
                false,
                "put back its tokenizer.json, of which model/tokenizer.json is a copy, or give another --out for a new training",
            ),
            TrainError::Recipe(_) => (false, "`esolm train --help` shows one"),
            error => return Self::failed(error.to_string()),
        };
        Self::of(is_usage, format!("{error}; {remedy}"))
    }

    /// A server that did not start.
    pub fn serving(error: ServeError) -> Self {
        let (is_usage, remedy) = match error {
            ServeError::Address { .. } => (false, "give another --host or --port"),
            ServeError::SameName(_) => (true, "--model NAME=MODEL names one"),
            ServeError::NoTokenizer(_) | ServeError::NoModel | ServeError::Thread(_) => {
                return Self::failed(error.to_string());
            }
        };
        Self::of(is_usage, format!("{error}; {remedy}"))
    }

    /// The error has already been reported.
    pub fn told() -> Self {
        Self::failed("")
    }

    /// What is wrong.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// Whether there is no error to report: the program was told to stop, or nothing reads its output any more.
    pub fn is_final(&self) -> bool {
        self.message.is_empty()
    }

    /// The command was stopped by a signal.
    pub fn interrupted() -> Self {
        Self {
            code: interrupts::exit_code(),
            message: String::new(),
        }
    }

    /// Whether it was stopped by a signal.
    pub fn is_interrupt(&self) -> bool {
        self.message.is_empty() && self.code == interrupts::exit_code()
    }

    /// Writing to stdout failed. It is not an error if the reader has gone away, such as `head`.
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

    /// Prints the message and returns the exit code.
    pub fn exit(self) -> u8 {
        if !self.message.is_empty() {
            say(&self.message);
        }
        self.code
    }
}

/// The library's message, with the remedy in terms of the command line.
impl<E: Into<Error>> From<E> for Failure {
    fn from(error: E) -> Self {
        match error.into() {
            Error::Checkpoint(error) => checkpoint(&error),
            Error::Text(error) => text(&error),
            Error::NeedsTokenizer => Self::usage(
                "texts need a tokenizer; give one with --tokenizer FILE instead of none",
            ),
            Error::Request(error) => request(&error),
            Error::Plan(error) => plan(&error),
            Error::Engine(error) => engine(&error),
            Error::Likelihood(error @ LikelihoodError::NotFinite { .. }) => {
                Self::failed(format!("{error}; {OVERFLOWED}"))
            }
            Error::Range {
                option,
                value,
                range,
            } => out_of_range(option, &value, &range),
            Error::NotApplicable { option, why } => not_applicable(option, why),
            Error::Context { length, context } => too_long(length, context),
            Error::LongSequences { length, context } => Self::failed(format!(
                "tokens has sequences of {length} tokens, but the model's context is {context}; give shorter ones"
            )),
            Error::Orders { orders, sequences } => Self::failed(format!(
                "sort_idx has {} where tokens has {sequences}; give arrays of the same shape [N, L]",
                count(orders, "row")
            )),
            Error::NothingToCompute => Self::usage(
                "neither the exact likelihood nor the NELBO is left to compute; give --draws 1 or more",
            ),
            Error::Chat(error) => chat(&error),
            Error::Stopped => Self::interrupted(),
            error => Self::failed(error.to_string()),
        }
    }
}

/// The option that sets a field of the library. A field without an option, such as an array in a file, keeps its name.
fn flag(field: &str) -> String {
    match field {
        "sort_idx" => field.into(),
        "alpha_0" => "--alpha0".into(),
        "first_sequence" => "--first".into(),
        _ => format!("--{}", field.replace('_', "-")),
    }
}

fn out_of_range(option: &str, value: &dyn std::fmt::Display, range: &str) -> Failure {
    let option = flag(option);
    Failure::usage(format!("{option} is {value}; it must be {range}"))
}

fn not_applicable(option: &str, why: &str) -> Failure {
    let option = flag(option);
    Failure::usage(format!("{option} does not apply to {why}; leave it out"))
}

fn too_long(length: usize, context: usize) -> Failure {
    Failure::usage(format!(
        "--length {length} is more than the model's context of {context} tokens; give at most that"
    ))
}

fn checkpoint(error: &CheckpointError) -> Failure {
    use CheckpointError::{
        Config, File, HubName, Lightning, MaskUnknown, NoConfig, PaddedMask,
        RawWeightsNotApplicable,
    };
    let remedy = match error {
        MaskUnknown { .. } | PaddedMask { .. } => {
            "give a configuration that has it with --config FILE"
        }
        Config {
            source: ConfigError::Open(open),
            ..
        } => return left_open(error, open),
        Config {
            source: ConfigError::OtherFamily { .. },
            ..
        } => return Failure::usage(format!("{error}; leave --as out")),
        NoConfig { .. } => "give one with --config FILE, or put config.json beside it",
        RawWeightsNotApplicable => {
            "leave --raw-weights out, a safetensors file holds one set of weights"
        }
        Lightning(
            LightningError::NoEma
            | LightningError::EmaCount { .. }
            | LightningError::EmaShape { .. },
        ) => "take state_dict with --raw-weights",
        Lightning(LightningError::NoConfig | LightningError::Interpolation { .. }) => {
            "give a configuration with --config FILE"
        }
        File(FileError::TooLarge { .. }) => "convert it with `esolm convert` and give the folder",
        File(FileError::Io {
            action: "write" | "create",
            source,
            ..
        }) => match source.kind() {
            // The name in the cache folder is not one that the user knows.
            io::ErrorKind::InvalidInput => "remove it, or give another folder",
            kind => files::remedy(kind),
        },
        _ => return Failure::of(matches!(error, HubName { .. }), error.to_string()),
    };
    let is_usage = matches!(error, RawWeightsNotApplicable);
    Failure::of(is_usage, format!("{error}; {remedy}"))
}

/// Asks for everything that a decoder's configuration leaves open at once.
fn left_open(error: &CheckpointError, open: &Open) -> Failure {
    let options = match (open.model_type, open.block_size) {
        (Some(_), _) => Some("say --as mdlm, or --as bd3lm with --block-size N"),
        (None, true) => Some("give the size with --block-size N"),
        (None, false) => None,
    };
    let files = open.mask.then_some(
        "put the model's tokenizer files beside the weights (or \"mask_token_id\" into the configuration)",
    );
    let remedies: Vec<&str> = options.into_iter().chain(files).collect();
    Failure::of(
        options.is_some(),
        format!("{error}; {}", remedies.join(", and ")),
    )
}

fn chat(error: &ChatError) -> Failure {
    let remedy = match error {
        ChatError::Template(ChatTemplateError::Refused(_)) | ChatError::NoMessage => {
            return Failure::failed(error.to_string());
        }
        ChatError::Template(ChatTemplateError::Missing) => "give one with --chat-template FILE",
        ChatError::Template(_) => "give another with --chat-template FILE",
        ChatError::NotADecoder { .. } => "continue text with `esolm sample --prompt`",
        ChatError::TooLong { .. } => "shorten it, or give a smaller --max-tokens",
    };
    Failure::failed(format!("{error}; {remedy}"))
}

fn plan(error: &PlanError) -> Failure {
    match error {
        PlanError::Range { name, value, range } => out_of_range(name, value, range),
        _ => Failure::of(
            matches!(
                error,
                PlanError::Known { .. }
                    | PlanError::Schedule { .. }
                    | PlanError::ArSchedule
                    | PlanError::ArGap { .. }
            ),
            error.to_string(),
        ),
    }
}

fn text(error: &TextError) -> Failure {
    match error {
        TextError::Io { .. } => {
            Failure::failed(format!("{error}; give a tokenizer.json with --tokenizer"))
        }
        TextError::Template(TemplateError::TooLong {
            needed,
            given,
            gaps,
            opening,
            length,
        }) => Failure::usage(format!(
            "the infill template needs {needed} tokens ({given} given, {gaps} in gaps{opening}), but the length is {length}; \
                 shorten the gaps, or raise --length if the model's context is longer"
        )),
        error if error.is_of_tokenizer() => Failure::failed(error.to_string()),
        error => Failure::usage(error.to_string()),
    }
}

fn request(error: &RequestError) -> Failure {
    match error {
        RequestError::Length { length, context } => too_long(*length, *context),
        RequestError::Batch { batch } => Failure::usage(format!(
            "--batch {batch} is too many texts; give at most {MAX_BATCH} at once"
        )),
        RequestError::Prompts { prompts, batch } => Failure::usage(format!(
            "{prompts} prompts do not divide a batch of {batch}; give a --batch that is a multiple of their number, or leave it out"
        )),
        RequestError::PromptTooLong {
            tokens,
            opening,
            length,
        } => Failure::usage(format!(
            "the prompt has {}{opening}, which leaves nothing to write in a length of {length}; shorten it, or raise \
             --length if the model's context is longer",
            count(*tokens, "token")
        )),
        RequestError::NoTokenizer { what } => Failure::usage(format!(
            "{what} needs a tokenizer; give one with --tokenizer FILE instead of none"
        )),
        RequestError::Range {
            option,
            value,
            range,
        } => out_of_range(option, value, range),
        RequestError::NotApplicable { option, why } => not_applicable(option, why),
        RequestError::NoToken {
            option,
            token,
            vocab_size,
        } => {
            let option = flag(option);
            Failure::usage(format!(
                "{token} in {option} is not one token of the model; give a token's name, or its number below {vocab_size}"
            ))
        }
        RequestError::NothingLeft { option } => {
            let option = flag(option);
            Failure::usage(format!(
                "{option} leaves no token to draw; leave some of them out"
            ))
        }
        RequestError::Text(error) => text(error),
        RequestError::Plan(error) => plan(error),
        RequestError::Sampler(SamplerError {
            option,
            value,
            range,
        }) => out_of_range(option, value, range),
        RequestError::PromptAndInfill | RequestError::EmptyStopString => {
            Failure::usage(error.to_string())
        }
    }
}

fn engine(error: &EngineError) -> Failure {
    match error {
        EngineError::Checkpoint(error) => checkpoint(error),
        EngineError::CpuOnly { .. }
        | EngineError::Activations { .. }
        | EngineError::Option { .. } => Failure::usage(engine_sentence(error)),
        error => Failure::failed(engine_sentence(error)),
    }
}

/// An engine error with its remedy, also for arrays read from files given on the command line.
pub fn engine_sentence(error: &EngineError) -> String {
    let smaller = "use a shorter --length, a smaller --batch, --weights f16 or --device cpu";
    let remedy = match error {
        EngineError::NoAdapter(_) => {
            "install a Vulkan, Metal or DirectX 12 driver, or use --device cpu"
        }
        EngineError::Overflow {
            weights: Weights::F32,
            ..
        } => "give another checkpoint",
        EngineError::Overflow { .. } => "use --weights f32",
        EngineError::CpuOnly { .. } => "use --device cpu, or leave --activations out",
        EngineError::Activations { .. } => "use --weights q8, or leave --activations out",
        EngineError::AdapterIndex { .. } => "`esolm devices` lists them",
        EngineError::Refused { .. } => {
            "update the driver, or use --device cpu or another GPU that `esolm devices` lists"
        }
        EngineError::Option {
            option: "device", ..
        } => return format!("{error} with N from `esolm devices`"),
        EngineError::Device(_) => {
            "run again, and if it happens again use --device cpu or a smaller --batch"
        }
        EngineError::Memory { .. } | EngineError::DeviceMemory(_) => smaller,
        EngineError::NotFinite { .. } => OVERFLOWED,
        EngineError::MaskDrawn { .. } => "give another checkpoint",
        EngineError::HostMemory { purpose, .. } => match purpose {
            MemoryUse::Model => {
                "free or allow more, or use a smaller model or fewer bits, as --weights q8 or q4"
            }
            MemoryUse::Batch { .. } => "use a smaller --batch or a shorter --length",
            MemoryUse::Logits { .. } => "give fewer sequences at once",
            MemoryUse::Rates => "free or allow more",
            MemoryUse::Training => "lower run.batch, model.length or model.hidden in the recipe",
        },
        EngineError::Thread(_) => "allow this user more processes or more memory",
        EngineError::Kernel(_) => "use --device cpu, and report it with the name of the GPU",
        EngineError::Shape(_) => "use --device cpu",
        _ => return error.to_string(),
    };
    format!("{error}; {remedy}")
}

/// Prints one sentence on stderr. If stderr itself is gone, there is nowhere to report it.
fn say(message: &str) {
    let _ = writeln!(io::stderr(), "esolm: {message}");
}

/// Ends a run whose command line clap rejected: prints help and version as they are, and an error as one sentence.
pub fn usage_exit(error: &clap::Error) -> u8 {
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            // Fails only if nothing reads the output.
            let _ = error.print();
            0
        }
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            let _ = error.print();
            USAGE
        }
        _ => {
            say(&usage_sentence(error));
            USAGE
        }
    }
}

/// clap's message as one sentence: what is wrong, what may have been meant, and where to read more.
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
    sentence + "; see --help"
}

/// A panic is a bug in the program. It still ends in one sentence, in any thread, and ends the program, unless it happens
/// while a request is answered: the server tells its client.
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
        output::restore_terminal();
        say(&format!(
            "this is a bug in esolm ({}{place}); please report it together with the command line",
            what.join(" ")
        ));
        if std::thread::current().name() == Some(esolm_serve::THREADS) {
            return;
        }
        atomic::abandon_all();
        interrupts::exit(FAILED);
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
            assert!(sentence.ends_with("; see --help"), "{sentence}");
        }
        assert!(sentence(&["sample", "--alpha0", "7"]).contains("from 0 to 1"));
        assert!(sentence(&["sample", "--seeed", "1"]).contains("perhaps --seed was meant"));
        assert!(sentence(&["sample", "--schedule", "bloks"]).contains("perhaps blocks was meant"));
    }

    #[test]
    fn fields_are_named_as_the_options_that_set_them() {
        let named = [
            "alpha_0",
            "top_p",
            "first_sequence",
            "no_exact",
            "steps",
            "sort_idx",
        ]
        .map(flag);
        assert_eq!(
            named,
            [
                "--alpha0",
                "--top-p",
                "--first",
                "--no-exact",
                "--steps",
                "sort_idx"
            ]
        );
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
        let range = Failure::from(RequestError::Plan(range));
        assert_eq!(range.code, USAGE);
        assert_eq!(range.message, "--steps is 0; it must be 1 or more");
        let missing = CheckpointError::NotFound { spec: "x".into() };
        assert_eq!(Failure::from(missing).code, FAILED);
        let failure = Failure::from(CheckpointError::from(LightningError::NoEma));
        assert!(
            failure
                .message
                .ends_with("; take state_dict with --raw-weights")
        );
        assert_eq!(Failure::from(Error::Stopped).code, interrupts::INTERRUPTED);
    }
}
