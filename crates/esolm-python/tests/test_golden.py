"""Logits of the published code, from the repository's fixtures."""

import os
from pathlib import Path

import esolm
import numpy
import pytest
from safetensors.numpy import load_file

FIXTURES = Path(os.environ.get("ESOLM_GOLDEN", Path(__file__).parents[3] / "tests" / "fixtures" / "golden"))
BOUND = 1e-4


def test_forward_passes_are_those_of_the_published_code():
    golden = load_file(FIXTURES / "forward_model_a.safetensors")
    model = esolm.Model.load(FIXTURES / "model_a", device="cpu")
    compared = 0
    for name in golden:
        if not name.endswith(".logits"):
            continue
        phase, mode, what, _ = name.split(".")
        order = golden[f"{what}.sort_idx"]
        sorted_tokens = golden[f"{what}.zt_sorted"]
        tokens = numpy.empty_like(sorted_tokens)
        numpy.put_along_axis(tokens, order, sorted_tokens, axis=1)
        clean = None
        if phase == "sequential":
            clean = numpy.empty_like(tokens)
            numpy.put_along_axis(clean, order, golden[f"{what}.x0_sorted"], axis=1)
        ours = model.logits(tokens, order, mode=mode, clean=clean)
        theirs = numpy.empty_like(ours)
        numpy.put_along_axis(theirs, order[:, :, None], golden[name], axis=1)
        assert numpy.abs(ours - theirs).max() < BOUND, name
        compared += 1
    print(f"{compared} passes compared")
    assert compared > 0
