//! A compiled chat template.

use std::error::Error as _;
use std::sync::Arc;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::Serde;
use minijinja::{Environment, Error, ErrorKind, Value};

use super::bounded::{self, Raised};
use super::error::ChatTemplateError;
use super::files::{self, Told};
use super::{Message, clock, guard, json};
use crate::checkpoint::ChatFiles;
use crate::message::shorten;

/// Name of the template in messages.
const NAME: &str = "the template";
/// Units of work allowed for any conversation. One unit is an instruction, or 64 bytes of text produced.
const FUEL: u64 = 200_000;
/// Maximum nesting of frames (loops, macro calls).
const MOST_FRAMES: usize = 64;
/// Maximum bytes of the prompt in addition to those of the messages.
const MOST_BYTES: usize = 1 << 20;

/// Options for rendering a conversation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rendering {
    /// Whether to end with the beginning of an answer.
    pub add_generation_prompt: bool,
    /// Whether the model should think first; `None` leaves this to the template.
    pub enable_thinking: Option<bool>,
    /// Seconds since 1970, for templates that state the date.
    pub now: u64,
}

/// A compiled chat template. Its author is not trusted: it can read only the messages, and not even other templates,
/// and it gets a bounded amount of work, including the text that it produces.
pub struct ChatTemplate {
    /// Must run on the stack size on which it was compiled.
    environment: Arc<Environment<'static>>,
    /// As the files have it.
    source: String,
    tokens: Vec<(&'static str, String)>,
}

impl std::fmt::Debug for ChatTemplate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ChatTemplate")
            .field("tokens", &self.tokens)
            .finish_non_exhaustive()
    }
}

impl ChatTemplate {
    /// Compiles the template in a checkpoint's files.
    ///
    /// # Errors
    /// If there is none, or it is invalid.
    pub fn new(files: &ChatFiles) -> Result<Self, ChatTemplateError> {
        let Told { source, tokens } = files::read(files)?;
        let guarded = guard::guarded(&source)?;
        let environment = on_a_deep_stack(move || compile(guarded))??;
        Ok(Self {
            environment: Arc::new(environment),
            source,
            tokens,
        })
    }

    /// The name of the token that ends a text, if the files specify one.
    pub fn eos_token(&self) -> Option<&str> {
        let token = self.tokens.iter().find(|(name, _)| *name == "eos_token");
        token.map(|(_, token)| token.as_str())
    }

    /// Whether it uses the option to think first.
    pub fn asks_for_thinking(&self) -> bool {
        self.source.contains("enable_thinking")
    }

    /// Its text, as the checkpoint's files have it.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// The text of a conversation.
    ///
    /// # Errors
    /// If the template rejects it, fails, or exceeds its bounds.
    pub fn render(
        &self,
        messages: &[Message],
        how: Rendering,
    ) -> Result<String, ChatTemplateError> {
        let Rendering {
            add_generation_prompt,
            enable_thinking,
            now,
        } = how;
        let given: usize = messages.iter().map(Message::bytes).sum();
        let mut variables = vec![
            ("messages", Value::from(Serde(messages))),
            ("add_generation_prompt", add_generation_prompt.into()),
            ("tools", Value::from(())),
            ("documents", Value::from(())),
        ];
        variables.extend(enable_thinking.map(|on| ("enable_thinking", on.into())));
        let tokens = self.tokens.iter();
        variables.extend(tokens.map(|(name, token)| (*name, Value::from(token.as_str()))));
        let strftime = move |format: String| {
            let written = clock::strftime(&format, now);
            let unknown = || {
                Error::new(
                    ErrorKind::InvalidOperation,
                    "strftime_now does not know the format",
                )
            };
            written.ok_or_else(unknown)
        };
        variables.push(("strftime_now", Value::from_function(strftime)));
        let mut environment = (*self.environment).clone();
        environment.set_fuel(Some(FUEL + given as u64));
        let rendered = on_a_deep_stack(move || {
            let context = Value::from_pairs(variables);
            let template = environment.get_template(NAME).map_err(|e| failed(&e))?;
            let mut text = Vec::new();
            let writer = Bounded {
                out: &mut text,
                left: given.saturating_mul(4).saturating_add(MOST_BYTES),
            };
            match template.render_captured_to(context, writer) {
                Ok(_) => {}
                Err(error) => return Err(failed(&error)),
            }
            Ok(String::from_utf8_lossy(&text).into_owned())
        });
        rendered?
    }
}

fn compile(source: String) -> Result<Environment<'static>, ChatTemplateError> {
    let mut environment = Environment::new();
    environment.set_fuel(Some(FUEL));
    environment.set_recursion_limit(MOST_FRAMES);
    environment.set_unknown_method_callback(bounded::method);
    environment.add_function("raise_exception", bounded::raise_exception);
    environment.add_function("range", bounded::range);
    let dict = Value::from_function(minijinja::functions::dict);
    environment.add_function("dict", bounded::of(dict));
    let namespace = Value::from_function(minijinja::functions::namespace);
    environment.add_function("namespace", bounded::of(namespace));
    environment.remove_global("debug");
    environment.add_test("iterable", bounded::is_iterable);
    environment.add_filter("tojson", json::tojson);
    environment.add_filter(guard::BOUNDED, bounded::bounded);
    environment.add_filter(guard::HELD, bounded::held);
    // The settings used by transformers.
    let syntax = SyntaxConfig::builder()
        .trim_blocks(true)
        .lstrip_blocks(true)
        .build()
        .map_err(|error| failed(&error))?;
    environment.set_syntax(syntax);
    let added = environment.add_template_owned(NAME, source);
    added.map_err(|error| failed(&error))?;
    Ok(environment)
}

/// Turns the engine's error into a sentence.
fn failed(error: &Error) -> ChatTemplateError {
    let mut cause = error.source();
    while let Some(inner) = cause {
        if let Some(Raised(message)) = inner.downcast_ref() {
            return ChatTemplateError::Refused(shorten(message));
        }
        cause = inner.source();
    }
    match error.kind() {
        ErrorKind::OutOfFuel | ErrorKind::WriteFailure => ChatTemplateError::TooMuch,
        _ => ChatTemplateError::Failed(shorten_twice(&error.to_string())),
    }
}

/// Shortens an engine's message but keeps the location at its end, which [`shorten`] would cut off.
fn shorten_twice(text: &str) -> String {
    match text.rsplit_once(" (in ") {
        Some((what, place)) => {
            let line = place.rsplit(':').next().unwrap_or_default();
            format!(
                "{} (line {})",
                shorten(what),
                shorten(line.trim_end_matches(')'))
            )
        }
        None => shorten(text),
    }
}

/// Writes at most a fixed number of bytes.
struct Bounded<'a> {
    out: &'a mut Vec<u8>,
    left: usize,
}

impl std::io::Write for Bounded<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let too_long = || std::io::Error::other("the text is too long");
        self.left = self.left.checked_sub(bytes.len()).ok_or_else(too_long)?;
        self.out.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Runs something whose recursion depth depends on a template's text, on a thread with a large enough stack. A browser
/// has only one stack, and stops the module on overflow.
#[cfg(not(target_family = "wasm"))]
fn on_a_deep_stack<T: Send>(run: impl FnOnce() -> T + Send) -> Result<T, ChatTemplateError> {
    /// Only the part that is used takes memory.
    const STACK: usize = 64 << 20;
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("template".into());
        let thread = thread.stack_size(STACK).spawn_scoped(scope, run);
        let thread = thread.map_err(|error| ChatTemplateError::Thread(error.to_string()))?;
        let panicked = |_| ChatTemplateError::Failed("the engine of templates gave up".into());
        thread.join().map_err(panicked)
    })
}

#[cfg(target_family = "wasm")]
fn on_a_deep_stack<T>(run: impl FnOnce() -> T) -> Result<T, ChatTemplateError> {
    Ok(run())
}
