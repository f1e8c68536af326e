"""The model class for lm-evaluation-harness, run by its own command line on tasks of this file."""

import json
import os
import shutil
import subprocess
import sys

import esolm
import pytest
from conftest import FIXTURES

pytest.importorskip("lm_eval")

QUESTIONS = [
    ("Once upon a time, there was a little", ["girl named Lily.", "engine of war."]),
    ("Tom had a big red", ["ball.", "opinion."]),
    ("They went to the park to", ["play.", "legislate."]),
    ("Lily was very", ["happy.", "asynchronous."]),
]
STORIES = ["Once upon a time there was a girl.", "Tom had a red ball. He liked it."]

CHOICE = """task: tiny_choice
output_type: multiple_choice
doc_to_text: "{{context}}"
doc_to_target: gold
doc_to_choice: choices
metric_list:
  - metric: acc
"""
GREEDY = """task: tiny_greedy
output_type: loglikelihood
doc_to_text: "{{context}}"
doc_to_target: "{{answer}}"
metric_list:
  - metric: acc
"""
ROLLING = """task: tiny_rolling
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{text}}"
metric_list:
  - metric: bits_per_byte
"""
UNTIL = """task: tiny_until
output_type: generate_until
doc_to_text: "{{context}}"
doc_to_target: "{{answer}}"
generation_kwargs:
  until: ["."]
  max_gen_toks: 24
metric_list:
  - metric: exact_match
"""


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory, model):
    """What the command writes of every task: its results, and its samples by task."""
    folder = tmp_path_factory.mktemp("tasks")
    greedy = [model.text(prompt=context, temperature=0, alpha_0=0, length=len(model.encode(context)) + 3) for context, _ in QUESTIONS]
    answers = [text[len(context) :] for text, (context, _) in zip(greedy, QUESTIONS)]
    answers[-1] = " asynchronous"
    data = {
        "choice": [{"context": context, "choices": choices, "gold": 0} for context, choices in QUESTIONS],
        "greedy": [{"context": context, "answer": answer} for (context, _), answer in zip(QUESTIONS, answers)],
        "rolling": [{"text": text} for text in STORIES],
        "until": [{"context": context, "answer": ""} for context, _ in QUESTIONS],
    }
    for name, task in [("choice", CHOICE), ("greedy", GREEDY), ("rolling", ROLLING), ("until", UNTIL)]:
        lines = folder / f"{name}.jsonl"
        lines.write_text("\n".join(map(json.dumps, data[name])), encoding="utf-8")
        head = f"dataset_path: json\ndataset_kwargs:\n  data_files:\n    test: {lines}\ntest_split: test\n"
        if name in ("greedy", "until"):
            head += 'target_delimiter: ""\n'
        (folder / f"{name}.yaml").write_text(task + head, encoding="utf-8")
    tasks = ",".join(f"tiny_{name}" for name in data)
    command = [sys.executable, "-m", "esolm.lm_eval", "run", "--model", "esolm", "--model_args", "device=cpu,alpha_0=0"]
    command += ["--tasks", tasks, "--include_path", folder, "--output_path", folder / "out", "--log_samples"]
    offline = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_DATASETS_CACHE": str(folder / "cache")}
    done = subprocess.run([*map(str, command)], capture_output=True, encoding="utf-8", cwd=folder, env=offline, check=False)
    assert done.returncode == 0, done.stderr
    (results,) = (folder / "out").rglob("results_*.json")
    samples = {}
    for file in (folder / "out").rglob("samples_*.jsonl"):
        lines = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
        name = next(name for name in data if f"tiny_{name}" in file.name)
        samples[name] = sorted(lines, key=lambda line: line["doc_id"])
    return json.loads(results.read_text(encoding="utf-8"))["results"], samples, answers


def test_choices_have_the_likelihoods_of_score(evaluated, model):
    results, samples, _ = evaluated
    assert results["tiny_choice"]["acc,none"] == 1.0
    for sample, (context, choices) in zip(samples["choice"], QUESTIONS):
        want = model.score({"context": context, "choices": [f" {choice}" for choice in choices]})
        got = [float(response[0]) for response in sample["filtered_resps"]]
        assert got == pytest.approx([one["logp"] for one in want], abs=1e-4)


def test_greedy_continuations_are_known_as_such(evaluated):
    results, samples, _ = evaluated
    greedy = [str(sample["filtered_resps"][0][1]) == "True" for sample in samples["greedy"]]
    assert greedy == [True, True, True, False]
    assert results["tiny_greedy"]["acc,none"] == 0.75


def test_texts_have_the_likelihoods_of_score(evaluated, model):
    _, samples, _ = evaluated
    got = [float(sample["filtered_resps"][0]) for sample in samples["rolling"]]
    assert got == pytest.approx([one["logp"] for one in model.score(STORIES)], abs=1e-4)


def test_what_is_written_ends_where_the_task_says(evaluated, model):
    _, samples, answers = evaluated
    for sample, answer in list(zip(samples["until"], answers))[:3]:
        text = sample["filtered_resps"][0]
        assert "." not in text and text
        assert text.startswith(answer.split(".")[0]), (text, answer)


def test_a_bound_where_there_is_no_exact_likelihood(talker, talker_folder):
    import esolm.lm_eval
    from lm_eval.api.instance import Instance

    lm = esolm.lm_eval.EsolmLM(str(talker_folder), device="cpu", as_="bd3lm", block_size=8, seed=3, batch_size=1)
    pair = ("The sky is", " blue.")
    request = Instance(request_type="loglikelihood", doc={}, arguments=pair, idx=0)
    ((logp, is_greedy),) = lm.loglikelihood([request], disable_tqdm=True)
    want = talker.score({"context": pair[0], "choices": [pair[1]]}, seed=3)[0]
    assert logp == want["logp"] and not want["exact"] and not is_greedy


def test_the_task_decides_how_a_text_is_drawn_then_the_arguments(caplog):
    import esolm.lm_eval

    lm = esolm.lm_eval.EsolmLM(device="cpu", temperature=0.7, top_k=5)
    plain = {"until": ["."], "max_gen_toks": 8}
    assert lm._drawn(plain) == {"temperature": 0.7, "top_k": 5, "seed": 0}
    assert lm._drawn({**plain, "temperature": 0.2, "top_p": 0.5}) == {"temperature": 0.2, "top_k": 5, "top_p": 0.5, "seed": 0}
    assert lm._drawn({**plain, "temperature": 0.0})["temperature"] == 0
    assert lm._drawn({**plain, "do_sample": False, "temperature": 0.9})["temperature"] == 0
    assert lm._drawn({**plain, "do_sample": True})["temperature"] == 0.7
    assert esolm.lm_eval.EsolmLM(device="cpu", seed=7)._drawn(plain) == {"temperature": 0, "seed": 7}
    assert not caplog.records
    for _ in range(2):
        lm._drawn({**plain, "num_beams": 4, "repetition_penalty": 1.2})
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 2 and "num_beams=4" in said[0] and "repetition_penalty=1.2" in said[1]


def asked(lm, context, **how):
    """What a model writes after a context, with the options of the call that makes it do so."""
    from lm_eval.api.instance import Instance

    calls = []
    generate = lm.model.generate
    lm.model.generate = lambda **options: calls.append(options) or generate(**options)
    request = Instance(request_type="generate_until", doc={}, arguments=(context, {"until": [], **how}), idx=0)
    (written,) = lm.generate_until([request], disable_tqdm=True)
    lm.model.generate = generate
    return written, calls[0]


def test_a_text_that_is_drawn_is_the_same_again():
    import esolm.lm_eval

    lm = esolm.lm_eval.EsolmLM(device="cpu")
    how = {"do_sample": True, "temperature": 1.0, "max_gen_toks": 16}
    assert asked(lm, "Once upon a time", **how) == asked(lm, "Once upon a time", **how)


def test_a_small_context_is_cut_at_most_by_half(caplog):
    import esolm.lm_eval

    lm = esolm.lm_eval.EsolmLM(device="cpu")
    assert lm.max_length == 256
    words = "Once upon a time there was a little girl."
    _, call = asked(lm, words)
    assert call["prompt"] == words and call["length"] == 256
    assert not caplog.records
    long = words * 40
    for _ in range(2):
        _, call = asked(lm, long)
        assert long.endswith(call["prompt"]) and len(lm.model.encode(call["prompt"])) == 127
    (record,) = caplog.records
    assert "do not fit the model's context of 256 tokens" in record.getMessage()


@pytest.fixture
def letters(tmp_path):
    """A tokenizer for networks with 96 tokens and a mask: a token for each letter."""
    end = "<|endoftext|>"
    vocabulary = {chr(32 + index): index for index in range(95)}
    token = {"id": 95, "content": end, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    model = {"type": "BPE", "vocab": {**vocabulary, end: 95}, "merges": []}
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps({"version": "1.0", "added_tokens": [token], "decoder": {"type": "Fuse"}, "model": model}), encoding="utf-8")
    return path


def test_whole_blocks_are_written_and_cut(letters):
    import esolm.lm_eval

    folder = str(FIXTURES / "golden-family/bd3lm/bs4")
    for options, length in [({}, 20), ({"block_size": 8}, 24)]:
        lm = esolm.lm_eval.EsolmLM(folder, device="cpu", tokenizer=letters, suppress_tokens=[95], **options)
        written, call = asked(lm, "Tom had", max_gen_toks=10)
        assert call["length"] == length
        whole = lm.model.text(prompt="Tom had", length=length, seed=0, temperature=0, suppress_tokens=[95], **options)
        assert len(written) == 10 and whole.startswith("Tom had" + written)


def test_the_opening_token_that_is_asked_for(talker_folder, tmp_path):
    import esolm.lm_eval
    from lm_eval.api.instance import Instance

    # The network of the talker as what it was made from: an AR model that opens with no token by itself.
    folder = shutil.copytree(talker_folder, tmp_path / "ar")
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config.update(model_type="qwen3", architectures=["Qwen3ForCausalLM"])
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    pair = ("The sky is", " blue.")
    request = Instance(request_type="loglikelihood", doc={}, arguments=pair, idx=0)
    logps = []
    for bos in [None, True]:
        lm = esolm.lm_eval.EsolmLM(str(folder), device="cpu", bos=bos)
        assert lm.model.info["exact"]
        ((logp, _),) = lm.loglikelihood([request], disable_tqdm=True)
        (want,) = lm.model.score({"context": pair[0], "choices": [pair[1]]}, bos=bos)
        assert logp == pytest.approx(want["logp"], abs=1e-4)
        logps.append(logp)
        _, call = asked(lm, pair[0], max_gen_toks=4)
        assert call["bos"] is bos
    assert abs(logps[0] - logps[1]) > 1e-3


def test_a_batch_is_one_pass(monkeypatch):
    import esolm.lm_eval
    from lm_eval.api.instance import Instance

    requests = [Instance(request_type="loglikelihood", doc={}, arguments=(*pair,), idx=0) for pair in [("Tom had", " a ball."), ("Lily", " was")] * 3]
    together = esolm.lm_eval.EsolmLM(device="cpu").loglikelihood(requests, disable_tqdm=True)
    sizes = []
    logprobs = esolm.Model.logprobs

    def counted(model, texts, **how):
        sizes.append(len(texts))
        return logprobs(model, texts, **how)

    monkeypatch.setattr(esolm.Model, "logprobs", counted)
    for how in [{"batch_size": 4}, {"batch": 4}]:
        told = esolm.lm_eval.EsolmLM(device="cpu", **how).loglikelihood(requests, disable_tqdm=True)
        assert [logp for logp, _ in told] == pytest.approx([logp for logp, _ in together], abs=1e-4)
    assert sizes == [4, 2, 4, 2]
    with pytest.raises(esolm.OptionError, match="batch"):
        esolm.lm_eval.EsolmLM(device="cpu", batch=0)


def test_a_chat_template_makes_the_requests(talker, talker_folder):
    import esolm.lm_eval
    from lm_eval.api.instance import Instance

    lm = esolm.lm_eval.EsolmLM(str(talker_folder), device="cpu", as_="bd3lm", block_size=8)
    said = [{"role": "user", "content": "What colour is the sky?"}]
    context = lm.apply_chat_template(said)
    assert context == next(talker.chat(said, temperature=0, max_tokens=8))["text"] == talker.chat_prompt(said)
    begun = lm.apply_chat_template([*said, {"role": "assistant", "content": "The sky"}], add_generation_prompt=False)
    assert begun.endswith("The sky") and begun.startswith(talker.chat_prompt(said, add_generation_prompt=False))
    how = {"until": [], "max_gen_toks": 24, "temperature": 0, "steps": 8}
    request = Instance(request_type="generate_until", doc={}, arguments=(context, how), idx=0)
    (written,) = lm.generate_until([request], disable_tqdm=True)
    assert "The sky is blue." in written
    lm = esolm.lm_eval.EsolmLM(str(talker_folder), device="cpu", as_="bd3lm", block_size=8, think=False)
    context = lm.apply_chat_template(said)
    assert context == talker.chat_prompt(said, think=False)
    request = Instance(request_type="generate_until", doc={}, arguments=(context, how), idx=0)
    assert lm.generate_until([request], disable_tqdm=True) == ["The sky is blue."]
    with pytest.raises(esolm.ChatError, match="'rag'"):
        lm.chat_template("rag")
    with pytest.raises(esolm.ChatError, match="chat_template="):
        esolm.lm_eval.EsolmLM(device="cpu").apply_chat_template(said)


def test_without_the_harness_it_says_what_installs_it():
    program = "import runpy, sys; sys.modules['lm_eval'] = None; runpy.run_module('esolm.lm_eval', run_name='__main__')"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, encoding="utf-8", check=False)
    assert done.returncode == 1 and done.stdout == ""
    assert "pip install 'esolm[lm-eval]'" in done.stderr and done.stderr.count("\n") == 1


def test_arguments_that_do_not_exist_are_named():
    import esolm.lm_eval

    with pytest.raises(esolm.OptionError, match="'tempreature'"):
        esolm.lm_eval.EsolmLM(device="cpu", tempreature=1)


def test_the_harness_names_devices_as_torch_does():
    import esolm.lm_eval

    lm = esolm.lm_eval.EsolmLM.create_from_arg_obj({"weights": "q8"}, {"device": "cuda:0", "batch_size": 1})
    assert lm.model.info["device"]["weights"] == "q8"
    lm = esolm.lm_eval.EsolmLM.create_from_arg_obj({"device": "cpu"}, {"device": "cuda:0"})
    assert lm.model.info["device"]["adapter"] is None
    lm = esolm.lm_eval.EsolmLM.create_from_arg_string("device=cpu,weights=q8", {"device": "cuda:0", "batch_size": 1})
    assert lm.model.info["device"]["adapter"] is None and lm.model.info["device"]["weights"] == "q8"
    with pytest.raises(esolm.OptionError, match="cuda:1"):
        esolm.lm_eval.EsolmLM.create_from_arg_obj({}, {"device": "cuda:1"})
