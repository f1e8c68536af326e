"""Draws a text while it is written: what is known, what the step has just written, and what is still masked.

    python denoise.py --prompt "Once upon a time" --alpha-0 1 --seed 5
    python denoise.py --model hf:owner/name --length 128

Ctrl-C stops after the pass under way and keeps what was written.
"""

import argparse
import shutil
import sys
import time

import esolm

# What a step has just written is bold and coloured by the phase that wrote it; a mask is a dim block.
COLOURS = {"prompt": "\x1b[1;34m", "diffusion": "\x1b[1;32m", "sequential": "\x1b[1;33m"}
MASK, RESET = "\x1b[2m░░\x1b[0m", "\x1b[0m"


def lines(cells, width):
    """The cells as lines of a terminal. Each cell is its text and how it is drawn."""
    line, used = "", 0
    for text, drawn in cells:
        for part in text.splitlines() or [""]:
            if used + len(part) > width and used:
                yield line
                line, used = "", 0
            line += drawn.replace(text, part) if part != text else drawn
            used += len(part)
    yield line


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", help="a folder, a file or hf:owner/name; default: the story model of the package")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--prompt")
    parser.add_argument("--infill", help="a text with gaps ____ to fill")
    parser.add_argument("--alpha-0", type=float, help="the share of tokens that diffusion writes, 0 to 1")
    parser.add_argument("--length", type=int, default=64)
    parser.add_argument("--seed", type=int)
    parser.add_argument("--pause", type=float, default=0.05, help="seconds between steps")
    given = parser.parse_args()

    model = esolm.Model.load(given.model, device=given.device)
    pieces = {}

    def piece(token):
        if token not in pieces:
            pieces[token] = model.decode([token])
        return pieces[token]

    is_terminal = sys.stdout.isatty()
    width = shutil.get_terminal_size().columns
    height = 0
    run = model.generate(
        prompt=given.prompt, infill=given.infill, alpha_0=given.alpha_0, length=given.length, seed=given.seed
    )
    known = {}
    attempt = -1
    try:
        for step in run:
            if step["attempt"] != attempt:
                # The first one, or a text that is drawn again.
                attempt = step["attempt"]
                known = dict(run.headers[attempt]["known"][0])
            new = {one["position"]: one["token"] for one in step["revealed"]}
            known.update(new)
            cells = []
            for position in range(run.headers[attempt]["length"]):
                text = piece(known[position]) if position in known else ""
                if position not in known:
                    cells.append(("░░", MASK))
                elif position in new:
                    cells.append((text, COLOURS[step["phase"]] + text + RESET))
                else:
                    cells.append((text, text))
            drawn = list(lines(cells, width))
            if is_terminal:
                # Over what was drawn before.
                print(f"\x1b[{height}A\x1b[J" if height else "", end="")
                print("\n".join(drawn), flush=True)
                height = len(drawn)
                time.sleep(given.pause)
            else:
                written = len(known)
                print(f"step {step['step'] + 1} of {step['steps']}: {step['phase']}, {len(new)} written, {written} known")
    except KeyboardInterrupt:
        # Where it comes between two steps, the run does not know of it.
        run.stop()
    result = run.result
    print()
    print(result["text"][0])
    print(f"{result['nfe']} passes, {result['seconds']:.2f} s, seed {run.headers[0]['seed']}")


if __name__ == "__main__":
    try:
        main()
    except esolm.EsolmError as error:
        sys.exit(f"denoise: {error}")
