"""The package as its users call it, on the CPU."""

import threading

import esolm
import numpy
import pytest


@pytest.fixture(scope="module")
def model():
    return esolm.Model.load(device="cpu")


def test_the_same_seed_gives_the_same_text(model):
    one, other = (model.text(prompt="Once upon a time", seed=4, length=48) for _ in range(2))
    assert one == other
    assert one.startswith("Once upon a time")


def test_steps_reveal_what_the_result_has(model):
    run = model.generate(seed=3, length=32, steps=8)
    header = run.header()
    assert header["length"] == 32
    tokens = dict(header["known"][0])
    for step in run:
        for token in step["revealed"]:
            tokens[token["position"]] = token["token"]
    result = run.result()
    assert [tokens[position] for position in range(32)] == result["tokens"][0]
    assert result["finish"] == ["length"]


def test_leaving_early_keeps_what_was_written(model):
    run = model.generate(seed=3, length=64, steps=64)
    next(run)
    run.stop()
    assert run.result()["interrupted"]


def test_infill_keeps_what_is_given(model):
    text = model.infill("Once ____ a time, the cat ____{6} home.", seed=2)
    assert text.startswith("Once ") and " a time, the cat " in text and text.endswith(" home.")


def test_scores(model):
    likely, unlikely = model.score(["Once upon a time there was a girl.", "Time a upon girl was there once."])
    assert likely["exact"] and likely["logp"] > unlikely["logp"]
    assert model.score("Once upon a time there was a girl.") == likely
    choices = model.score({"context": "The cat sat on the", "choices": [" mat", " xylophone"]})
    assert len(choices) == 2


def test_perplexity_agrees_with_the_score(model):
    text = "Once upon a time there was a little girl who had a dog."
    whole = model.perplexity([text], alpha_0=0, per_document=True, draws=0)
    assert whole["exact"]["nats_per_token"] == pytest.approx(model.score(text, alpha_0=0)["nats_per_token"], abs=1e-5)


def test_logits_do_not_depend_on_how_they_are_asked_for(model):
    tokens = model.encode("Once upon a time")
    mask = model.info["mask_index"]
    tokens[2] = mask
    order = [3, 0, 1, 2][: len(tokens)] if len(tokens) == 4 else list(range(len(tokens)))
    one = model.logits(tokens, order)
    assert one.shape == (len(tokens), model.info["vocab_size"]) and one.dtype == numpy.float32
    both = model.logits([tokens, tokens], [order, order])
    assert numpy.array_equal(both[0], one) and numpy.array_equal(both[1], one)


def test_errors_are_of_their_kinds(model):
    with pytest.raises(esolm.OptionError, match="top_p"):
        model.text(top_p=2.0)
    with pytest.raises(esolm.OptionError, match="unknown field"):
        model.text(tempreature=1.0)
    with pytest.raises(ValueError):
        model.logits([1, 2, 3], [0, 0, 1])
    with pytest.raises(esolm.CheckpointError):
        esolm.Model.load("/nowhere/at/all")
    with pytest.raises(esolm.EsolmError):
        esolm.Model.load(device="gpu:99")


def test_other_threads_run_meanwhile(model):
    count = 0
    done = threading.Event()

    def counts():
        nonlocal count
        while not done.is_set():
            count += 1

    thread = threading.Thread(target=counts)
    thread.start()
    model.text(seed=1, length=64)
    done.set()
    thread.join()
    assert count > 1000


def test_an_interrupt_ends_a_call(model):
    import _thread

    threading.Timer(0.2, _thread.interrupt_main).start()
    with pytest.raises(KeyboardInterrupt):
        for _ in range(100):
            model.text(length=256, batch=8, steps=256)
    assert model.text(seed=4, length=16)
