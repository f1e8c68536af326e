//! `esolm chat`: lines become messages, and answers are shown while they are written.

mod input;
mod line;
mod messages;
mod paint;
mod request;
mod saved;
mod show;

use esolm::{Chat, ChatEvent, Message};
use esolm_checkpoint::message::count;

use crate::arguments::{Chat as Arguments, commands_and_keys};
use crate::failure::Failure;
use crate::{interrupts, output, setup};
use input::Input;
use request::Asked;
use show::Show;

/// An example of a line of JSON.
const EXAMPLE: &str = "{\"messages\": [{\"role\": \"user\", \"content\": \"Hello\"}]}";

pub fn run(arguments: Arguments) -> Result<(), Failure> {
    let files = setup::open(&arguments.source, arguments.quiet)?;
    let files = request::with_template(files, &arguments)?;
    let options = request::options(&arguments);
    // Errors are reported before the model is loaded.
    files.check_chat(&options)?;
    let system = arguments.system.iter().map(Message::system);
    let messages = match &arguments.load {
        Some(path) => saved::load(path)?,
        None => system.collect(),
    };
    let model = setup::load(files, &arguments.device, arguments.quiet)?;
    let mut chat = Chat::new(&model, options)?;
    chat.set_messages(messages);
    let input = Input::new(!arguments.json)?;
    let mut conversation = Conversation {
        show: Show::new(arguments.json, arguments.quiet),
        is_typed: input.is_terminal(),
        chat,
        name: model.name().into(),
        failed: false,
    };
    if conversation.is_typed && !arguments.json && !arguments.quiet {
        output::note("/help lists the commands; Ctrl-D or /exit ends the conversation");
    }
    conversation.run(input)
}

struct Conversation {
    chat: Chat,
    show: Show,
    /// Whether messages are typed at a terminal.
    is_typed: bool,
    /// The model's name.
    name: String,
    /// Whether an error occurred.
    failed: bool,
}

impl Conversation {
    fn run(&mut self, mut input: Input) -> Result<(), Failure> {
        self.answers_nothing();
        while let Some(line) = input.next()? {
            let answered = line.and_then(|line| self.line(&line, input.number()));
            match answered {
                Ok(true) => {}
                Ok(false) => break,
                // At a terminal or with JSON, the conversation continues after an error.
                Err(failure) if failure.is_final() => return Err(failure),
                Err(failure) if self.show.is_json() => {
                    self.show.error(failure.message())?;
                    self.failed = true;
                }
                Err(failure) if self.is_typed => output::note(failure.message()),
                Err(failure) => return Err(failure),
            }
        }
        match self.failed && !self.is_typed {
            true => Err(Failure::told()),
            false => Ok(()),
        }
    }

    /// Processes a line, given its number; returns whether the conversation continues.
    fn line(&mut self, line: &str, number: u64) -> Result<bool, Failure> {
        // As in jobs, a byte order mark and spaces may precede an object.
        let object = line.trim_start_matches(['\u{feff}', ' ', '\t']);
        if self.show.is_json() && object.starts_with('{') {
            let asked = Asked::read(object).map_err(|why| {
                Failure::usage(format!(
                    "line {number} of the input: {why}; an example is {EXAMPLE}"
                ))
            })?;
            let options = self.chat.options.clone();
            let before = self.chat.messages().to_vec();
            asked.apply(&mut self.chat);
            let answered = self.answer();
            self.chat.options = options;
            if answered.is_err() {
                self.chat.set_messages(before);
            }
            return answered.map(|()| true);
        }
        if let Some(rest) = line.strip_prefix('/').filter(|rest| !rest.starts_with('/')) {
            return self.command(rest);
        }
        let text = line.strip_prefix('/').unwrap_or(line);
        if text.trim().is_empty() {
            return Ok(true);
        }
        // Pasted text often ends with a newline.
        let text = text.trim_end_matches('\n');
        self.chat.push(Message::user(text));
        let answered = self.answer();
        if answered.is_err() {
            self.chat.pop();
        }
        answered.map(|()| true)
    }

    fn command(&mut self, line: &str) -> Result<bool, Failure> {
        let (name, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
        let rest = rest.trim();
        let stands_alone = ["help", "?", "exit", "quit", "bye", "reset"].contains(&name);
        if stands_alone && !rest.is_empty() || name != "system" && line.trim_end().contains('\n') {
            // Probably a message, for example a pasted one.
            let takes = match stands_alone {
                true => "nothing after it",
                false => "one line",
            };
            return Err(Failure::usage(format!(
                "/{} takes {takes}; // begins a message with a /",
                output::printable(name)
            )));
        }
        let named = |what: &str| match rest {
            "" => Err(Failure::usage(format!("/{name} needs the name of {what}"))),
            path => Ok(std::path::Path::new(path)),
        };
        match name {
            "help" | "?" => self.show.note(&commands_and_keys())?,
            "exit" | "quit" | "bye" => return Ok(false),
            "reset" => {
                let messages = self.chat.messages().iter();
                let system = messages.take_while(|message| message.role == "system");
                let system = system.cloned().collect();
                self.chat.set_messages(system);
                self.show.note("a new conversation")?;
            }
            "system" => {
                let system = Some(rest).filter(|text| !text.is_empty());
                let messages = system.map(Message::system).into_iter().collect();
                self.chat.set_messages(messages);
                self.show.note("a new conversation")?;
            }
            "seed" => {
                let seed = match rest {
                    "" => None,
                    text => Some(text.parse().map_err(|_| {
                        Failure::usage(format!(
                            "/seed {text} is not a whole number from 0 to 2^64 - 1"
                        ))
                    })?),
                };
                self.chat.options.request.seed = seed;
                self.show.note(&match seed {
                    Some(seed) => format!("seed: {seed}"),
                    None => "seed: a random one for each answer".into(),
                })?;
            }
            "think" => {
                let think = match rest {
                    "on" | "" => Some(true),
                    "off" => Some(false),
                    "auto" => None,
                    _ => return Err(Failure::usage("/think takes on, off or auto")),
                };
                self.chat.options.think = think;
                let said = think.map_or("auto", |on| if on { "on" } else { "off" });
                self.show.note(&format!("think: {said}"))?;
            }
            "save" => {
                let path = named("a file to write")?;
                saved::save(path, &self.name, self.chat.messages())?;
                let messages = count(self.chat.messages().len(), "message");
                self.show
                    .note(&format!("{messages} written to {}", path.display()))?;
            }
            "load" => {
                let path = named("a file that /save wrote")?;
                let messages = saved::load(path)?;
                let read = count(messages.len(), "message");
                self.chat.set_messages(messages);
                self.show
                    .note(&format!("{read} read from {}", path.display()))?;
            }
            other => {
                return Err(Failure::usage(format!(
                    "there is no command /{}; /help says which there are, and // begins a message with a /",
                    output::printable(other)
                )));
            }
        }
        Ok(true)
    }

    /// Decides what a signal does between answers.
    fn answers_nothing(&self) {
        match self.is_typed {
            true => interrupts::ignore_ctrl_c(),
            false => interrupts::stop_nothing(),
        }
    }

    /// Answers the messages, and appends the answer to them.
    fn answer(&mut self) -> Result<(), Failure> {
        let answering = self.chat.answer();
        interrupts::stop(answering.stop_flag());
        let answered = self.watch(answering.blocking());
        self.answers_nothing();
        self.show.end()?;
        if let Some(message) = answered? {
            self.chat.push(message);
        }
        match interrupts::exit_code() {
            // Any signal other than Ctrl-C is meant for the program, not just for the answer.
            interrupts::INTERRUPTED => Ok(()),
            _ => Err(Failure::interrupted()),
        }
    }

    fn watch(
        &mut self,
        events: impl Iterator<Item = Result<ChatEvent, esolm::Error>>,
    ) -> Result<Option<Message>, Failure> {
        let mut message = None;
        for event in events {
            let event = event?;
            self.show.event(&event)?;
            if let ChatEvent::Answer(answer) = &event {
                message = Some(answer.message());
            }
        }
        Ok(message)
    }
}
