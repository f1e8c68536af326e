"""A loaded model, as a Python program sees it."""

from __future__ import annotations

import copy
import difflib
import operator
import os
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Optional, Union, cast, overload

import numpy

from . import _esolm
from ._esolm import Answering, Generation
from .errors import ArgumentError, OptionError
from .types import (
    ChatOptions,
    Choices,
    GenerateOptions,
    Info,
    Inspected,
    LoadOptions,
    MaskMode,
    Message,
    Middle,
    OpenOptions,
    Perplexity,
    PerplexityOptions,
    Score,
    ScoreOptions,
    Source,
    TokenLogprob,
)

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray
    from typing_extensions import Unpack


def inspect(source: Optional[Source] = None, **options: Unpack[OpenOptions]) -> Inspected:
    """What a checkpoint is, from its configuration and tensor directory. Its weights are not loaded.

    :param source: as of :meth:`Model.load`
    :param options: :class:`esolm.types.OpenOptions`
    :raises esolm.CheckpointError: there is no usable checkpoint
    """
    return _esolm.inspect(_path(source), _options("inspect", OpenOptions, options))


class Model:
    """A loaded model; :meth:`load` makes one.

    It does one thing at a time: calls are carried out one after the other, whichever threads make them, and none of them holds the interpreter's
    lock while it computes. Ctrl-C ends a call after the pass under way. A thread that has begun to read a generation, and then calls the model
    before the generation's end, would wait for itself; it gets an :class:`esolm.EsolmError` with the code ``busy`` instead.
    """

    def __init__(self, loaded: _esolm.Model):
        self._model = loaded

    @classmethod
    def load(cls, source: Optional[Source] = None, **options: Unpack[LoadOptions]) -> Model:
        """Loads a model.

        :param source: a Hugging Face folder, a ``.safetensors`` file with its ``config.json``, a Lightning ``.ckpt`` or ``"hf:owner/name"``; without
            one the very small story model inside the package
        :param options: :class:`esolm.types.LoadOptions`, such as ``device="cpu"`` or ``weights="f16"``
        :raises esolm.CheckpointError: there is no usable checkpoint
        :raises esolm.TextError: its tokenizer is not usable
        :raises esolm.DeviceError: no GPU answers to the choice, or it failed
        :raises esolm.OutOfMemoryError: memory does not suffice
        """
        return cls(_esolm.Model.load(_path(source), _options("load", LoadOptions, options)))

    @property
    def info(self) -> Info:
        """What the model is, and what runs it: a dictionary of the caller's own."""
        return copy.deepcopy(self._model.info)

    def generate(self, **options: Unpack[GenerateOptions]) -> Generation:
        """Writes texts, step by step: an iterator of steps (:class:`esolm.types.Step`), each with the tokens that it revealed.

        >>> run = model.generate(prompt="Once upon a time", seed=3)
        >>> for step in run:
        ...     print([token["text"] for token in step["revealed"]])
        >>> print(run.result["text"][0])

        It begins when its first step is asked for. Passes run at most two steps ahead of whoever reads.

        :param options: :class:`esolm.types.GenerateOptions`
        :raises esolm.OptionError: an option does not fit the model (while the first step is read)
        :raises esolm.TextError: the model has no tokenizer, or a text cannot become tokens
        """
        return self._model.generate(_options("generate", GenerateOptions, options))

    def texts(self, **options: Unpack[GenerateOptions]) -> list[str]:
        """Writes texts and returns them, those of a prompt with it. As :meth:`generate`, but nothing is read back from a GPU before the end."""
        return self._model.texts(_options("texts", GenerateOptions, options))

    def text(self, **options: Unpack[GenerateOptions]) -> str:
        """Writes one text and returns it. As :meth:`texts`.

        >>> model.text(prompt="Once upon a time", top_p=0.8, seed=4)
        """
        given = _options("text", GenerateOptions, options)
        prompt = given.get("prompt")
        count = 1 if prompt is None or isinstance(prompt, str) else len(prompt)
        if count > 1 or (given.get("batch") or 1) != 1:
            raise OptionError("text writes one text, and several are asked for; use texts")
        return self._model.texts(given)[0]

    def infill(self, template: str, **options: Unpack[GenerateOptions]) -> str:
        """Fills the gaps of a template and returns the whole text.

        >>> model.infill("Once ____ a time, Lily ____{12} the end.", seed=2)

        :param template: ``____`` (two underscores or more) is a gap of as many tokens as it has underscores, here four, ``____{12}`` one of twelve
        :param options: those of :meth:`generate` but ``prompt``
        """
        if "infill" in options:
            raise ArgumentError("infill() takes its template as its first argument; leave infill= out")
        given = _options("infill", GenerateOptions, options)
        if (given.get("batch") or 1) != 1:
            raise OptionError("infill writes one text, and several are asked for; use texts(infill=…)")
        return self._model.texts({**given, "infill": template})[0]

    def chat(self, messages: Sequence[Message], **options: Unpack[ChatOptions]) -> Answering:
        """Answers a conversation: an iterator of events (:class:`esolm.types.ChatEvent`).

        >>> said = [{"role": "user", "content": "Hello"}]
        >>> run = model.chat(said)
        >>> for event in run:
        ...     if event["event"] == "step":
        ...         print(event["text"], end="", flush=True)
        >>> said.append({"role": "assistant", "content": run.answer["text"]})

        What of the conversation stands in the cache from the answer before is not computed again.

        :param messages: all that was said so far, the user's message last; what does not fit the context is left out, the oldest turns first
        :param options: :class:`esolm.types.ChatOptions`
        :raises esolm.ChatError: the model cannot be talked to, or the last message is too long
        """
        return self._model.chat(_messages(messages), _options("chat", ChatOptions, options))

    def chat_prompt(self, messages: Sequence[Message], *, add_generation_prompt: bool = True, think: Optional[bool] = None) -> str:
        """The text that the model's chat template makes of a conversation; :meth:`chat` lets the model go on with it.

        :param messages: as of :meth:`chat`; all of them are kept, whether or not they fit the context
        :param add_generation_prompt: open the answer too
        :param think: whether the model thinks before it answers, of models whose template asks
        :raises esolm.ChatError: the model cannot be talked to, or its template refuses the messages
        """
        return self._model.chat_prompt(_messages(messages), bool(add_generation_prompt), None if think is None else bool(think))

    @overload
    def score(self, item: Union[str, Middle], **options: Unpack[ScoreOptions]) -> Score: ...
    @overload
    def score(self, item: Choices, **options: Unpack[ScoreOptions]) -> list[Score]: ...
    @overload
    def score(self, item: Union[list[Any], tuple[Any, ...]], **options: Unpack[ScoreOptions]) -> list[Any]: ...
    def score(self, item: Any, **options: Unpack[ScoreOptions]) -> Any:
        """How likely a text is: its log-likelihood in nats, exact where the model has an exact one, else a lower bound.

        >>> model.score("Once upon a time")["logp"]
        >>> model.score({"context": "The cat sat on the", "choices": [" mat", " moon"]})
        >>> model.score({"prefix": "The cat", "middle": " sat on", "suffix": " the mat"})

        :param item: a text; a context with choices, each scored given the context; a middle, scored given both sides; or a list of these
        :param options: :class:`esolm.types.ScoreOptions`
        :returns: a :class:`esolm.types.Score`, with ``is_cut``, ``shortened`` and ``altered`` where they apply; of choices a list with that of each;
            of a list of items a list with the same for each item
        :raises esolm.OptionError: an option is foreign to the model's family; ``data["index"]`` is the item's number where it is about one
        :raises esolm.TextError: an item cannot become tokens
        """
        given = _options("score", ScoreOptions, options)
        if isinstance(item, (list, tuple)):
            items = list(item)
            return [_scored(*one) for one in zip(items, self._model.score(items, given))]
        return _scored(item, self._model.score([item], given)[0])

    def perplexity(
        self,
        documents: Union[str, Iterable[str], None] = None,
        *,
        tokens: Optional[ArrayLike] = None,
        order: Optional[ArrayLike] = None,
        **options: Unpack[PerplexityOptions],
    ) -> Perplexity:
        """How well the model predicts a corpus: the exact likelihood, and the bound that it was trained on.

        :param documents: a text, or several
        :param tokens: in their place sequences of tokens, ``[N, L]``
        :param order: the order of each sequence, ``[N, L]``, instead of drawn ones
        :param options: :class:`esolm.types.PerplexityOptions`
        :returns: ``exact`` and ``nelbo`` in nats and bits per token, bits per byte and perplexity
        """
        given = _options("perplexity", PerplexityOptions, options)
        if (documents is None) == (tokens is None):
            raise ArgumentError("perplexity() takes documents or tokens=; give one of them")
        if documents is not None:
            if order is not None:
                raise ArgumentError("perplexity() takes order= with tokens= alone")
            texts = [documents] if isinstance(documents, str) else _listed("documents", documents, "a text, or a list of texts")
            return self._model.perplexity(texts, None, None, given)
        rows = _rows("tokens", tokens)
        if order is None:
            return self._model.perplexity(None, rows.tolist(), None, given)
        return self._model.perplexity(None, rows.tolist(), _order(order, rows).tolist(), given)

    def logprobs(
        self,
        tokens: Sequence[Sequence[int]],
        *,
        given: Union[int, Sequence[int]] = 0,
        top: int = 0,
        alpha_0: Optional[float] = None,
        seed: int = 0,
    ) -> list[list[Optional[TokenLogprob]]]:
        """The exact log-probability of each token of some texts, one pass for each group of texts.

        :param tokens: the tokens of each text, at most as many as the context holds; nothing is put before them
        :param given: how many of the first ones are given and not scored; one number for all texts, or one for each
        :param top: how many of the likeliest tokens are told beside each
        :param alpha_0: the share of tokens in a drawn order, 0 to 1, of an Eso-LM; default 0, all from left to right
        :param seed: keys the drawn order
        :returns: for each text and token a :class:`esolm.types.TokenLogprob`; None where a token is given, or nothing precedes it
        :raises esolm.OptionError: the model has no exact likelihood, or a token is not in its vocabulary
        """
        vocab = self.info["vocab_size"]
        texts = [_tokens(f"tokens[{i}]", text, vocab) for i, text in enumerate(_listed("tokens", tokens, "a list of the tokens of each text"))]
        if numpy.ndim(given) == 0:
            counts = [_whole("given", given, 32)] * len(texts)
        else:
            counts = [_whole("given", one, 32) for one in cast(Sequence[int], given)]
        if len(counts) != len(texts):
            raise OptionError(f"given has {len(counts)} numbers for {len(texts)} texts; give one for each")
        share = None if alpha_0 is None else _real("alpha_0", alpha_0)
        return self._model.echo(list(zip(texts, counts)), share, _whole("seed", seed, 64), _whole("top", top, 32))

    def logits(
        self,
        tokens: ArrayLike,
        order: Optional[ArrayLike] = None,
        *,
        clean: Optional[ArrayLike] = None,
        mode: Optional[MaskMode] = None,
        block_size: Optional[int] = None,
    ) -> NDArray[numpy.float32]:
        """Logits of one pass over whole sequences, for comparisons with other implementations.

        :param tokens: ``[B, L]`` or ``[L]`` in natural order, the mask token where one is not known. A SetDLM reads the clean tokens and predicts each
            from those before it in the order; a BD3-LM reads noised tokens, each of which sees its own block and the ``clean`` blocks before it
        :param order: the natural positions in the order in which they become known, ``[B, L]`` or ``[L]``; default: from left to right
        :param clean: the clean tokens, in the shape of ``tokens``, for the pass over both that the sequential loss of an Eso-LM makes, and of a BD3-LM
        :param mode: which tokens see which, in the order; default: as the model was trained (``"causal"``, or ``"bidirectional"`` of an MDLM)
        :param block_size: tokens of a block of a BD3-LM; default: the model's own
        :returns: float32 ``[B, L, V]``, or ``[L, V]`` for one sequence, in natural order. The mask token's column is what the network says, and never drawn
        :raises esolm.OptionError: the arrays do not fit each other or the model
        """
        rows = self._fitting("tokens", tokens)
        is_one = numpy.ndim(tokens) == 1
        beside = None if clean is None else self._fitting("clean", clean)
        if beside is not None and beside.shape != rows.shape:
            raise OptionError(f"clean has the shape {list(beside.shape)} and tokens {list(rows.shape)}; give arrays of the same shape")
        attention = self.info["attention"]
        if attention == "block" and mode is None:
            logits = self._blocks(rows, order, beside, block_size)
            return logits[0] if is_one else logits
        if block_size is not None:
            raise OptionError("block_size is for the pass of a BD3-LM; leave it out")
        places = _order(order, rows).astype(numpy.int64)

        def sorted_(values: NDArray[Any]) -> list[Any]:
            arranged: list[Any] = numpy.take_along_axis(values, places, axis=1).tolist()
            return arranged

        made: dict[str, Any] = {"sort_idx": places.tolist()}
        if attention == "set" and mode is None:
            if beside is not None:
                raise OptionError("clean does not apply to a SetDLM, whose pass reads clean tokens alone; leave it out")
            made["x0_sorted"] = sorted_(rows)
        else:
            usual = {"bidirectional": "bidirectional", "mixed": "mixed"}.get(attention, "causal")
            made.update(mode=mode or usual, zt_sorted=sorted_(rows))
            if beside is not None:
                made["x0_sorted"] = sorted_(beside)
        logits = _array(self._model.forward(made), rows.shape)
        natural = numpy.empty_like(logits)
        numpy.put_along_axis(natural, places[:, :, None], logits, axis=1)
        return natural[0] if is_one else natural

    def _fitting(self, name: str, values: Any) -> NDArray[Any]:
        """Sequences of tokens that the model has, at most as long as its context."""
        rows = _rows(name, values)
        length, context, vocab = rows.shape[1], self.info["length"], self.info["vocab_size"]
        if length > context:
            message = f"{name} has sequences of {length} tokens, but the model's context is {context}; give shorter ones"
            raise OptionError(message, data={"length": length, "context": context})
        _check_vocabulary(name, rows, vocab)
        return rows

    def _blocks(self, rows: NDArray[Any], order: Any, clean: Any, block_size: Optional[int]) -> NDArray[numpy.float32]:
        if order is not None:
            raise OptionError("order does not apply to a BD3-LM, whose blocks go from left to right; leave it out")
        if clean is None:
            raise OptionError("a BD3-LM reads the clean tokens of earlier blocks beside the noised ones; give them as clean=")
        made = {"xt": rows.tolist(), "x0": clean.tolist(), "block_size": block_size}
        # A copy, as bytes cannot be written to.
        return numpy.array(_array(self._model.forward(made), rows.shape))

    def encode(self, text: str) -> list[int]:
        """The tokens of a text, without any that open or close it.

        :raises esolm.TextError: the model has no tokenizer, or it cannot encode the text
        """
        return self._model.encode(text)

    def decode(self, tokens: Iterable[int]) -> str:
        """The text of tokens; special ones are written with their names.

        :raises esolm.TextError: the model has no tokenizer
        :raises esolm.OptionError: a token is not in its vocabulary
        """
        return self._model.decode(_tokens("tokens", tokens, self.info["vocab_size"]))

    def __repr__(self) -> str:
        return f"<esolm.Model {self._model!r}>"


def _path(source: Optional[Source]) -> Optional[str]:
    try:
        return None if source is None else os.fspath(source)
    except TypeError:
        raise ArgumentError(f"the source is a value of type {_kind(source)}; give a path, or a text such as hf:owner/name") from None


def _kind(value: Any) -> str:
    return type(value).__name__


def _listed(name: str, values: Any, wanted: str) -> list[Any]:
    """What is iterated over, as a list."""
    try:
        return list(values)
    except TypeError:
        raise ArgumentError(f"{name} is a value of type {_kind(values)}; give {wanted}") from None


def _messages(messages: Any) -> list[Any]:
    wanted = 'a list of dictionaries such as {"role": "user", "content": "Hello"}'
    if isinstance(messages, (str, dict)):
        raise ArgumentError(f"messages is {wanted}")
    return _listed("messages", messages, wanted)


def _whole(name: str, value: Any, bits: int) -> int:
    """A whole number from 0 on, Python's or numpy's."""
    try:
        if isinstance(value, (bool, numpy.bool_)):
            raise TypeError
        number = operator.index(value)
    except TypeError:
        raise ArgumentError(f"{name} is a value of type {_kind(value)}; give a whole number") from None
    if not 0 <= number < 2**bits:
        raise OptionError(f"{name} is {number}; it must be from 0 on and less than 2^{bits}")
    return number


def _real(name: str, value: Any) -> float:
    """A number, Python's or numpy's."""
    try:
        if isinstance(value, (bool, numpy.bool_, str, bytes)):
            raise TypeError
        return float(value)
    except TypeError:
        raise ArgumentError(f"{name} is a value of type {_kind(value)}; give a number") from None


def _options(call: str, known: Any, given: Any) -> dict[str, Any]:
    """The options of a call that are not None. One that the call does not have is a TypeError too, as of any function."""
    names = known.__optional_keys__
    for name in given:
        if name not in names:
            near = difflib.get_close_matches(name, sorted(names), 1)
            meant = f"; perhaps {near[0]!r} was meant" if near else ""
            raise ArgumentError(f"{call}() has no option {name!r}{meant}")
    chosen: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    for name in {"prompt", "stop_strings"}.intersection(chosen):
        if not isinstance(chosen[name], str):
            chosen[name] = _listed(name, chosen[name], "a text, or a list of texts")
            wrong = [value for value in chosen[name] if not isinstance(value, str)]
            if wrong:
                raise ArgumentError(f"{name} holds a value of type {_kind(wrong[0])}; give a text, or a list of texts")
    if chosen.get("prompt") == []:
        raise OptionError("prompt is a list without texts; give at least one text, or leave it out")
    return chosen


def _even(name: str, values: Any) -> NDArray[Any]:
    """An array, whose rows are as long as each other."""
    try:
        return numpy.asarray(values)
    except (TypeError, ValueError, OverflowError) as error:
        raise OptionError(f"{name} has rows of different lengths, or is not an array of numbers; give arrays of the same shape [B, L]") from error


def _check_tokens(name: str, array: NDArray[Any]) -> None:
    if array.dtype.kind not in "iu":
        raise OptionError(f"{name} holds values of type {array.dtype}; give whole numbers")
    if array.min() < 0 or array.max() >= 2**32:
        raise OptionError(f"{name} holds {array.min() if array.min() < 0 else array.max()}, which is not a token; give the tokens' numbers")


def _check_vocabulary(name: str, array: NDArray[Any], vocab: int) -> None:
    most = int(array.max())
    if most >= vocab:
        message = f"{name} holds the token {most}, beyond the vocabulary of {vocab}; use data made for this model"
        raise OptionError(message, data={"token": most, "vocab_size": vocab})


def _rows(name: str, values: Any) -> NDArray[Any]:
    """An array of tokens, a row a sequence."""
    array = _even(name, values)
    if array.ndim not in (1, 2) or array.size == 0:
        raise OptionError(f"{name} has the shape {list(array.shape)}; give [L] or [B, L] tokens")
    _check_tokens(name, array)
    return numpy.atleast_2d(array)


def _tokens(name: str, tokens: Any, vocab: int) -> list[int]:
    """The numbers of the tokens of one text, which may be empty."""
    array = _even(name, _listed(name, tokens, "a list of tokens"))
    if array.size == 0:
        return []
    if array.ndim != 1:
        raise OptionError(f"{name} has the shape {list(array.shape)}; give a list of tokens")
    _check_tokens(name, array)
    _check_vocabulary(name, array, vocab)
    numbers: list[int] = array.tolist()
    return numbers


def _order(order: Any, rows: NDArray[Any]) -> NDArray[Any]:
    """An order for each row."""
    batch, length = rows.shape
    if order is None:
        return numpy.broadcast_to(numpy.arange(length), rows.shape)
    array = _even("order", order)
    if array.shape not in ((length,), (batch, length)):
        raise OptionError(f"order has the shape {list(array.shape)}; it must be [{length}] or [{batch}, {length}]")
    if array.dtype.kind not in "iu" or (numpy.sort(numpy.atleast_2d(array), axis=1) != numpy.arange(length)).any():
        raise OptionError(f"order is not a permutation of 0..{length}; each position must stand in it once")
    return numpy.broadcast_to(array, rows.shape)


def _array(raw: bytes, shape: tuple[int, ...]) -> NDArray[numpy.float32]:
    return numpy.frombuffer(raw, dtype=numpy.float32).reshape(*shape, -1)


def _scored(item: Any, scored: Any) -> Any:
    """The score of an item, or the list of those of its choices."""
    beside = {name: value for name, value in scored.items() if name != "scores" and value}
    scores = [cast(Score, {**score, **beside}) for score in scored["scores"]]
    return scores if isinstance(item, dict) and "choices" in item else scores[0]
