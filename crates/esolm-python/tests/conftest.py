"""What the tests share: the repository's fixtures, and the story model on the CPU."""

import os
import shutil
import signal
import subprocess
from pathlib import Path

import esolm
import pytest

ROOT = Path(__file__).parents[3]
FIXTURES = ROOT / "tests" / "fixtures"

# A shell starts what runs in its background with Ctrl-C ignored, and Python leaves it at that.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def model():
    return esolm.Model.load(device="cpu")


@pytest.fixture(scope="session")
def program():
    """The command `esolm`, which has to agree with the package. `ESOLM_PROGRAM` names it where it is not where cargo puts it."""
    target = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    name = "esolm.exe" if os.name == "nt" else "esolm"
    path = Path(os.environ.get("ESOLM_PROGRAM", target / "release" / name))
    assert path.exists(), f"{path} is missing; `cargo build --release` makes it"

    def run(*arguments):
        done = subprocess.run([path, *map(str, arguments)], capture_output=True, encoding="utf-8", check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


@pytest.fixture
def golden_network(tmp_path):
    """A network of the golden fixtures as a folder."""

    def folder(weights, config):
        made = tmp_path / Path(weights).stem
        made.mkdir()
        shutil.copy(FIXTURES / weights, made / "model.safetensors")
        shutil.copy(FIXTURES / config, made / "config.json")
        return made

    return folder


@pytest.fixture(scope="session")
def talker_folder(tmp_path_factory):
    """The tiny chat model of the fixtures, a BD3-LM, with its tokenizer."""
    chat = FIXTURES / "golden-llm" / "chat"
    folder = tmp_path_factory.mktemp("talker")
    for file in [*(chat / "model_bd3lm").iterdir(), chat / "tokenizer.json", chat / "tokenizer_config.json"]:
        shutil.copy(file, folder / file.name)
    return folder


@pytest.fixture(scope="session")
def talker(talker_folder):
    return esolm.Model.load(talker_folder, device="cpu", as_="bd3lm", block_size=8)
