"""The package as its users call it, on the CPU."""

import json
import pickle

import esolm
import numpy
import pytest

BEGINNING = "Once upon a time"


def test_texts_are_those_of_the_command(model, program):
    for options, flags in [
        ({"prompt": BEGINNING, "length": 48}, ["--prompt", BEGINNING, "--length", 48]),
        ({"length": 40, "alpha_0": 0.5, "steps": 12, "temperature": 0.8}, ["--length", 40, "--alpha0", 0.5, "--steps", 12, "--temperature", 0.8]),
        ({"infill": "Once ____ a time, Lily ____{6} the end."}, ["--infill", "Once ____ a time, Lily ____{6} the end."]),
    ]:
        told = json.loads(program("sample", "--device", "cpu", "--quiet", "--json", "--seed", 4, *flags))
        run = model.generate(seed=4, **options)
        assert run.result["text"] == [told["sequences"][0]["text"]]
        assert model.text(seed=4, **options) == run.result["text"][0]
    template = "Once ____ a time, Lily ____{6} the end."
    assert model.infill(template, seed=4) == model.text(infill=template, seed=4)


def test_a_text_does_not_depend_on_its_batch(model):
    together = model.texts(prompt=[BEGINNING, "Tom had", "Lily"], seed=7, length=40)
    alone = [model.text(prompt=prompt, seed=7, length=40, first=i) for i, prompt in enumerate([BEGINNING, "Tom had", "Lily"])]
    assert together == alone
    assert model.texts(prompt=numpy.array([BEGINNING, "Tom had", "Lily"], dtype=object), seed=numpy.int64(7), length=40) == alone


def test_steps_reveal_what_the_result_has(model):
    run = model.generate(seed=3, length=32, steps=8, logprobs=True)
    header = run.headers[0]
    assert header["length"] == 32 and header["seed"] == 3
    tokens = dict(header["known"][0])
    steps = 0
    for step in run:
        steps += 1
        assert step["steps"] == header["nfe"]
        for token in step["revealed"]:
            assert token["logprob"] <= 0
            tokens[token["position"]] = token["token"]
    result = run.result
    assert steps == header["nfe"] == result["nfe"]
    assert [tokens[position] for position in range(32)] == result["tokens"][0]
    assert result["finish"] == ["length"] and not result["interrupted"]
    assert "".join(result["pieces"][token] for token in result["tokens"][0]).endswith(result["text"][0])
    assert list(run) == [] and run.result == result


def test_seeds_use_all_bits(model):
    seed = 2**64 - 1
    run = model.generate(seed=seed, length=8)
    assert run.headers[0]["seed"] == seed
    assert run.result["text"] == model.texts(seed=str(seed), length=8)


def test_leaving_early_keeps_what_was_written(model):
    run = model.generate(seed=3, length=64, steps=64)
    next(run)
    run.stop()
    result = run.result
    assert result["interrupted"] and result["finish"] == ["interrupted"]
    assert model.info["mask_index"] in result["tokens"][0]


def test_a_thread_that_would_wait_for_itself_is_told(model):
    run = model.generate(seed=3, length=64, steps=64)
    next(run)
    for call in [lambda: model.text(length=8), lambda: model.score("a"), lambda: next(model.generate(length=8))]:
        with pytest.raises(esolm.EsolmError, match="this thread has not read") as caught:
            call()
        assert caught.value.code == "busy"
    next(run)
    run.close()
    assert model.text(length=8, seed=1)
    with pytest.raises(esolm.EsolmError, match="no result"):
        run.result
    with model.generate(seed=3, length=64, steps=64) as run:
        next(run)
    assert model.text(length=8, seed=1)
    # What nobody holds any more does not hold the model.
    next(model.generate(seed=3, length=64, steps=64))
    assert model.text(length=8, seed=1)


def test_scores_are_those_of_the_command(model, program, tmp_path):
    lines = ["Once upon a time there was a girl.", "Time a upon girl was there once."]
    (tmp_path / "lines.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    told = program("score", "--device", "cpu", "--quiet", "--format", "jsonl", tmp_path / "lines.txt")
    told = [json.loads(line)["logp"] for line in told.splitlines()]
    likely, unlikely = model.score(lines)
    assert [likely["logp"], unlikely["logp"]] == pytest.approx(told, abs=1e-6)
    assert likely["exact"] and likely["logp"] > unlikely["logp"]
    assert model.score(lines[0]) == likely
    choices = {"context": "The cat sat on the", "choices": [" mat.", " xylophone."]}
    middle = {"prefix": "The cat", "middle": " sat on", "suffix": " the mat."}
    assert len(model.score(choices)) == 2
    assert model.score(middle)["tokens"] >= 2
    assert model.score([choices, middle, lines[0]])[1] == model.score(middle)
    assert model.score([]) == []
    orders = model.score(lines[0], alpha_0=1, orders=4, seed=2)
    assert orders["exact"] and orders["logp"] != likely["logp"]
    assert model.score("word " * 400)["is_cut"]


def test_logprobs_add_up_to_the_score(model):
    text = "Once upon a time there was a girl."
    tokens = model.encode(text)
    (told,) = model.logprobs([[model.info["bos"], *tokens]], given=1, top=2)
    assert told[0] is None and [one["token"] for one in told[1:]] == tokens
    assert all(len(one["top"]) == 2 and one["top"][0][1] >= max(one["logprob"], one["top"][1][1]) for one in told[1:])
    assert sum(one["logprob"] for one in told[1:]) == pytest.approx(model.score(text)["logp"], abs=1e-4)
    many = model.logprobs([[model.info["bos"], *tokens], [5], []], given=[1, 1, 0])
    assert [one and one["logprob"] for one in many[0]] == pytest.approx([one and one["logprob"] for one in told])
    assert many[1:] == [[None], []]


def test_perplexity_agrees_with_the_score(model):
    texts = ["Once upon a time there was a little girl who had a dog.", "Tom had a red ball."]
    measured = model.perplexity(texts, alpha_0=0, per_document=True, draws=0)
    scores = model.score(texts, alpha_0=0)
    assert [one["logp"] for one in measured["per_document"]] == pytest.approx([one["logp"] for one in scores], abs=1e-4)
    nats = -sum(one["logp"] for one in scores) / sum(one["tokens"] for one in scores)
    assert measured["exact"]["nats_per_token"] == pytest.approx(nats, abs=1e-5)
    assert measured["nelbo"] is None
    tokens = [[model.info["bos"], *model.encode(texts[1])]]
    order = [list(range(len(tokens[0])))]
    given = model.perplexity(tokens=tokens, order=order, draws=0)
    # Of given tokens the first is scored too.
    told = [one["logprob"] for one in model.logprobs(tokens)[0]]
    assert given["exact"]["nats_per_token"] == pytest.approx(-sum(told) / len(told), abs=1e-5)
    assert sum(told[1:]) == pytest.approx(scores[1]["logp"], abs=1e-4)


def test_numpys_integers_are_numbers(model):
    number = numpy.int64(1)
    plain = model.logprobs([[5, 6]], given=1, top=1, seed=1)
    assert model.logprobs([numpy.array([5, 6], dtype=numpy.uint16)], given=number, top=number, seed=number, alpha_0=numpy.float32(0)) == plain
    assert model.logprobs([[numpy.int32(5), 6]], given=numpy.array([1]), top=1, seed=1) == plain
    assert model.decode([numpy.int64(5), 6]) == model.decode(numpy.array([5, 6])) == model.decode(iter([5, 6]))
    assert model.decode([]) == ""
    how = {"length": 8, "steps": 4, "seed": 1, "top_k": 3, "batch": 1}
    assert model.text(**{name: numpy.int64(value) for name, value in how.items()}) == model.text(**how)


def test_what_a_model_is_does_not_change(model):
    info = model.info
    info["vocab_size"] = 3
    info["device"]["text"] = "changed"
    del info["attention"]
    assert model.info["vocab_size"] > 3 and model.info["device"]["text"] != "changed"
    assert model.logits([5, 6]).shape == (2, model.info["vocab_size"])


def test_logits_know_what_stands_before_in_the_order(model):
    tokens = model.encode("Once upon a time there was")
    length = len(tokens)
    order = list(reversed(range(length)))
    logits = model.logits(tokens, order)
    assert logits.shape == (length, model.info["vocab_size"]) and logits.dtype == numpy.float32
    both = model.logits([tokens, tokens], [order, list(range(length))])
    assert numpy.abs(both[0] - logits).max() < 1e-4
    assert numpy.abs(both[1] - model.logits(tokens)).max() < 1e-4
    # Of an order from right to left the first token is the last to become known: no other row sees it.
    other = [tokens[-1], *tokens[1:]]
    changed = model.logits(other, order)
    assert numpy.abs(changed[1:] - logits[1:]).max() < 1e-4 < numpy.abs(changed[0] - logits[0]).max()


def test_what_a_model_is(model, program):
    told = json.loads(program("inspect", "--json"))
    inspected = esolm.inspect()
    for name in ["family", "hidden", "n_blocks", "n_heads", "length", "vocab_size", "parameters", "file_bytes", "mask_told", "memory"]:
        assert inspected[name] == told[name], name
        assert name in ("mask_told", "memory") or model.info[name] == told[name], name
    assert model.info["device"]["adapter"] is None and model.info["device"]["weights"] == "f32"
    assert repr(model) == "<esolm.Model stories on CPU, f32>"
    assert model.info["chat"] is None
    assert isinstance(esolm.devices(), list)
    assert model.decode(model.encode("Once upon a time")).strip() == "Once upon a time"


def test_fewer_bits(model):
    small = esolm.Model.load(device="cpu", weights="q8", activations="q8", name="small")
    assert small.info["device"]["weights"] == "q8" and "small" in repr(small)
    text = "Once upon a time there was a girl."
    assert small.score(text)["logp"] == pytest.approx(model.score(text)["logp"], rel=0.05)


def test_a_conversation(talker):
    assert talker.info["chat"] == {"think": True}
    said = [{"role": "user", "content": "What colour is the sky?"}]
    how = {"temperature": 0, "max_tokens": 32, "steps": 8, "think": False}
    # With blocks that are counted from the beginning of the text, what is kept from one answer to the next is of use.
    counted = {**how, "prompt_tail": "shared"}
    run = talker.chat(said, **how)
    events = list(run)
    assert [event["event"] for event in events[:2]] == ["prompt", "step"] and events[-1]["event"] == "answer"
    assert "What colour is the sky?" in events[0]["text"]
    answer = run.answer
    assert answer["text"] == "The sky is blue." and answer["finish"] == "eos"
    assert "".join(event["text"] for event in events if event["event"] == "step") == answer["text"]
    assert talker.chat(said, **counted).answer["cached"] == 0
    said += [{"role": "assistant", "content": answer["text"]}, {"role": "user", "content": "What colour is the sky?"}]
    again = talker.chat(said, **counted).answer
    assert again["cached"] > 0 and again["prompt_tokens"] > again["cached"]


def test_errors_have_their_kind_and_fields(model, talker, tmp_path):
    def refused(kind, code, words, call, **fields):
        with pytest.raises(kind) as caught:
            call()
        error = caught.value
        assert isinstance(error, esolm.EsolmError) and error.code == code, repr(error)
        assert words in str(error), str(error)
        assert "\n" not in str(error) and "--" not in str(error), str(error)
        for name, value in fields.items():
            assert error.data[name] == value, error.data
        copy = pickle.loads(pickle.dumps(error))
        assert (type(copy), str(copy), copy.code, copy.data) == (type(error), str(error), error.code, error.data)

    option, text, ckpt = esolm.OptionError, esolm.TextError, esolm.CheckpointError
    refused(option, "option", "top_p", lambda: model.text(top_p=2.0), option="top_p", value="2", range="a number above 0, up to 1")
    refused(option, "option", "top_k", lambda: model.text(top_k=0))
    refused(option, "option", "temperature", lambda: model.text(temperature="hot"))
    refused(option, "option", "temperature", lambda: model.text(temperature=float("nan")))
    refused(option, "option", "seed", lambda: model.text(seed=-1))
    refused(option, "option", "seed", lambda: model.text(seed=2**64))
    refused(option, "option", "length", lambda: model.text(length=100000), length=100000)
    refused(option, "option", "schedule", lambda: model.text(schedule="bloks"))
    wrong = esolm.ArgumentError
    refused(wrong, "type", "prompt", lambda: model.texts(prompt=["a", 1]))
    refused(wrong, "type", "prompt is a value of type int", lambda: model.text(prompt=3))
    refused(wrong, "type", "documents is a value of type int", lambda: model.perplexity(3))
    refused(wrong, "type", "seed", lambda: model.text(seed={1, 2}))
    refused(wrong, "type", "source", lambda: esolm.Model.load(3))
    refused(option, "option", "at least one text", lambda: model.texts(prompt=[]))
    refused(option, "option", 'temperature: got "hot"; give a number', lambda: model.text(temperature="hot"))
    refused(option, "option", "length: got 2.5; give a whole number", lambda: model.text(length=2.5))
    refused(option, "option", "logprobs: got 3; give True or False", lambda: model.text(logprobs=3))
    refused(option, "option", "got 3; give a text", lambda: model.text(infill=3))
    refused(option, "option", "got 3; give a text", lambda: model.encode(3))
    refused(text, "text", "prompt holds half of a surrogate pair", lambda: model.text(prompt="\ud800"))
    refused(text, "text", "text holds half of a surrogate pair", lambda: model.encode("\ud800"))
    refused(text, "text", "documents holds half of a surrogate pair", lambda: model.perplexity(["a", "\ud800"]))
    refused(text, "text", "item 1 holds half of a surrogate pair", lambda: model.score(["a", "\ud800"]))
    refused(option, "option", "length is 0; it must be at least 1", lambda: model.perplexity("a", length=0), option="length", value="0")
    refused(option, "option", "max_windows is 0", lambda: model.perplexity("a", max_windows=0), option="max_windows")
    hello = [{"role": "user", "content": "a"}]
    refused(option, "option", "max_tokens is 0; it must be at least 1", lambda: talker.chat(hello, max_tokens=0).answer, option="max_tokens")
    for call in [lambda one: model.decode([one]), lambda one: model.logprobs([[5], [one]])]:
        for one in [1.9, "123", float("nan"), float("inf"), True, None, 2**70, 1j, [1], b"1"]:
            refused(option, "option", "tokens", lambda call=call, one=one: call(one))
    refused(option, "option", "vocabulary", lambda: model.decode([10**6]), token=10**6)
    refused(option, "option", "tokens[1] holds the token 1000000", lambda: model.logprobs([[1], [10**6]]))
    refused(wrong, "type", "tokens is a value of type int", lambda: model.decode(5))
    refused(wrong, "type", "given", lambda: model.logprobs([[1]], given=0.5))
    refused(wrong, "type", "alpha_0", lambda: model.logprobs([[1]], alpha_0="1"))
    refused(option, "option", "order has rows of different lengths", lambda: model.logits([1, 2], order=[[0], [0, 1]]))
    refused(option, "option", "window", lambda: model.text(window=4), option="window")
    refused(option, "option", "use texts", lambda: model.text(prompt=["a", "b"]))
    refused(option, "option", "exclude each other", lambda: model.infill("a ____", prompt="b"))
    refused(option, "option", "alpha_0", lambda: model.score("a", alpha_0=7), option="alpha_0")
    refused(option, "option", "item 1", lambda: model.score(["a", {"contxt": "a"}]), index=1)
    refused(option, "option", "item 0", lambda: model.score([{"context": "a", "choices": []}]), index=0)
    refused(option, "option", "draws", lambda: model.score("a", draws=3), option="draws")
    refused(option, "option", "no document", lambda: model.perplexity([]))
    refused(option, "option", "permutation", lambda: model.logits([1, 2, 3], [0, 0, 1]))
    refused(option, "option", "order has the shape [2]", lambda: model.logits([1, 2, 3], [0, 1]))
    refused(option, "option", "whole numbers", lambda: model.logits([1.5, 2, 3]))
    refused(option, "option", "different lengths", lambda: model.logits([[1, 2], [3]]))
    refused(option, "option", "vocabulary", lambda: model.logits([10**6, 2, 3]))
    refused(option, "option", "-1", lambda: model.logits([-1, 2, 3]))
    refused(option, "option", "context", lambda: model.logits([1] * 10000), length=10000)
    refused(option, "option", "unknown variant `cusal`", lambda: model.logits([1, 2], mode="cusal"))
    refused(option, "option", "clean has the shape [1, 2]", lambda: model.logits([1, 2, 3], clean=[1, 2]))
    refused(option, "option", "holds -1, which is not a token", lambda: model.decode([-1]))
    refused(option, "option", "holds -1, which is not a token", lambda: model.logprobs([[-1]]))
    refused(option, "option", "given has 2 numbers", lambda: model.logprobs([[1]], given=[1, 2]))
    refused(option, "option", "less than 2^64", lambda: model.logprobs([[1]], seed=2**64))
    refused(option, "option", "vocabulary", lambda: model.logprobs([[10**6]]), token=10**6)
    refused(option, "option", "device", lambda: esolm.Model.load(device="tpu"), value="tpu")
    refused(esolm.DeviceError, "no_adapter", "esolm.devices()", lambda: esolm.Model.load(device="gpu:99"), index=99)
    refused(option, "option", "weights", lambda: esolm.Model.load(weights="f64"))
    refused(option, "option", "activations", lambda: esolm.Model.load(device="cpu", activations="q8"))
    refused(option, "option", "block_size", lambda: esolm.Model.load(block_size=4), option="block_size")
    refused(option, "option", "name the checkpoint", lambda: esolm.Model.load(raw_weights=True))
    refused(ckpt, "checkpoint", "nowhere", lambda: esolm.Model.load(tmp_path / "nowhere"))
    refused(ckpt, "checkpoint", "config", lambda: esolm.inspect(tmp_path))
    refused(esolm.ChatError, "chat", "chat_template=", lambda: model.chat([{"role": "user", "content": "a"}]))
    refused(esolm.ChatError, "chat", "no message", lambda: talker.chat([]).answer)
    refused(esolm.ChatError, "chat", "max_tokens", lambda: talker.chat([{"role": "user", "content": "sky " * 5000}]).answer)
    refused(option, "option", "messages", lambda: talker.chat([{"role": "user"}]))
    refused(option, "option", "max_tokens", lambda: talker.chat([{"role": "user", "content": "a"}], max_tokens="many"))
    # They are what Python's own errors are, too.
    assert issubclass(option, ValueError) and issubclass(esolm.OutOfMemoryError, MemoryError)


def test_a_model_without_a_tokenizer_says_so(golden_network):
    bare = esolm.Model.load(golden_network("golden/mdlm.ema.safetensors", "golden/mdlm.config.json"), device="cpu")
    assert bare.generate(seed=1, length=8).result["tokens"][0]
    for call in [lambda: bare.text(prompt="a"), lambda: bare.score("a"), lambda: bare.encode("a")]:
        with pytest.raises(esolm.TextError, match="tokenizer=") as caught:
            call()
        assert caught.value.code == "tokenizer"


def test_calls_are_checked_as_pythons_are(model):
    assert issubclass(esolm.ArgumentError, TypeError)
    with pytest.raises(esolm.ArgumentError, match="'tempreature'; perhaps 'temperature' was meant"):
        model.text(tempreature=1.0)
    with pytest.raises(esolm.ArgumentError, match="inspect.*'device'"):
        esolm.inspect(device="cpu")
    with pytest.raises(TypeError, match="seed"):
        model.text(seed={1, 2})
    with pytest.raises(esolm.ArgumentError, match="documents or tokens"):
        model.perplexity()
    with pytest.raises(esolm.ArgumentError, match="messages is a list"):
        model.chat("Hello")
    loop = []
    loop.append(loop)
    with pytest.raises(esolm.OptionError, match="nested too deep"):
        model.text(suppress_tokens=loop)
    assert model.text(seed=1, length=8, top_p=None, prompt=None) == model.text(seed=1, length=8)
