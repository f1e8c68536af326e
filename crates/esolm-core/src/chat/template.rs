//! A chat template that is ready to run.

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

/// What messages call the template.
const NAME: &str = "the template";
/// Units of work that any conversation has. One is an instruction, or 64 bytes of text made.
const FUEL: u64 = 200_000;
/// Frames (loops, calls of macros) within each other.
const MOST_FRAMES: usize = 64;
/// Bytes of the prompt beside those of the messages.
const MOST_BYTES: usize = 1 << 20;

/// How a conversation is written down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rendering {
    /// Whether the beginning of an answer follows.
    pub add_generation_prompt: bool,
    /// Whether the model is to think first; nothing leaves it to the template.
    pub enable_thinking: Option<bool>,
    /// Seconds since 1970, for templates that tell the date.
    pub now: u64,
}

/// A chat template, compiled. It was written by nobody knows whom: it can read nothing but the messages, other templates neither; a bounded number of
/// units of work is done for it, in which the text that it makes counts too.
pub struct ChatTemplate {
    /// Runs on the same stack as it was compiled on.
    environment: Arc<Environment<'static>>,
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
    /// Compiles the template that a checkpoint's files hold.
    ///
    /// # Errors
    /// When there is none, or it is not one.
    pub fn new(files: &ChatFiles) -> Result<Self, ChatTemplateError> {
        let Told { source, tokens } = files::read(files)?;
        let source = guard::guarded(&source)?;
        let environment = on_a_deep_stack(move || compile(source))??;
        Ok(Self {
            environment: Arc::new(environment),
            tokens,
        })
    }

    /// The name of the token that ends a text, where the files say.
    pub fn eos_token(&self) -> Option<&str> {
        let token = self.tokens.iter().find(|(name, _)| *name == "eos_token");
        token.map(|(_, token)| token.as_str())
    }

    /// Whether it asks if the model is to think first.
    pub fn asks_for_thinking(&self) -> bool {
        let template = self.environment.get_template(NAME);
        template.is_ok_and(|template| template.source().contains("enable_thinking"))
    }

    /// The text of a conversation.
    ///
    /// # Errors
    /// When the template refuses it, fails, or does more work than it may.
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
    environment.remove_global("debug");
    environment.add_test("iterable", bounded::is_iterable);
    environment.add_filter("tojson", json::tojson);
    environment.add_filter(guard::BOUNDED, bounded::bounded);
    environment.add_filter(guard::HELD, bounded::held);
    // As transformers sets the language up.
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

/// The sentence for what the engine says.
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

/// What the engine says is longer than what [`shorten`] leaves, since it ends with the place.
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

/// Takes so many bytes and no more.
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

/// Runs something whose calls go as deep as a template's text tells them to: a thread of its own has the stack for it. A browser has one
/// stack, and stops the module where it overflows.
#[cfg(not(target_family = "wasm"))]
fn on_a_deep_stack<T: Send>(run: impl FnOnce() -> T + Send) -> Result<T, ChatTemplateError> {
    /// Only what is used of it takes memory.
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
