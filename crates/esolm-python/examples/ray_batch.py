"""Writes a text for each line of a file on the workers of a Ray cluster.

    python ray_batch.py prompts.jsonl stories --workers 2

A line of the file is {"prompt": "..."}. Each worker holds a model of its own; give it a GPU with --gpus 1. Line i is written with the number i, so the texts are
those that one machine writes, whichever worker writes them, and however often: a worker that is killed loses nothing but time.
"""

import argparse
import json
import sys
from pathlib import Path

import numpy
import ray

import esolm


class Writer:
    """A worker: loads its model once and writes a batch of lines after the other."""

    def __init__(self, model, device, options):
        self.model = esolm.Model.load(model, device=device)
        self.options = options

    def __call__(self, batch):
        numbers = batch["number"]
        # Text i of a batch is what `first` = i gives alone, so lines that follow each other are written together.
        ends = [*(numpy.flatnonzero(numpy.diff(numbers) != 1) + 1), len(numbers)]
        texts, start = [], 0
        for end in ends:
            prompts = batch["prompt"][start:end].tolist()
            texts += self.model.texts(prompt=prompts, first=int(numbers[start]), **self.options)
            start = end
        return {"number": numbers, "text": numpy.array(texts, dtype=object)}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("prompts", type=Path, help="a file with a line of JSON for each text")
    parser.add_argument("stories", type=Path, help="the file to write, a line for each, in their order")
    parser.add_argument("--model", help="a folder, a file or hf:owner/name that every worker can read; default: the story model of the package")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--length", type=int)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--gpus", type=float, default=0, help="GPUs of a worker")
    parser.add_argument("--batch", type=int, default=16, help="lines that are written together")
    given = parser.parse_args()

    lines = given.prompts.read_text(encoding="utf-8").splitlines()
    rows = [{"number": number, "prompt": json.loads(line)["prompt"]} for number, line in enumerate(lines)]
    options = {"seed": given.seed, "length": given.length}
    ray.init(ignore_reinit_error=True)
    written = (
        ray.data.from_items(rows, override_num_blocks=max(1, len(rows) // given.batch))
        .map_batches(
            Writer,
            fn_constructor_args=(given.model, given.device, options),
            batch_size=given.batch,
            compute=ray.data.ActorPoolStrategy(size=given.workers),
            num_gpus=given.gpus,
        )
        .take_all()
    )
    written.sort(key=lambda row: row["number"])
    given.stories.write_text(
        "".join(json.dumps({"line": int(row["number"]) + 1, "text": row["text"]}, ensure_ascii=False) + "\n" for row in written),
        encoding="utf-8",
    )
    print(f"{len(written)} texts in {given.stories}", file=sys.stderr)


if __name__ == "__main__":
    main()
