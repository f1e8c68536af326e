"""esolm as a model of lm-evaluation-harness.

``python -m esolm.lm_eval`` is the harness's own command with one more model, ``esolm``:

    python -m esolm.lm_eval run --model esolm --model_args pretrained=models/stories,device=cpu --tasks lambada_openai

A program that imports this module registers the model too. Likelihoods are exact wherever the family has an exact one: one pass for each order,
where models that write by diffusion otherwise need hundreds of samples for a bound. Of an MDLM, and of a BD3-LM with blocks of several tokens,
they are that bound.
"""

from __future__ import annotations

import logging
import sys
from typing import Any, Optional, Union

try:
    from lm_eval.api.model import LM
    from lm_eval.api.registry import register_model
    from lm_eval.utils import simple_parse_args_string
    from tqdm import tqdm
except ModuleNotFoundError as error:
    if (error.name or "").split(".")[0] not in ("lm_eval", "tqdm"):
        raise
    _REMEDY = f"esolm.lm_eval needs lm-evaluation-harness, and {error.name} is not installed; `pip install 'esolm[lm-eval]'` installs it"
    if __name__ == "__main__":
        sys.exit(_REMEDY)
    raise ModuleNotFoundError(_REMEDY, name=error.name) from error

from .errors import ChatError, OptionError
from .model import Model, _whole
from .types import DrawOptions, LoadOptions, ScoreOptions

#: Requests of one call, between which the progress bar moves.
_AT_ONCE = 64
#: What the harness says where nobody named a device, and its kin: the first GPU. That is what esolm takes by itself.
_DEVICES_OF_TORCH = ("cuda", "cuda:0", "mps")
#: Tokens that are written at most where a task does not say how many.
_MOST_TOKENS = 256
#: What tasks call the number of tokens that they ask for.
_MOST_NAMES = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")

_log = logging.getLogger("esolm.lm_eval")


@register_model("esolm")
class EsolmLM(LM):
    """A model of esolm.

    ``--model_args`` takes ``pretrained`` (what :meth:`esolm.Model.load` takes as its source; without it the story model of the package), and
    any of :class:`esolm.types.LoadOptions`, :class:`esolm.types.ScoreOptions` and :class:`esolm.types.DrawOptions` by their names, such as
    ``alpha_0=1,orders=4,seed=7``.

    How a text is drawn is what the task's ``generation_kwargs`` (or ``--gen_kwargs``) say, then what ``--model_args`` says; the temperature is 0
    where neither says one, and where the task says ``do_sample: false``; the seed is 0. What a task asks for beyond that is warned about by its name.

    ``--batch_size`` (or ``batch`` in ``--model_args``) is the number of texts of a pass where likelihoods are computed; texts are written one by one.

    With ``--apply_chat_template`` requests are what the model's own chat template makes of them (:meth:`esolm.Model.chat_prompt`), and open as it
    says; ``think`` in ``--model_args`` says whether the model thinks first, where its template asks.

    Of a context that does not fit, the beginning is left out, with one warning for all.

    Whether a continuation is the one that greedy decoding would write is known where likelihoods are exact and of one order; elsewhere it counts
    as not greedy.
    """

    def __init__(
        self,
        pretrained: Optional[str] = None,
        batch_size: Any = None,
        max_batch_size: Any = None,
        think: Optional[bool] = None,
        **options: Any,
    ):
        super().__init__()
        given = {name: value for name, value in options.items() if value is not None}
        parts = [
            {name: value for name, value in given.items() if name in known.__optional_keys__}
            for known in (LoadOptions, ScoreOptions, DrawOptions)
        ]
        unknown = set(given).difference(*parts)
        if unknown:
            raise OptionError(f"the model esolm has no argument {sorted(unknown)[0]!r}; `esolm.types` lists them")
        load, self._scoring, self._drawing = parts
        # The harness says 1 where nobody said anything; as many as keep the device busy are better.
        if str(batch_size).isdecimal() and int(batch_size) > 1:
            self._scoring.setdefault("batch", int(batch_size))
        if _whole("batch", self._scoring.get("batch", 1), 32) == 0:
            raise OptionError("batch is 0; it must be at least 1")
        if load.get("block_size") is not None and load.get("as_") is None:
            # Of a BD3-LM whose blocks are chosen when a text is written.
            load.pop("block_size")
        else:
            self._drawing.pop("block_size", None)
        self.model = Model.load(pretrained, **load)
        info = self.model.info
        self._warned: set[str] = set()
        self._has_cut = False
        self._think = think
        #: What nothing is predicted from stands behind.
        self._prefix = info["bos"] if info["bos"] is not None else info["eos"]
        #: Whether texts that are written can be told to open with a token.
        self._has_bos = info["bos"] is not None
        bos = self._scoring.get("bos")
        # Networks that are no decoders are told nothing new by `bos=True`.
        opening = self._prefix if bos and info["decoder"] else info["opening"]
        self._opening = None if bos is False else opening
        #: Tokens of a block where texts are written in whole ones.
        self._block = info["block_size"] if info["family"] == "bd3lm" and not info["decoder"] else None
        self._end = "" if info["eos"] is None else self.model.decode([info["eos"]])
        self._by_token = info["exact"] and info["family"] != "setdlm" and self._scoring.get("orders", 1) == 1

    @classmethod
    def create_from_arg_obj(cls, arg_dict: dict[str, Any], additional_config: Optional[dict[str, Any]] = None) -> EsolmLM:
        """As the harness makes it. What ``--model_args`` says counts before what the harness adds, such as ``--device``."""
        added = dict(additional_config or {})
        if added.get("device") in _DEVICES_OF_TORCH:
            del added["device"]
        return cls(**{**added, **arg_dict})

    @classmethod
    def create_from_arg_string(cls, arg_string: str, additional_config: Optional[dict[str, Any]] = None) -> EsolmLM:
        """As :meth:`create_from_arg_obj`, from the text of ``--model_args``."""
        return cls.create_from_arg_obj(simple_parse_args_string(arg_string), additional_config)

    @property
    def max_length(self) -> int:
        """Tokens of the model's context."""
        return self.model.info["length"]

    @property
    def tokenizer_name(self) -> str:
        """What tells caches of requests apart."""
        return self.model.info["name"]

    def chat_template(self, chat_template: Union[bool, str] = False) -> Optional[str]:
        """Makes ready for requests that a chat template makes. The harness asks this once, also where it has the requests from its cache."""
        if isinstance(chat_template, str):
            raise ChatError(f"the model has one chat template, and none is called {chat_template!r}; ask for it without a name")
        if chat_template:
            # Templates write the opening token themselves where there is one.
            self._scoring["bos"] = False
            self._opening = None
        return ""

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """The text of a conversation. Where it ends with the beginning of an answer, the answer is left open."""
        self.chat_template(True)
        messages: list[Any] = [{"role": one["role"], "content": one["content"]} for one in chat_history]
        text = self.model.chat_prompt(messages, add_generation_prompt=add_generation_prompt, think=self._think)
        begun = "" if add_generation_prompt or not messages else messages[-1]["content"].strip()
        at = text.rfind(begun) if begun else -1
        return text if at < 0 else text[: at + len(begun)]

    def loglikelihood(self, requests: list[Any], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """The log-likelihood of each continuation given its context, and whether greedy decoding would write it."""
        pairs = [request.args for request in requests]
        told = self._in_parts("loglikelihood", pairs, self._tokens if self._by_token else self._choices, disable_tqdm)
        for pair, one in zip(pairs, told):
            self.cache_hook.add_partial("loglikelihood", pair, one)
        return told

    def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = False) -> list[float]:
        """The log-likelihood of each text. One that is longer than the context is cut into windows that know nothing of each other."""
        texts = [request.args for request in requests]

        def score(part: list[tuple[str]]) -> list[float]:
            return [one["logp"] for one in self.model.score([text for (text,) in part], **self._scoring)]

        told = self._in_parts("loglikelihood_rolling", texts, score, disable_tqdm)
        for text, one in zip(texts, told):
            self.cache_hook.add_partial("loglikelihood_rolling", text, one)
        return told

    def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
        """What the model writes after each context, up to the first of the strings that end it."""
        told = []
        for request in tqdm(requests, desc="generate_until", disable=disable_tqdm):
            context, how = request.args
            told.append(self._continuation(context, dict(how)))
            self.cache_hook.add_partial("generate_until", request.args, told[-1])
        return told

    @staticmethod
    def _in_parts(what: str, requests: list[Any], work: Any, is_quiet: bool) -> list[Any]:
        """Requests of about the same length go together."""
        order = sorted(range(len(requests)), key=lambda index: -sum(map(len, requests[index])))
        told: list[Any] = [None] * len(requests)
        with tqdm(total=len(requests), desc=what, disable=is_quiet) as bar:
            for start in range(0, len(order), _AT_ONCE):
                part = order[start : start + _AT_ONCE]
                for index, one in zip(part, work([requests[index] for index in part])):
                    told[index] = one
                bar.update(len(part))
        return told

    def _choices(self, pairs: list[tuple[str, str]]) -> list[tuple[float, bool]]:
        items: list[Any] = [{"context": context, "choices": [continuation]} for context, continuation in pairs]
        told = self.model.score(items, **self._scoring)
        if any("shortened" in scores[0] for scores in told):
            self._warn_of_cut()
        return [(scores[0]["logp"], False) for scores in told]

    def _tokens(self, pairs: list[tuple[str, str]]) -> list[tuple[float, bool]]:
        texts, given = [], []
        for context, continuation in pairs:
            before, scored = self._encoded(context, continuation)
            opening = [] if self._opening is None else [self._opening]
            if not before and not opening:
                opening = [] if self._prefix is None else [self._prefix]
            room = self.max_length - len(opening) - len(scored)
            if room < 0:
                raise OptionError(
                    f"a continuation has {len(scored)} tokens, more than the model's context of {self.max_length} leaves; leave the task out"
                )
            texts.append(opening + self._kept(before, room) + scored)
            given.append(len(texts[-1]) - len(scored))
        how = {name: self._scoring[name] for name in ("alpha_0", "seed") if name in self._scoring}
        told = []
        size = self._scoring.get("batch") or max(1, len(texts))
        scored_texts = []
        for start in range(0, len(texts), size):
            part = slice(start, start + size)
            scored_texts += self.model.logprobs(texts[part], given=given[part], top=1, **how)
        for text, count in zip(scored_texts, given):
            scored_ones = [one for one in text[count:] if one is not None]
            is_greedy = all(one["top"][0][0] == one["token"] for one in scored_ones)
            told.append((sum(one["logprob"] for one in scored_ones), is_greedy))
        return told

    def _encoded(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        """Both as one text, as the model would read it; what the tokens of the context alone share with it is the context."""
        kept = context.rstrip()
        whole = self.model.encode(context + continuation)
        alone = self.model.encode(kept) if kept else []
        same = 0
        while same < min(len(alone), len(whole)) and alone[same] == whole[same]:
            same += 1
        return whole[:same], whole[same:]

    def _kept(self, before: list[int], room: int) -> list[int]:
        """The end of a context, as much of it as there is room for."""
        if len(before) > room:
            self._warn_of_cut()
        return before[max(0, len(before) - room) :]

    def _warn_of_cut(self) -> None:
        if not self._has_cut:
            self._has_cut = True
            _log.warning("some requests do not fit the model's context of %d tokens; their beginnings are left out", self.max_length)

    def _drawn(self, how: dict[str, Any]) -> dict[str, Any]:
        """How a text is drawn that a task asks for."""
        asked = {name: value for name, value in how.items() if value is not None}
        for name in sorted(set(asked).difference(DrawOptions.__optional_keys__, _MOST_NAMES, ("until", "do_sample"), self._warned)):
            self._warned.add(name)
            _log.warning("the model esolm does not know %s=%r, which a task asks for; texts are written without it", name, asked[name])
        drawing: dict[str, Any] = dict(self._drawing)
        drawing.update({name: value for name, value in asked.items() if name in DrawOptions.__optional_keys__})
        does_sample = asked.get("do_sample")
        if does_sample is None:
            drawing.setdefault("temperature", 0.0)
        elif not does_sample:
            drawing["temperature"] = 0.0
        drawing.setdefault("seed", 0)
        return drawing

    def _continuation(self, context: str, how: dict[str, Any]) -> str:
        until = how.get("until") or []
        stops = [until] if isinstance(until, str) else list(until)
        if self._end:
            stops.append(self._end)
        drawing = self._drawn(how)
        opening = int(self._has_bos and self._opening is not None)
        before = self.model.encode(context)
        most = next((int(how[name]) for name in _MOST_NAMES if how.get(name) is not None), None)
        if most is None:
            # In a small context as many as what is given leaves, and at least half of it.
            most = min(_MOST_TOKENS, max(self.max_length - opening - len(before), self.max_length // 2))
        most = min(most, self.max_length - 1 - opening)
        kept = self._kept(before, self.max_length - opening - most)
        prompt = context if len(kept) == len(before) else self.model.decode(kept)
        length = opening + len(kept) + most
        if self._block is not None:
            block = drawing.get("block_size") or self._block
            length = min(self.max_length, -(-length // block) * block)
        bos = self._scoring.get("bos") if self._has_bos else None
        run = self.model.generate(prompt=prompt or None, length=length, stop_strings=stops or None, bos=bos, **drawing)
        given = len(run.headers[0]["known"][0])
        # The last block may hold more than the task asks for.
        tokens = run.result["tokens"][0][: given + most]
        said = self.model.decode(tokens[:given])
        text = self.model.decode(tokens)
        text = text[len(said) :] if text.startswith(said) else self.model.decode(tokens[given:])
        for stop in stops:
            text = text.split(stop)[0]
        return text


def main() -> None:
    """Runs the harness's command line."""
    from lm_eval.__main__ import cli_evaluate

    cli_evaluate()


if __name__ == "__main__":
    main()
