"""The programs in the README files run as they stand there."""

import re

import esolm
import numpy
import pytest
from conftest import ROOT


def programs(path):
    text = (ROOT / path).read_text(encoding="utf-8")
    return re.findall(r"^```python\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)


def test_the_readme_of_the_package(model, talker, capsys, monkeypatch):
    found = programs("crates/esolm-python/README.md")
    assert len(found) == 4
    tokens = model.encode("Once upon a time")
    names = {"documents": ["Tom had a red ball."], "tokens": tokens, "order": list(range(len(tokens)))}
    monkeypatch.setattr(esolm.Model, "load", lambda *_: model)
    for program in found:
        is_chat = ".chat(" in program
        exec(program, {**names, "esolm": esolm, "model": talker if is_chat else model})
    assert "Once upon a time" in capsys.readouterr().out
    assert numpy.shape(model.logits(tokens, names["order"])) == (len(tokens), model.info["vocab_size"])


def test_the_readme_of_the_repository(model, capsys, monkeypatch):
    (program,) = programs("README.md")
    monkeypatch.setattr(esolm.Model, "load", lambda *_: model)
    exec(program, {})
    last = capsys.readouterr().out.splitlines()[-1]
    assert float(last) == pytest.approx(model.score("Once upon a time")["logp"])
