"""What goes into the calls and what comes out of them, as dictionaries.

The names are the library's own, the same as in its JSON and its trace files. Where an option is left out or ``None``, what the model recommends
is used, or else what is said here.
"""

from __future__ import annotations

import os
from typing import Any, Literal, Optional, TypedDict, Union

#: An Eso-LM, a masked diffusion model, an autoregressive one, or one that writes block by block or set by set.
Family = Literal["esolm", "mdlm", "ar", "bd3lm", "setdlm"]
#: Which positions diffusion writes in which step.
Schedule = Literal[
    "binomial", "blocks", "blocks-shuffled", "left-to-right", "block", "block-autoregressive", "first-hitting", "confidence"
]
#: What tokens are compared by, where confidence chooses.
Confidence = Literal["model", "tempered", "drawn", "random", "leftmost"]
#: Why a text is as long as it is.
Finish = Literal["length", "stop", "eos", "entropy", "interrupted"]
#: Which tokens see which in a pass over whole sequences.
MaskMode = Literal["causal", "bidirectional", "mixed", "mixed2"]
#: A folder, a file or ``"hf:owner/name"``.
Source = Union[str, "os.PathLike[str]"]
#: A number, or its digits; all 64 bits may be used.
Seed = Union[int, str]


class OpenOptions(TypedDict, total=False):
    """How a checkpoint is read."""

    as_: Optional[Literal["mdlm", "bd3lm"]]
    """What a model is whose configuration does not say it: ``a2d-qwen3``, ``a2d-qwen2`` and ``a2d-llama`` are MDLMs or BD3-LMs."""
    block_size: Optional[int]
    """Tokens of a block of such a BD3-LM, or of an ``sdar``, whose own are 4."""
    config: Optional[Source]
    """A ``config.json`` in the place of the checkpoint's own."""
    tokenizer: Optional[Source]
    """A ``tokenizer.json`` in the place of the checkpoint's own."""
    chat_template: Optional[Source]
    """A ``chat_template.jinja`` in the place of the checkpoint's own."""
    raw_weights: bool
    """Take the raw weights of a ``.ckpt`` rather than their running average. Default: False."""
    name: Optional[str]
    """What headers call the model. Default: its source."""


class LoadOptions(OpenOptions, total=False):
    """How a model is loaded."""

    device: Optional[str]
    """``"auto"`` (the default) takes a GPU if one works, else the CPU; ``"cpu"``; ``"gpu"``; ``"gpu:1"``, the second of ``esolm.devices()``."""
    weights: Optional[Literal["f32", "f16", "q8", "q4"]]
    """How weights are held: f16 takes half the memory of f32, q8 about a quarter and q4 a fifth. Default: f32, or the 8 or 4 bits in which they are stored."""
    activations: Optional[Literal["f32", "q8"]]
    """How activations enter products with q8 and q4 weights. Default: f32; q8 is for the CPU."""
    kv_cache: Optional[Literal["f32", "f16"]]
    """How the KV cache is stored on a GPU. Default: f32."""
    variants: Optional[str]
    """Kernels to use, for measurements: ``"few=rows,many=tile"``."""


class DrawOptions(TypedDict, total=False):
    """How a model writes, texts as well as answers."""

    alpha_0: Optional[float]
    """The share of tokens that diffusion writes, 0 to 1, of an Eso-LM. Default: the model's own."""
    steps: Optional[int]
    """Diffusion steps T. Default: the length; of a BD3-LM those of each block, without which it draws one token a step."""
    schedule: Optional[Schedule]
    """How the steps are laid out. Default: what suits the family."""
    sar_steps: Optional[int]
    """Stretches that the schedule ``block-autoregressive`` writes one after the other. Default: 1."""
    confidence_threshold: Optional[float]
    """Of the schedule ``confidence``: tokens that the network is at least this sure of, 0 to 1, become known at once."""
    confidence: Optional[Confidence]
    """Of the schedule ``confidence``: what tokens are compared by."""
    block_size: Optional[int]
    """Tokens of a block of a BD3-LM, in the place of its own."""
    prompt_tail: Optional[Literal["own", "shared", "blind"]]
    """Where the blocks of a decoder that is a BD3-LM begin, and what the end of its prompt sees of the first one."""
    suppress_tokens: Optional[list[Union[int, str]]]
    """Tokens that are never drawn, by their numbers or names."""
    begin_suppress_tokens: Optional[list[Union[int, str]]]
    """Of the schedule ``confidence``: tokens that may be drawn, but become known last."""
    top_k: Optional[int]
    """Draw from so many of the likeliest tokens, at least 1; those as likely as the last of them stay too."""
    top_p: Optional[float]
    """Draw from the likeliest tokens that together have this probability, above 0 and at most 1, of those that ``top_k`` leaves."""
    top_p_crossing: Optional[Literal["keep", "drop"]]
    """Whether the token at which that probability is reached is drawn from too. Default: keep."""
    min_p: Optional[float]
    """Draw from the tokens that are at least this fraction as likely as the likeliest one, 0 to 1."""
    temperature: Optional[float]
    """Divides the logits; 0 takes the likeliest token."""
    seed: Optional[Seed]
    """The same seed gives the same text. Default: a random one, which the header tells."""


class GenerateOptions(DrawOptions, total=False):
    """What to write."""

    prompt: Union[None, str, list[str]]
    """The beginning of the text, or of each text."""
    infill: Optional[str]
    """A text with gaps to fill: ``____`` is one of as many tokens as it has underscores, here four, ``____{12}`` one of twelve."""
    length: Optional[int]
    """Tokens of a text, those that are given included. Default: the model's context, or the length of the ``infill`` template; of a decoder 128 more than
    are given."""
    batch: Optional[int]
    """Number of texts. Default: as many as prompts."""
    first: Optional[int]
    """Absolute index of the first text: text i of a batch is what ``first=i`` gives alone. Default: 0."""
    window: Optional[int]
    """Masked places that a SetDLM draws at in a step."""
    train_order: Optional[bool]
    """Let a SetDLM go through the text in an order that its noise draws, as in training. Default: False."""
    infill_context: Optional[Literal["both", "left"]]
    """What a SetDLM sees of a template. Default: both sides of a gap."""
    stop: Union[None, Literal["eos", "entropy"], list[Literal["eos", "entropy"]]]
    """What ends a text of a BD3-LM or a SetDLM early."""
    stop_strings: Union[None, str, list[str]]
    """A text ends before the first of these that the model writes, or at its first end-of-text token where that comes before."""
    logprobs: Optional[bool]
    """Tell with each token the log-probability that the model gave it in the step that drew it. Default: False."""
    bos: Optional[bool]
    """Open with the beginning-of-text token. Default: yes; with a decoder only where its tokenizer puts the token before every text."""
    decode_as: Optional[Literal["mdlm", "bd3lm"]]
    """Run the network of an Eso-LM or an MDLM as another family would, which it was not trained for."""


class ChatOptions(DrawOptions, total=False):
    """How to answer."""

    max_tokens: Optional[int]
    """Tokens of an answer at most. Default: 1024 of an AR model, 256 of a BD3-LM, 128 of an MDLM, and no more than half the context."""
    think: Optional[bool]
    """Whether the model thinks before it answers, of models whose template asks."""


class ScoreOptions(TypedDict, total=False):
    """How texts are scored."""

    alpha_0: Optional[float]
    """The share of tokens in random order, 0 to 1, of an Eso-LM. Default: 0, all from left to right."""
    orders: Optional[int]
    """Number of orders whose likelihoods are averaged. Default: 1."""
    draws: Optional[int]
    """Number of draws of the bound, of a model without an exact likelihood. Default: 32."""
    seed: Optional[Seed]
    """Keys orders and draws. Default: 0."""
    batch: Optional[int]
    """Texts of a pass. Default: as many as keep the device busy."""
    bos: Optional[bool]
    """Open with the beginning-of-text token, which is given. Default: as of a generation."""


class PerplexityOptions(ScoreOptions, total=False):
    """How a corpus is cut and measured. ``alpha_0`` is by default the model's own, and ``draws`` 1; 0 of ``orders`` or ``draws`` leaves out that figure."""

    length: Optional[int]
    """Tokens of a window. Default: the model's context."""
    max_windows: Optional[int]
    """Measure on the first windows alone."""
    ascii_only: Optional[bool]
    """Leave out documents with characters beyond ASCII. Default: False."""
    per_document: Optional[bool]
    """Score each document by itself instead of packing them without gaps. Default: False."""


class Revealed(TypedDict, total=False):
    """A token that a step drew."""

    sequence: int
    """Index of the text within the batch."""
    position: int
    token: int
    text: str
    """Empty without a tokenizer."""
    logprob: float
    """With ``logprobs``, nats: what the model gave the token, before temperature, top-k, top-p and min-p."""


class Step(TypedDict, total=False):
    """What one step did."""

    step: int
    """From 0 in each attempt."""
    steps: int
    """The header's ``nfe``."""
    phase: Literal["prompt", "diffusion", "sequential"]
    revealed: list[Revealed]
    window: list[tuple[int, int]]
    """Text and position of each place at which a SetDLM drew by confidence; left out otherwise."""
    rows: int
    """Rows that went through the network, over all texts."""
    cache_length: int
    """Cache slots that hold known tokens after the step, over all texts; 0 for an MDLM, which has no cache."""
    seconds: float
    """Since the run began."""
    attempt: int
    """The attempt that it belongs to; ``Generation.headers[attempt]`` is its header."""


class Header(TypedDict, total=False):
    """What decides what is written."""

    esolm_trace: int
    esolm: str
    model: str
    family: Family
    length: int
    block_size: int
    window: int
    alpha_0: float
    steps: int
    schedule: Schedule
    sar_steps: int
    confidence: Confidence
    confidence_threshold: float
    prompt_tail: str
    suppress_tokens: list[int]
    begin_suppress_tokens: list[int]
    top_k: Optional[int]
    top_p: Optional[float]
    top_p_crossing: str
    min_p: Optional[float]
    temperature: float
    seed: int
    first: int
    batch: int
    vocab_size: int
    mask_index: int
    nfe: int
    """Passes through the network; with a ``confidence_threshold`` at most."""
    attempt: int
    """From 0. An infill in which the model ran on at a given word is drawn again, up to 32 times."""
    texts: list[int]
    """The texts that this attempt writes, as indices within the batch."""
    known: list[list[tuple[int, int]]]
    """The given tokens of every text, as (position, token)."""
    altered: dict[str, str]


class Result(TypedDict, total=False):
    """What a run came to."""

    tokens: list[list[int]]
    """Every text in natural order; what is not known yet is the mask token."""
    text: list[str]
    interrupted: bool
    """Whether it was stopped before its last step."""
    seconds: float
    pieces: dict[int, str]
    """The text of every token that occurs; empty without a tokenizer."""
    nfe: int
    """Passes through the network, over all attempts."""
    rows: int
    run_on: list[int]
    """Texts in which the model ran on at a given word even in the last attempt, as indices within the batch."""
    ended: list[int]
    finish: list[Finish]
    """Why each text is as long as it is."""
    logprobs: list[list[Optional[float]]]
    """With ``logprobs``, nats, for each text and token; None for what was given."""
    counters: dict[str, int]


class Message(TypedDict, total=False):
    """What somebody says in a conversation."""

    role: str
    """``"user"``, ``"system"``, ``"assistant"``, or another role that the model's chat template knows."""
    content: str
    reasoning_content: str
    """What a model thought before it, where that is not in the content itself."""


class ChatEvent(TypedDict, total=False):
    """What happened to an answer: ``event`` is ``"prompt"`` once, ``"step"`` after each pass, and ``"answer"`` at the end."""

    event: Literal["prompt", "step", "answer"]
    text: str
    """Of the prompt: what the chat template made of the messages. Of a step: text that joined the answer. Of the answer: all of it."""
    tokens: Any
    """Of the prompt and the answer: the tokens. Of a step: how many the answer has so far."""
    cached: int
    """Tokens of the prompt that stood in the cache from before."""
    dropped: int
    """Messages that no longer fit the context and were left out."""
    max_tokens: int
    seed: int
    step: int
    steps: int
    open: list[Optional[str]]
    """Of a step: the places behind its text, with the text of each token that is known."""
    rows: int
    seconds: float
    reasoning: str
    content: str
    finish: Finish
    prompt_tokens: int
    passes: int


class Answer(TypedDict, total=False):
    """An answer."""

    text: str
    """All that the model wrote, without special tokens."""
    reasoning: str
    """What it thought first, where it did."""
    content: str
    """The text without those thoughts."""
    tokens: list[int]
    finish: Finish
    prompt_tokens: int
    cached: int
    passes: int
    rows: int
    seconds: float


class Choices(TypedDict):
    """A context and the texts that might go on from it, each scored given the context."""

    context: str
    choices: list[str]


class Middle(TypedDict):
    """A text whose middle is scored given both sides."""

    prefix: str
    middle: str
    suffix: str


#: What is scored.
Item = Union[str, Choices, Middle]


class Likelihood(TypedDict):
    """How likely a text is."""

    logp: float
    """Natural logarithm of the probability."""
    exact: bool
    """Whether that is exact; otherwise it is a lower bound."""
    tokens: int
    bytes: int
    """Length in UTF-8."""
    nats_per_token: Optional[float]
    bits_per_byte: Optional[float]


class Caveats(TypedDict, total=False):
    """What had to be done to an item that is scored; left out where it does not apply."""

    is_cut: bool
    """The text is longer than the model's context: it was scored in windows that know nothing of each other."""
    shortened: int
    """Texts of which not everything that is given fits the context; its farthest tokens were left out."""
    altered: dict[str, str]
    """What the tokenizer made of a text whose words it does not keep; that is what was scored."""


class Score(Likelihood, Caveats):
    """How likely a text is, and what had to be done to it."""


class Scored(Caveats, total=False):
    """What an item scored."""

    scores: list[Likelihood]
    """One, or one for each choice."""


class Figure(TypedDict):
    """A quantity in every unit."""

    nats_per_token: float
    standard_error: Optional[float]
    """Of the nats per token, over windows, where there are several."""
    bits_per_token: float
    bits_per_byte: Optional[float]
    ppl: float


class Nelbo(TypedDict):
    """The bound that the model was trained on, in its two parts (nats per token) and in all."""

    diffusion: float
    sequential: float
    total: Figure


class Perplexity(TypedDict, total=False):
    """How well a model predicts a corpus."""

    alpha_0: float
    orders: int
    draws: int
    seed: int
    windows: int
    length: int
    tokens: int
    bytes: Optional[int]
    documents: int
    dropped_documents: int
    altered_documents: int
    nelbo: Optional[Nelbo]
    exact: Optional[Figure]
    seconds: float
    per_document: list[dict[str, Any]]
    """With ``per_document``: a score of each document, with its ``index``."""


class TokenLogprob(TypedDict):
    """A token with its log-probability, nats."""

    token: int
    logprob: float
    top: list[tuple[int, float]]
    """The likeliest tokens with theirs, the likeliest first; as many as were asked for."""


class Info(TypedDict, total=False):
    """What a model is."""

    name: str
    family: Family
    attention: Literal["causal", "bidirectional", "mixed", "block", "set"]
    """Which tokens see which."""
    decoder: Optional[Literal["qwen3", "qwen2", "llama", "sdar"]]
    """Whose network a decoder has; None of models that are none."""
    hidden: int
    """Width of the network."""
    n_blocks: int
    n_heads: int
    length: int
    """Tokens of the context."""
    vocab_size: int
    """Number of tokens, the mask token included."""
    mask_index: Optional[int]
    alpha_0: Optional[float]
    block_size: Optional[int]
    parameters: int
    bos: Optional[int]
    eos: Optional[int]
    opening: Optional[int]
    """The token that texts open with, unless ``bos`` says otherwise."""
    has_tokenizer: bool
    exact: bool
    """Whether its likelihoods are exact, rather than bounds."""
    recommended: dict[str, float]
    """How the checkpoint recommends to sample: what is used where a request does not say."""
    file_bytes: int
    chat: Optional[dict[str, bool]]
    """Of a loaded model that can be talked to; ``think`` says whether its chat template asks if it is to think first."""
    device: dict[str, Any]
    """Of a loaded model: what runs it; ``text`` says it in one line."""


class Inspected(Info, total=False):
    """What a checkpoint is."""

    form: str
    """What kind of file it is."""
    mask_told: bool
    """False where the last token was taken for the mask."""
    memory: dict[str, int]
    """Bytes that loading takes on the CPU, by the form of the weights."""
    cache_bytes: int
    """Bytes of the cache of a text as long as the context."""
    ignored: list[str]
    """Tensors in the files that nothing is computed with."""


class Adapter(TypedDict):
    """A GPU."""

    index: int
    """What ``device="gpu:1"`` names it by."""
    name: str
    backend: str
    driver: str
    kind: Literal["discrete", "integrated", "virtual", "software", "unknown"]
    limits: dict[str, int]
