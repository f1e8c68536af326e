//! Responses to completion requests, complete or as a stream.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::body::Bytes;
use esolm::text::TextCodec;
use esolm::trace::Step;
use esolm::{Echoed, Told, Writing, Written, split_thoughts};
use futures_core::Stream;
use serde::Serialize;

use super::ask::Ask;
use super::choice::{Choice, LogProbs, Piece};
use super::order::Order;
use crate::error::ApiError;
use crate::metrics::Metrics;

/// The format of a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// For `/v1/completions`.
    Text,
    /// For `/v1/chat/completions`.
    Chat,
}

impl Form {
    /// Prefix of ids.
    pub fn prefix(self) -> &'static str {
        match self {
            Self::Text => "cmpl",
            Self::Chat => "chatcmpl",
        }
    }

    /// The `object` of a response; only in chats do the parts of a stream have a different one.
    fn object(self, is_stream: bool) -> &'static str {
        match (self, is_stream) {
            (Self::Text, _) => "text_completion",
            (Self::Chat, false) => "chat.completion",
            (Self::Chat, true) => "chat.completion.chunk",
        }
    }
}

/// Fields common to all parts of a response.
#[derive(Clone, Debug)]
pub struct Head {
    pub form: Form,
    pub id: String,
    /// Seconds since 1970.
    pub created: u64,
    pub model: String,
    pub seed: u64,
}

/// A response, or a part of a stream.
#[derive(Serialize)]
struct Part<'a> {
    id: &'a str,
    object: &'static str,
    created: u64,
    model: &'a str,
    choices: Vec<ChoicePart<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: Option<Usage>,
    /// The seed that reproduces the text; a string of digits if a JavaScript number would round it.
    #[serde(skip_serializing_if = "Option::is_none")]
    seed: Option<serde_json::Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    step: Option<&'a Step>,
}

/// A choice in a part.
#[derive(Serialize)]
struct ChoicePart<'a> {
    index: usize,
    #[serde(flatten)]
    said: Said<'a>,
    logprobs: Option<&'a LogProbs>,
    finish_reason: Option<&'static str>,
}

/// The contents of a choice.
#[derive(Serialize)]
#[serde(rename_all = "lowercase")]
enum Said<'a> {
    Text(&'a str),
    /// A complete chat message.
    Message(Spoken<'a>),
    /// An addition to a chat message.
    Delta(Spoken<'a>),
}

#[derive(Serialize)]
struct Spoken<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    role: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    content: Option<&'a str>,
    /// What the model thought before it answered.
    #[serde(skip_serializing_if = "Option::is_none")]
    reasoning_content: Option<&'a str>,
}

/// The role of the model.
const ASSISTANT: Option<&str> = Some("assistant");

/// Token counts of a request and its response.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Usage {
    pub prompt_tokens: usize,
    pub completion_tokens: usize,
    pub total_tokens: usize,
}

impl Head {
    fn part<'a>(&'a self, is_stream: bool, choices: Vec<ChoicePart<'a>>) -> Part<'a> {
        Part {
            id: &self.id,
            object: self.form.object(is_stream),
            created: self.created,
            model: &self.model,
            choices,
            usage: None,
            seed: None,
            step: None,
        }
    }

    fn seed(&self) -> Option<serde_json::Value> {
        Some(match self.seed {
            seed if seed <= 1 << 53 => seed.into(),
            seed => seed.to_string().into(),
        })
    }
}

/// A piece of a choice; `is_stream` if more may follow.
fn told<'a>(form: Form, is_stream: bool, index: usize, piece: &'a Piece) -> ChoicePart<'a> {
    let text = &*piece.text;
    let said = match (form, is_stream) {
        (Form::Text, _) => Said::Text(text),
        (Form::Chat, false) => {
            let (thoughts, answer) = split_thoughts(text);
            Said::Message(Spoken {
                role: ASSISTANT,
                content: Some(answer),
                reasoning_content: thoughts,
            })
        }
        (Form::Chat, true) => Said::Delta(Spoken {
            role: None,
            content: Some(text).filter(|text| !text.is_empty()),
            reasoning_content: None,
        }),
    };
    ChoicePart {
        index,
        said,
        logprobs: piece.logprobs.as_ref(),
        finish_reason: piece.finish,
    }
}

/// A response in progress.
pub struct Answer {
    head: Head,
    codec: Arc<TextCodec>,
    choices: Vec<(Choice, Option<Writing>)>,
    /// What is echoed of each choice before anything is generated; choices of one prompt share it.
    echoes: Vec<Option<Arc<Piece>>>,
    prompt_tokens: usize,
    include_usage: bool,
    include_steps: bool,
    metrics: Arc<Metrics>,
}

impl Answer {
    /// `writings` has one entry per text of the order, `echoed` one per echo.
    pub fn new(
        head: Head,
        ask: &Ask,
        order: Order,
        writings: Vec<Writing>,
        echoed: Vec<Echoed>,
        codec: Arc<TextCodec>,
        metrics: Arc<Metrics>,
    ) -> Self {
        let mut writings = writings.into_iter();
        let (mut choices, mut echoes) = (Vec::new(), Vec::new());
        for (number, placed) in order.placed.iter().enumerate() {
            let mut echo = None;
            for _ in 0..ask.n {
                let writing = match placed.max_tokens {
                    0 => None,
                    _ => writings.next(),
                };
                let resolved = writing.as_ref().map(|writing| writing.resolved().clone());
                let choice = Choice::new(codec.clone(), placed, resolved, ask.logprobs);
                if ask.echo && echo.is_none() {
                    // Clients never see the opening token.
                    let hidden = placed.opening.len();
                    let own = echoed.get(number).map(|echoed| &echoed[hidden..]);
                    let piece = choice.echo(&placed.tokens, own.unwrap_or_default());
                    echo = Some(Arc::new(piece));
                }
                echoes.push(echo.clone());
                choices.push((choice, writing));
            }
        }
        Self {
            head,
            codec,
            choices,
            echoes,
            prompt_tokens: order.placed.iter().map(|p| p.tokens.len()).sum(),
            include_usage: ask.include_usage,
            include_steps: ask.include_steps,
            metrics,
        }
    }

    fn usage(&self) -> Usage {
        let completion_tokens = self.choices.iter().map(|(choice, _)| choice.written).sum();
        Usage {
            prompt_tokens: self.prompt_tokens,
            completion_tokens,
            total_tokens: self.prompt_tokens + completion_tokens,
        }
    }

    /// Waits for the texts of all choices, as far as they are generated.
    ///
    /// # Errors
    /// If one of them cannot be generated.
    pub async fn written(&mut self) -> Result<Vec<Option<Written>>, ApiError> {
        let mut all = Vec::with_capacity(self.choices.len());
        for (_, writing) in &mut self.choices {
            all.push(match writing.take() {
                Some(writing) => Some(writing.finish().await?),
                None => None,
            });
        }
        Ok(all)
    }

    /// The response as JSON, with the texts that have been generated.
    pub fn whole(mut self, written: Vec<Option<Written>>) -> Vec<u8> {
        let mut pieces = Vec::with_capacity(self.choices.len());
        for (((choice, _), echo), written) in
            (self.choices.iter_mut()).zip(&self.echoes).zip(written)
        {
            let mut piece = echo.as_deref().cloned().unwrap_or_default();
            match written {
                None => piece.finish = Some("length"),
                Some(written) => {
                    let written = choice.finish(written);
                    piece.text.push_str(&written.text);
                    piece.finish = written.finish;
                    match (&mut piece.logprobs, written.logprobs) {
                        (Some(logprobs), Some(more)) => logprobs.append(more),
                        (logprobs, more) => *logprobs = more,
                    }
                }
            }
            pieces.push(piece);
        }
        let usage = self.usage();
        self.metrics.count_tokens(&self.head.model, usage);
        let form = self.head.form;
        let choices = pieces.iter().enumerate();
        let choices = choices.map(|(i, piece)| told(form, false, i, piece));
        let part = Part {
            usage: Some(usage),
            seed: self.head.seed(),
            ..self.head.part(false, choices.collect())
        };
        serde_json::to_vec(&part).unwrap_or_default()
    }

    /// The response as a stream of server-sent events.
    pub fn stream(self) -> Parts {
        Parts {
            answer: self,
            ready: VecDeque::new(),
            has_begun: false,
            is_over: false,
        }
    }
}

/// A streamed response. Dropping it cancels its texts.
pub struct Parts {
    answer: Answer,
    ready: VecDeque<Bytes>,
    has_begun: bool,
    is_over: bool,
}

impl Parts {
    fn push(&mut self, json: &[u8]) {
        self.ready
            .push_back([b"data: ", json, b"\n\n"].concat().into());
    }

    fn push_part(&mut self, part: &Part) {
        self.push(&serde_json::to_vec(part).unwrap_or_default());
    }

    fn push_piece(&mut self, index: usize, piece: &Piece) {
        let head = self.answer.head.clone();
        self.push_part(&Part {
            seed: head.seed().filter(|_| piece.finish.is_some()),
            ..head.part(true, vec![told(head.form, true, index, piece)])
        });
    }

    /// Sends what comes before any generated text.
    fn begin(&mut self) {
        self.has_begun = true;
        for index in 0..self.answer.choices.len() {
            let is_written = self.answer.choices[index].1.is_some();
            let echo = self.answer.echoes[index].take();
            if self.answer.head.form == Form::Chat {
                // Clients expect the role first.
                let head = self.answer.head.clone();
                let spoken = Spoken {
                    role: ASSISTANT,
                    content: Some(""),
                    reasoning_content: None,
                };
                let choice = ChoicePart {
                    index,
                    said: Said::Delta(spoken),
                    logprobs: None,
                    finish_reason: None,
                };
                self.push_part(&head.part(true, vec![choice]));
            }
            if let Some(piece) = &echo {
                self.push_piece(index, piece);
            }
            if !is_written {
                let finish = Some("length");
                self.push_piece(
                    index,
                    &Piece {
                        finish,
                        ..Piece::default()
                    },
                );
            }
        }
    }

    /// Handles an event of a choice.
    fn take(&mut self, index: usize, told: Told) {
        let (choice, writing) = &mut self.answer.choices[index];
        match told {
            Told::Header(_) => choice.begin(),
            Told::Step {
                mut step,
                log_probs,
            } => {
                let piece = choice.step(&step, log_probs);
                if !piece.is_empty() {
                    self.push_piece(index, &piece);
                }
                if self.answer.include_steps {
                    for (sequence, _) in &mut step.window {
                        *sequence = index as u32;
                    }
                    for revealed in &mut step.revealed {
                        revealed.sequence = index as u32;
                        revealed.text = self.answer.codec.decode(&[revealed.token]);
                    }
                    let head = self.answer.head.clone();
                    self.push_part(&Part {
                        step: Some(&step),
                        ..head.part(true, Vec::new())
                    });
                }
            }
            Told::Written(written) => {
                *writing = None;
                let piece = choice.finish(written);
                self.push_piece(index, &piece);
            }
        }
    }

    fn end(&mut self) {
        let usage = self.answer.usage();
        let head = self.answer.head.clone();
        self.answer.metrics.count_tokens(&head.model, usage);
        if self.answer.include_usage {
            self.push_part(&Part {
                usage: Some(usage),
                ..head.part(true, Vec::new())
            });
        }
        self.push(b"[DONE]");
        self.is_over = true;
    }
}

impl Stream for Parts {
    type Item = Result<Bytes, Infallible>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        if !this.has_begun {
            this.begin();
        }
        loop {
            if let Some(bytes) = this.ready.pop_front() {
                return Poll::Ready(Some(Ok(bytes)));
            }
            if this.is_over {
                return Poll::Ready(None);
            }
            let (mut is_any, mut has_moved) = (false, false);
            for index in 0..this.answer.choices.len() {
                let Some(writing) = &mut this.answer.choices[index].1 else {
                    continue;
                };
                is_any = true;
                match Pin::new(writing).poll_next(context) {
                    Poll::Pending => {}
                    Poll::Ready(Some(Ok(told))) => {
                        has_moved = true;
                        this.take(index, told);
                    }
                    Poll::Ready(told) => {
                        let error = match told {
                            Some(Err(error)) => error.into(),
                            _ => ApiError::from(esolm::Error::Crashed),
                        };
                        this.push(error.json().as_bytes());
                        this.is_over = true;
                        break;
                    }
                }
            }
            if !is_any {
                this.end();
            } else if !has_moved && !this.is_over {
                return Poll::Pending;
            }
        }
    }
}
