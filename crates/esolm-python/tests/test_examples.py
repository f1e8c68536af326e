"""The examples, as people run them."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"


def run(name, *arguments):
    done = subprocess.run(
        [sys.executable, EXAMPLES / name, *map(str, arguments)], capture_output=True, encoding="utf-8", check=False
    )
    return done.returncode, done.stdout, done.stderr


def rest(leader):
    """What a terminal's program still writes until its end."""
    drawn = b""
    while True:
        try:
            part = os.read(leader, 4096)
        except OSError:
            return drawn
        if not part:
            return drawn
        drawn += part


def test_denoise_tells_of_each_step(model):
    options = ["--device", "cpu", "--seed", 5, "--length", 24, "--alpha-0", 0.5, "--prompt", "Once upon a time"]
    code, out, err = run("denoise.py", *options)
    assert code == 0, err
    steps = [line for line in out.splitlines() if line.startswith("step ")]
    assert steps[-1].endswith("24 known")
    written = model.text(seed=5, length=24, alpha_0=0.5, prompt="Once upon a time")
    assert written in out and out.splitlines()[-1].endswith("seed 5")


def test_denoise_refuses_in_a_sentence():
    code, out, err = run("denoise.py", "--device", "cpu", "--alpha-0", 7)
    assert code == 1 and out == "" and err.startswith("denoise: alpha_0") and err.count("\n") == 1


@pytest.mark.skipif(os.name == "nt", reason="Windows has no pty")
def test_denoise_draws_in_a_terminal():
    import pty

    leader, follower = pty.openpty()
    command = [sys.executable, EXAMPLES / "denoise.py", "--device", "cpu", "--seed", "5", "--length", "16", "--pause", "0"]
    with subprocess.Popen(command, stdout=follower, stdin=follower) as process:
        os.close(follower)
        drawn = rest(leader)
    assert process.returncode == 0
    text = drawn.decode("utf-8")
    assert "░░" in text and "\x1b[J" in text and "seed 5" in text


@pytest.mark.skipif(os.name == "nt", reason="Windows has no pty")
def test_ctrl_c_between_two_steps_ends_denoise():
    import pty

    leader, follower = pty.openpty()
    command = [sys.executable, EXAMPLES / "denoise.py", "--device", "cpu", "--seed", "5", "--length", "64", "--alpha-0", "0", "--pause", "600"]
    # The first step is drawn, and the example sleeps.
    with subprocess.Popen(command, stdout=follower, stdin=follower, start_new_session=True) as process:
        os.close(follower)
        drawn = os.read(leader, 4096)
        process.send_signal(signal.SIGINT)
        drawn += rest(leader)
    assert process.returncode == 0
    passes = re.search(r"(\d+) passes", drawn.decode("utf-8"))
    assert int(passes[1]) < 32, drawn
