"""What the tests of `esolm serve` do with the clients that people use. Says what it got as JSON."""

import json
import os
import sys
from pathlib import Path

# Whatever a client would fetch is here, or it is not wanted.
os.environ.update(HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1", HF_HUB_DISABLE_TELEMETRY="1")


def openai_client(address, key):
    import openai

    def client(key):
        return openai.OpenAI(base_url=f"http://{address}/v1", api_key=key, max_retries=0)

    ours = client(key)
    assert [model.id for model in ours.models.list()] == ["stories"]
    assert ours.models.retrieve("stories").id == "stories"
    common = dict(model="stories", prompt="Once upon a time", max_tokens=24, seed=4)
    whole = ours.completions.create(**common)
    choice = whole.choices[0]
    assert choice.finish_reason in ("stop", "length") and choice.logprobs is None
    assert whole.usage.total_tokens == whole.usage.prompt_tokens + whole.usage.completion_tokens

    # A stream is the same text from its beginning on.
    stream = ours.completions.create(**common, stream=True, stream_options={"include_usage": True})
    parts, usage = [], None
    for part in stream:
        parts += [choice.text for choice in part.choices]
        usage = part.usage or usage
    assert "".join(parts) == choice.text, parts
    assert usage == whole.usage

    # One with stop strings shows nothing that it would have to take back.
    stopped = dict(common, max_tokens=100, stop=[" was", ".\n", " very big"], extra_body={"alpha_0": 0.4}, seed=8)
    whole_stopped = ours.completions.create(**stopped).choices[0]
    parts = [choice for part in ours.completions.create(**stopped, stream=True) for choice in part.choices]
    assert "".join(part.text for part in parts) == whole_stopped.text, parts
    assert parts[-1].finish_reason == whole_stopped.finish_reason == "stop"
    assert " was" not in whole_stopped.text

    # Fields of ours arrive beside OpenAI's.
    own = ours.completions.create(**common, extra_body={"alpha_0": 0.5, "steps": 8, "schedule": "binomial"})
    assert own.choices[0].text

    several = ours.completions.create(
        model="stories", prompt=["Tom", "Lily"], n=2, max_tokens=6, stop=[".", "\n"], temperature=0.5, top_p=0.9, logprobs=2
    )
    assert [choice.index for choice in several.choices] == [0, 1, 2, 3]
    for choice in several.choices:
        assert "." not in choice.text
        logprobs = choice.logprobs
        assert len(logprobs.tokens) == len(logprobs.token_logprobs) == len(logprobs.top_logprobs)
        assert all(len(top) == 2 for top in logprobs.top_logprobs)

    middle = ours.completions.create(model="stories", prompt="The cat", suffix=" with a dog.", max_tokens=5, seed=1)
    assert middle.choices[0].text and not middle.choices[0].text.endswith("dog.")

    echoed = ours.completions.create(**{**common, "max_tokens": 1}, echo=True, logprobs=1)
    assert echoed.choices[0].text.startswith("Once upon a time")

    # Errors come as the package's own kinds, with what is wrong.
    def refused(kind, key=key, **fields):
        try:
            client(key).completions.create(**{**common, **fields})
        except kind as error:
            return error
        raise AssertionError(f"{fields} was not refused")

    error = refused(openai.BadRequestError, max_tokens=4096)
    assert error.param == "max_tokens" and error.type == "invalid_request_error", error.body
    assert refused(openai.BadRequestError, presence_penalty=1).param == "presence_penalty"
    assert refused(openai.NotFoundError, model="gpt-4").code == "model_not_found"
    assert refused(openai.AuthenticationError, key="wrong").code == "invalid_api_key"

    # A model without a chat template says so.
    try:
        ours.chat.completions.create(model="stories", messages=[{"role": "user", "content": "Hello"}])
        raise AssertionError("a model that is not talked to answered")
    except openai.BadRequestError as error:
        assert error.param == "model" and "chat template" in error.message, error.body

    length = 1 + whole.usage.prompt_tokens + 24
    return {"text": whole.choices[0].text, "length": length}


def lm_eval_client(address, data, out):
    tasks = Path(out) / "tasks"
    tasks.mkdir()
    (tasks / "tiny.yaml").write_text(
        f"""task: tiny
dataset_path: json
dataset_kwargs:
  data_files:
    test: {data}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{context}}}}"
doc_to_target: gold
doc_to_choice: choices
metric_list:
  - metric: acc
"""
    )
    import lm_eval
    from lm_eval.tasks import TaskManager

    results = lm_eval.simple_evaluate(
        model="local-completions",
        model_args=f"model=stories,base_url=http://{address}/v1/completions,tokenizer_backend=remote,max_length=255",
        tasks=["tiny"],
        task_manager=TaskManager(include_path=str(tasks)),
        log_samples=True,
        bootstrap_iters=0,
    )
    samples = sorted(results["samples"]["tiny"], key=lambda sample: sample["doc_id"])
    return [[float(response[0]) for response in sample["filtered_resps"]] for sample in samples]


if __name__ == "__main__":
    kind, *arguments = sys.argv[1:]
    stdout = sys.stdout
    sys.stdout = sys.stderr
    answer = {"openai": openai_client, "lm_eval": lm_eval_client}[kind](*arguments)
    json.dump(answer, stdout)
