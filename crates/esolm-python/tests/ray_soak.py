"""Writes the texts of many prompts on two workers of Ray, one of which is killed, and compares them with those that the command writes alone.

`cargo xtask soak ray` runs this where there are no processes but its own, and no network but this machine. Says what came of it as JSON.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

EXAMPLE = Path(__file__).parents[1] / "examples" / "ray_batch.py"
NAMES = ["Tom", "Lily", "Ben", "the cat", "a dog", "Mum", "the bear", "Sue"]
THINGS = ["a red ball", "a big box", "the old tree", "a toy car", "some cake"]
HOW = ["--device", "cpu", "--seed", "7", "--length", "24"]


def workers():
    """The processes that write texts, by what Ray calls them."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal():
            try:
                name = (folder / "cmdline").read_bytes()
            except OSError:
                continue
            if name.startswith(b"ray::") and b"MapWorker" in name:
                found.append(int(folder.name))
    return found


def kill_one(run, share_of_time):
    """Kills a worker once both have worked for some time."""
    seen = None
    while run.poll() is None:
        time.sleep(0.1)
        if len(workers()) >= 2:
            seen = seen or time.monotonic()
            if time.monotonic() - seen > share_of_time:
                victim = workers()[0]
                os.kill(victim, signal.SIGKILL)
                return victim
    return None


def main():
    program, count = sys.argv[1], int(sys.argv[2])
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prompts = [f"{NAMES[i % len(NAMES)]} saw {THINGS[i % len(THINGS)]}." for i in range(count)]
        (folder / "prompts.jsonl").write_text("".join(json.dumps({"prompt": prompt}) + "\n" for prompt in prompts), encoding="utf-8")
        began = time.monotonic()
        alone = [program, "sample", "--input", folder / "prompts.jsonl", "--output", folder / "alone.jsonl", "--batch", "16", "--quiet", *HOW]
        subprocess.run(list(map(str, alone)), check=True)
        seconds = time.monotonic() - began
        with subprocess.Popen([sys.executable, EXAMPLE, folder / "prompts.jsonl", folder / "ray.jsonl", *HOW]) as run:
            victim = kill_one(run, seconds / 3)
        assert run.returncode == 0, f"the run on Ray ended with {run.returncode}"
        assert victim is not None, "the run was over before a worker was killed; give it more prompts"

        def texts(file):
            return [json.loads(line)["text"] for line in (folder / file).read_text(encoding="utf-8").splitlines()]

        ours, theirs = texts("ray.jsonl"), texts("alone.jsonl")
        assert len(ours) == len(theirs) == count, (len(ours), len(theirs))
        different = [i for i, pair in enumerate(zip(ours, theirs)) if pair[0] != pair[1]]
        assert not different, f"{len(different)} texts differ, the first in line {different[0] + 1}"
    json.dump({"texts": count, "different": len(set(ours))}, sys.stdout)


if __name__ == "__main__":
    main()
