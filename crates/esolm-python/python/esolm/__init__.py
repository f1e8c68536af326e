"""Any-order text diffusion on every GPU.

>>> import esolm
>>> model = esolm.Model.load()              # the small story model inside the package
>>> print(model.text(prompt="Once upon a time", seed=4))  # doctest: +SKIP
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from . import errors
from ._esolm import Generation, Model as _Model, __version__, devices, inspect
from .errors import CheckpointError, DeviceError, EsolmError, OptionError, OutOfMemoryError, TextError

if TYPE_CHECKING:
    import numpy

__all__ = [
    "CheckpointError",
    "DeviceError",
    "EsolmError",
    "Generation",
    "Model",
    "OptionError",
    "OutOfMemoryError",
    "TextError",
    "__version__",
    "devices",
    "errors",
    "inspect",
]


class Model:
    """A loaded model.

    It does one thing at a time; calls from several threads are carried out one after the other, and none of them holds the interpreter's lock.
    Ctrl-C ends a call after the pass under way.
    """

    def __init__(self, loaded: _Model):
        self._model = loaded

    @classmethod
    def load(cls, source=None, **options) -> "Model":
        """Loads a model.

        :param source: a folder, a ``.safetensors`` file, a Lightning ``.ckpt`` or ``"hf:owner/name"``; without one the story model of this package
        :param device: ``"auto"`` (the default), ``"gpu"``, ``"gpu:1"`` or ``"cpu"``
        :param weights: ``"f32"``, ``"f16"``, ``"q8"`` or ``"q4"``; default: as they are stored
        :param activations: ``"f32"`` or, on the CPU beside q8 and q4 weights, ``"q8"``
        :param kv_cache: ``"f32"`` or ``"f16"``, on a GPU
        :param tokenizer: a ``tokenizer.json`` in the place of the checkpoint's own
        :param config: a ``config.json`` in the place of the checkpoint's own
        :param raw_weights: the raw weights of a ``.ckpt`` rather than their running average
        :param read_as: ``"mdlm"`` or ``"bd3lm"``, of a decoder that may be either
        :param block_size: tokens of a block of such a BD3-LM
        :raises CheckpointError, DeviceError, OptionError, OutOfMemoryError:
        """
        return cls(_Model.load(source, **options))

    @property
    def info(self) -> dict:
        """What the model is: family, sizes, special tokens, recommended settings."""
        return self._model.info

    @property
    def device(self) -> str:
        """What runs it, in one line."""
        return self._model.device

    def generate(self, **request) -> Generation:
        """Writes texts, step by step: an iterator of steps, each with the tokens that it revealed.

        Keyword arguments are those of ``esolm sample`` under the library's names: ``prompt`` (a text or a list), ``infill``, ``length``, ``batch``,
        ``seed``, ``alpha_0``, ``steps``, ``schedule``, ``temperature``, ``top_k``, ``top_p``, ``min_p``, ``stop``, ``stop_strings``, ``logprobs`` and more.

        >>> for step in model.generate(prompt="Once", seed=3):    # doctest: +SKIP
        ...     print([token["text"] for token in step["revealed"]])
        """
        return self._model.generate(**_lists(request))

    def text(self, **request) -> str:
        """Writes one text. The same keyword arguments as ``generate``."""
        return self._model.text(**_lists(request))

    def infill(self, template: str, **request) -> str:
        """Fills the gaps of a template: ``____`` is a gap of as many tokens as there are underscores, ``____{12}`` one of twelve."""
        return self.text(infill=template, **request)

    def score(self, item, **options):
        """How likely a text is, or each of a list of them: dictionaries with ``logp`` (nats), ``exact``, ``tokens``, ``bytes`` and rates.

        An item may also be ``{"context": …, "choices": […]}``, whose answer has a score for each choice, or ``{"prefix": …, "middle": …, "suffix": …}``.
        Options: ``alpha_0``, ``orders``, ``draws``, ``seed``, ``batch``, ``bos``.
        """
        if isinstance(item, (list, tuple)):
            return self._model.score(list(item), **options)
        return self._model.score([item], **options)[0]

    def perplexity(self, documents, **options) -> dict:
        """How well the model predicts documents: ``nelbo`` and ``exact``, in nats and bits a token, bits a byte and perplexity.

        Options: ``alpha_0``, ``orders``, ``draws``, ``seed``, ``length``, ``per_document``.
        """
        return self._model.perplexity([documents] if isinstance(documents, str) else list(documents), **options)

    def logits(self, tokens, order=None, *, mode: str | None = None, clean=None) -> "numpy.ndarray":
        """Logits of one pass over whole sequences, ``[B, L, V]`` (``[L, V]`` for one sequence), float32, a row a token in natural order.

        :param tokens: ``[B, L]`` or ``[L]`` in natural order, the mask token where one is not known
        :param order: the order in which tokens become known, ``[B, L]`` or ``[L]`` natural positions; default: left to right
        :param mode: which tokens see which: ``"causal"`` in the order, ``"bidirectional"``, ``"mixed"``, ``"mixed2"``; default: the model's own
        :param clean: the clean tokens ``[B, L]``, for the pass over both that the sequential loss makes
        """
        import numpy

        tokens = numpy.asarray(tokens, dtype=numpy.uint32)
        is_one = tokens.ndim == 1
        tokens = numpy.atleast_2d(tokens)
        if tokens.ndim != 2:
            raise OptionError(f"tokens has {tokens.ndim} axes; it must be [L] or [B, L]")
        batch, length = tokens.shape
        left_to_right = numpy.arange(length, dtype=numpy.uint32)
        order = left_to_right if order is None else numpy.asarray(order, dtype=numpy.uint32)
        if order.shape not in ((length,), (batch, length)):
            raise OptionError(f"order has the shape {list(order.shape)}; it must be [{length}] or [{batch}, {length}]")
        order = numpy.broadcast_to(order, (batch, length))
        if (numpy.sort(order, axis=1) != left_to_right).any():
            raise OptionError(f"order is not a permutation of 0 to {length - 1}; each position must stand in it once")
        placed = order.astype(numpy.int64)

        def arranged(values):
            return numpy.take_along_axis(values, placed, axis=1).tolist()

        if clean is not None:
            clean = numpy.atleast_2d(numpy.asarray(clean, dtype=numpy.uint32))
            if clean.shape != tokens.shape:
                raise OptionError(f"clean has the shape {list(clean.shape)}, and tokens {list(tokens.shape)}; they must be equal")
            clean = arranged(clean)
        if mode is None:
            mode = "bidirectional" if self.info["attention"] == "bidirectional" else "causal"
        raw = self._model._logits(mode, order.tolist(), arranged(tokens), clean)
        by_slot = numpy.frombuffer(raw, dtype=numpy.float32).reshape(batch, length, -1)
        logits = numpy.empty_like(by_slot)
        numpy.put_along_axis(logits, placed[:, :, None], by_slot, axis=1)
        return logits[0] if is_one else logits

    def inspect(self) -> dict:
        """The same as ``info``."""
        return self.info

    def encode(self, text: str) -> list[int]:
        """Tokens of a text."""
        return self._model.encode(text)

    def decode(self, tokens) -> str:
        """Text of tokens, special ones written with their names."""
        return self._model.decode([int(token) for token in tokens])

    def __repr__(self) -> str:
        return repr(self._model)


def _lists(request: dict) -> dict:
    """One prompt or stop string is a list of one; what is None is left out."""
    request = {name: value for name, value in request.items() if value is not None}
    for name in ("prompt", "stop_strings", "stop"):
        if isinstance(request.get(name), str):
            request[name] = [request[name]]
    return request
