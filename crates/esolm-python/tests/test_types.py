"""The package's types: checked by mypy, the same as what the native module has, and usable by a program that is checked."""

import subprocess
import sys
from pathlib import Path

import esolm
import pytest

pytest.importorskip("mypy")

PACKAGE = Path(esolm.__file__).parent
PROJECT = Path(__file__).parents[1]

USE = """
import esolm
import numpy

model = esolm.Model.load("somewhere", device="cpu", weights="q8")
text: str = model.text(prompt="a", top_p=0.8)
for step in model.generate(seed=1):
    position: int = step["revealed"][0]["position"]
logp: float = model.score("a")["logp"]
first: float = model.score({"context": "a", "choices": ["b"]})[0]["logp"]
is_cut: bool = model.score("a").get("is_cut", False)
index: int = esolm.devices()[0]["index"]
decoder: bool = model.info["decoder"] == "qwen3"
rows: numpy.ndarray = model.logits([1, 2], [1, 0])
content: str = model.chat([{"role": "user", "content": "a"}]).answer["content"]
"""
MISUSE = """
import esolm

model = esolm.Model.load(device=1)
model.text(tempreature=1.0)
model.text(schedule="bloks")
model.score(1)
model.generate().result["txt"]
"""


def run(*words, cwd):
    done = subprocess.run([sys.executable, "-m", *map(str, words)], capture_output=True, encoding="utf-8", cwd=cwd, check=False)
    return done.returncode, done.stdout + done.stderr


def test_the_package_is_typed(tmp_path):
    code, said = run("mypy", "--config-file", PROJECT / "pyproject.toml", "-p", "esolm", cwd=tmp_path)
    assert code == 0, said


def test_the_stub_says_what_the_module_has(tmp_path):
    code, said = run("mypy.stubtest", "esolm._esolm", cwd=tmp_path)
    assert code == 0, said


def test_programs_are_checked(tmp_path):
    (tmp_path / "use.py").write_text(USE)
    (tmp_path / "misuse.py").write_text(MISUSE)
    code, said = run("mypy", "--strict", "use.py", cwd=tmp_path)
    assert code == 0, said
    code, said = run("mypy", "--strict", "misuse.py", cwd=tmp_path)
    assert code == 1
    wrong = {line.split(":")[1] for line in said.splitlines() if ": error:" in line}
    assert wrong == {"4", "5", "6", "7", "8"}, said
