"""Numbers of the published code, from the repository's fixtures."""

import esolm
import numpy
from conftest import FIXTURES
from safetensors.numpy import load_file

BOUND = 1e-4


def close(ours, theirs, what):
    # The mask token's column is never read.
    assert numpy.abs(ours[..., :-1] - theirs[..., :-1]).max() < BOUND, what


def in_natural_order(values, order):
    natural = numpy.empty_like(values)
    index = order if values.ndim == 2 else order[:, :, None]
    numpy.put_along_axis(natural, index, values, axis=1)
    return natural


def test_logits_of_an_eso_lm_in_any_order(golden_network):
    golden = load_file(FIXTURES / "golden/forward_model_a.safetensors")
    model = esolm.Model.load(golden_network("golden/model_a.ema.safetensors", "golden/model_a.config.json"), device="cpu")
    compared = 0
    for name in golden:
        if not name.endswith(".logits"):
            continue
        phase, mode, what, _ = name.split(".")
        order = golden[f"{what}.sort_idx"]
        tokens = in_natural_order(golden[f"{what}.zt_sorted"], order)
        clean = None
        if phase == "sequential":
            clean = in_natural_order(golden[f"{what}.x0_sorted"], order)
        ours = model.logits(tokens, order, mode=mode, clean=clean)
        close(ours, in_natural_order(golden[name], order), name)
        if mode == "causal":
            # What a pass is by default, and of one sequence.
            again = model.logits(tokens[0], order[0], clean=None if clean is None else clean[0])
            assert again.dtype == numpy.float32 and again.shape == ours.shape[1:]
            close(again, ours[0], name)
        compared += 1
    assert compared >= 4


def test_logits_of_an_mdlm(golden_network):
    golden = load_file(FIXTURES / "golden/forward_mdlm_ar.safetensors")
    model = esolm.Model.load(golden_network("golden/mdlm.ema.safetensors", "golden/mdlm.config.json"), device="cpu")
    assert model.info["family"] == "mdlm"
    close(model.logits(golden["mdlm.xt"]), golden["mdlm.logits"], "mdlm")


def test_logits_of_a_bd3_lm():
    golden = load_file(FIXTURES / "golden-family/bd3lm/bs4.forward.safetensors")
    model = esolm.Model.load(FIXTURES / "golden-family/bd3lm/bs4", device="cpu")
    for what in ["half", "all_masked"]:
        ours = model.logits(golden[f"{what}.xt"], clean=golden["x0"])
        close(ours, golden[f"{what}.logits"], what)
        assert ours.flags.writeable


def test_logits_of_a_setdlm():
    golden = load_file(FIXTURES / "golden-family/setdlm/setdlm.forward.safetensors")
    model = esolm.Model.load(FIXTURES / "golden-family/setdlm/owt_setdlm_smax8", device="cpu")
    order = golden["perm"].astype(numpy.int64)
    close(model.logits(golden["x0"], order), in_natural_order(golden["logits_sorted"], order), "setdlm")
