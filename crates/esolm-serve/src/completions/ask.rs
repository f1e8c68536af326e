//! Parsing of completion requests.

use esolm::Request;
use esolm::plan::Schedule;
use esolm::request::TokenName;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::error::ApiError;
use crate::fields::{Fields, wrong};

/// Fields of OpenAI's completions for features that are not supported.
const FOREIGN: [&str; 9] = [
    "best_of",
    "frequency_penalty",
    "logit_bias",
    "metadata",
    "presence_penalty",
    "service_tier",
    "store",
    "tools",
    "user",
];
/// Maximum number of most likely tokens reported with each token.
const MOST_LOGPROBS: u64 = 20;
/// Maximum stop strings.
const MOST_STOPS: usize = 16;
/// Maximum choices per prompt; no queue is larger.
const MOST_CHOICES: u64 = 1 << 16;
/// Maximum length of a text in tokens that a field may specify.
const MOST_TOKENS: u64 = 1 << 20;

/// What a text continues.
#[derive(Clone, Debug)]
pub enum Prompt {
    Text(String),
    Tokens(Vec<u32>),
}

/// A request.
#[derive(Debug)]
pub struct Ask {
    pub prompts: Vec<Prompt>,
    pub suffix: Option<String>,
    pub max_tokens: Option<usize>,
    /// Choices per prompt.
    pub n: usize,
    pub logprobs: Option<usize>,
    pub echo: bool,
    pub stream: bool,
    pub include_usage: bool,
    pub include_steps: bool,
    /// Tokens that end the text besides the checkpoint's own.
    pub ends: Vec<u32>,
    /// Further options: sampling, schedule, stop strings.
    pub request: Request,
}

impl Ask {
    /// Parses the fields, except the model's name, which has already been taken.
    ///
    /// # Errors
    /// Naming the first unusable field.
    pub fn read(mut fields: Fields) -> Result<Self, ApiError> {
        let prompts = prompts(fields.take("prompt"))?;
        let suffix = fields.text("suffix")?.filter(|suffix| !suffix.is_empty());
        let max_tokens = tokens_to_write(&mut fields, "max_tokens", 0)?;
        let n = choices(&mut fields)?;
        let logprobs = fields.whole("logprobs", 0, MOST_LOGPROBS)?;
        let echo = fields.flag("echo")?;
        let Streaming {
            stream,
            include_usage,
            include_steps,
        } = Streaming::read(&mut fields)?;
        let request = sampling(&mut fields)?;
        fields.finish(&FOREIGN)?;
        if max_tokens == Some(0) && !echo {
            let message =
                "max_tokens is 0, which leaves nothing to answer without echo; give at least 1";
            return Err(ApiError::field("max_tokens", message));
        }
        if suffix.is_some() {
            let is_text = prompts.iter().all(|p| matches!(p, Prompt::Text(_)));
            let (param, message) = match (is_text, echo, max_tokens) {
                (false, ..) => ("prompt", "a suffix goes with a prompt of text"),
                (_, true, _) => ("echo", "echo does not apply beside a suffix; leave it out"),
                (.., Some(0)) => ("max_tokens", "a middle has at least one token"),
                _ => ("", ""),
            };
            if !param.is_empty() {
                return Err(ApiError::field(param, message));
            }
        }
        Ok(Self {
            prompts,
            suffix,
            max_tokens,
            n,
            logprobs,
            echo,
            stream,
            include_usage,
            include_steps,
            ends: Vec::new(),
            request,
        })
    }
}

/// How a response is sent.
pub(super) struct Streaming {
    pub stream: bool,
    pub include_usage: bool,
    pub include_steps: bool,
}

impl Streaming {
    /// Parses the fields `stream` and `stream_options`.
    ///
    /// # Errors
    /// If one of them is unusable, or there are options without a stream.
    pub fn read(fields: &mut Fields) -> Result<Self, ApiError> {
        let stream = fields.flag("stream")?;
        let mut options = fields.object("stream_options")?;
        let include_usage = options.flag("include_usage")?;
        let include_steps = options.flag("include_steps")?;
        // OpenAI's own way to hide the length of what is sent.
        options.finish(&["include_obfuscation"])?;
        if (include_usage || include_steps) && !stream {
            let message = "stream_options go with a stream; set stream, or leave them out";
            return Err(ApiError::field("stream_options", message));
        }
        Ok(Self {
            stream,
            include_usage,
            include_steps,
        })
    }
}

/// Choices per prompt.
pub(super) fn choices(fields: &mut Fields) -> Result<usize, ApiError> {
    Ok(fields.whole("n", 1, MOST_CHOICES)?.unwrap_or(1))
}

/// Number of tokens to generate, from the field with this name.
pub(super) fn tokens_to_write(
    fields: &mut Fields,
    name: &str,
    least: u64,
) -> Result<Option<usize>, ApiError> {
    fields.whole(name, least, MOST_TOKENS)
}

/// How tokens are drawn, and where texts end.
pub(super) fn sampling(fields: &mut Fields) -> Result<Request, ApiError> {
    let single = |number: Option<f64>| number.map(|number| number as f32);
    Ok(Request {
        temperature: single(fields.number("temperature")?),
        top_p: single(fields.number("top_p")?),
        min_p: single(fields.number("min_p")?),
        top_k: fields.whole("top_k", 1, u32::MAX.into())?.map(|k| k as u32),
        alpha_0: fields.number("alpha_0")?,
        steps: fields.whole("steps", 1, MOST_TOKENS)?,
        confidence_threshold: single(fields.number("confidence_threshold")?),
        confidence: named(fields, "confidence")?,
        prompt_tail: named(fields, "prompt_tail")?,
        block_size: fields.whole("block_size", 1, MOST_TOKENS)?,
        window: fields.whole("window", 1, MOST_TOKENS)?,
        schedule: schedule(fields)?,
        seed: seed(fields.take("seed"))?,
        stop_strings: stops(fields.take("stop"))?,
        suppress_tokens: token_names(fields, "suppress_tokens")?,
        begin_suppress_tokens: token_names(fields, "begin_suppress_tokens")?,
        ..Request::default()
    })
}

fn prompts(value: Option<Value>) -> Result<Vec<Prompt>, ApiError> {
    let range = "text, a list of texts, a list of token numbers or a list of those";
    let Some(value) = value else {
        return Ok(vec![Prompt::Text(String::new())]);
    };
    let items = match value {
        Value::String(text) => return Ok(vec![Prompt::Text(text)]),
        Value::Array(items) => items,
        other => return Err(wrong("prompt", &other, range)),
    };
    let mixed = || ApiError::field("prompt", format!("prompt must be {range}"));
    match items.first() {
        None => Err(ApiError::field(
            "prompt",
            "prompt is an empty list; give at least one",
        )),
        Some(Value::Number(_)) => Ok(vec![Prompt::Tokens(tokens("prompt", items)?)]),
        Some(Value::String(_)) => items
            .into_iter()
            .map(|item| match item {
                Value::String(text) => Ok(Prompt::Text(text)),
                _ => Err(mixed()),
            })
            .collect(),
        Some(Value::Array(_)) => items
            .into_iter()
            .map(|item| match item {
                Value::Array(items) => Ok(Prompt::Tokens(tokens("prompt", items)?)),
                _ => Err(mixed()),
            })
            .collect(),
        Some(_) => Err(mixed()),
    }
}

/// A list of token numbers.
///
/// # Errors
/// If it contains anything else.
pub fn tokens(name: &str, items: Vec<Value>) -> Result<Vec<u32>, ApiError> {
    let token = |item: &Value| {
        let number = item.as_u64().and_then(|number| u32::try_from(number).ok());
        number.ok_or_else(|| {
            let item = match item {
                Value::Array(_) | Value::Object(_) => "something else".into(),
                item => item.to_string().chars().take(40).collect::<String>(),
            };
            ApiError::field(name, format!("{name} holds {item} among its token numbers"))
        })
    };
    items.iter().map(token).collect()
}

/// A list of tokens by their numbers or names.
fn token_names(fields: &mut Fields, name: &str) -> Result<Vec<TokenName>, ApiError> {
    let range = "a list of tokens, each by its number or its name";
    let items = match fields.take(name) {
        None => return Ok(Vec::new()),
        Some(Value::Array(items)) => items,
        Some(other) => return Err(wrong(name, &other, range)),
    };
    let token = |item: Value| {
        let token = match &item {
            Value::String(text) => Some(TokenName::Name(text.clone())),
            item => (item.as_u64())
                .and_then(|number| u32::try_from(number).ok())
                .map(TokenName::Number),
        };
        token.ok_or_else(|| wrong(name, &item, range))
    };
    items.into_iter().map(token).collect()
}

fn schedule(fields: &mut Fields) -> Result<Option<Schedule>, ApiError> {
    let name = fields.text("schedule")?;
    name.map(|name| {
        let refused = |_| {
            let names = Schedule::ALL.map(Schedule::name).join(", ");
            wrong(
                "schedule",
                &Value::String(name.clone()),
                &format!("one of {names}"),
            )
        };
        name.parse().map_err(refused)
    })
    .transpose()
}

/// One of the names of an enum.
fn named<T: DeserializeOwned>(fields: &mut Fields, field: &str) -> Result<Option<T>, ApiError> {
    let Some(name) = fields.text(field)? else {
        return Ok(None);
    };
    match serde_json::from_value(Value::String(name)) {
        Ok(named) => Ok(Some(named)),
        Err(error) => Err(ApiError::field(field, format!("{field}: {error}"))),
    }
}

/// A number, or a string of digits if JavaScript would round it.
fn seed(value: Option<Value>) -> Result<Option<u64>, ApiError> {
    let Some(value) = value else {
        return Ok(None);
    };
    let number = match &value {
        Value::String(digits) => digits.parse().ok(),
        other => other.as_u64(),
    };
    match number {
        Some(seed) => Ok(Some(seed)),
        None => Err(wrong("seed", &value, "a whole number from 0 to 2^64 - 1")),
    }
}

fn stops(value: Option<Value>) -> Result<Vec<String>, ApiError> {
    let range = format!("text, or a list of up to {MOST_STOPS} texts");
    let items = match value {
        None => return Ok(Vec::new()),
        Some(Value::String(text)) => return Ok(vec![text]),
        Some(Value::Array(items)) if items.len() <= MOST_STOPS => items,
        Some(other) => return Err(wrong("stop", &other, &range)),
    };
    let text = |item: Value| match item {
        Value::String(text) => Ok(text),
        other => Err(wrong("stop", &other, &range)),
    };
    items.into_iter().map(text).collect()
}
