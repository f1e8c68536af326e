"""Writes an Eso-LM as ONNX graphs, after holding the same graphs of a test model against recorded logits.

  step_uncached.onnx  every row of the sequence so far, causal over slots; standard operators
  step_cached.onnx    a step's new rows against past keys and values, which it returns grown by the clean rows; standard operators
  step_int8.onnx      step_cached with weights and activations of 8 bits, rounded by onnxruntime
  step_fused.onnx     the same with onnxruntime's own operators: GroupQueryAttention writes into a cache of fixed size and attends

Time is always conditioned on sigma = 0, so every adaLN vector is a constant: scale and shift go into the LayerNorm before them, the gates into
the matrix after them, and what is left is a plain pre-norm transformer.
"""

import argparse
import json
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import QuantType, quantize_dynamic

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent
GRAPHS = ("uncached", "cached", "fused")
OPSET = 20  # the first with Gelu as one operator
TOLERANCE = 1e-3


def read_safetensors(path):
    data = path.read_bytes()
    end = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:end])
    header.pop("__metadata__", None)
    kinds = {"F16": "<f2", "F32": "<f4", "F64": "<f8", "I32": "<i4", "U8": "u1"}
    tensors = {}
    for name, entry in header.items():
        start, stop = entry["data_offsets"]
        flat = np.frombuffer(data[end + start : end + stop], dtype=kinds[entry["dtype"]])
        tensors[name] = flat.reshape(entry["shape"])
    return tensors


class Model:
    """Sizes, and the weights with the conditioning folded in; matrices as [in, out]."""

    def __init__(self, config, tensors):
        config = json.loads(config.read_text())
        if config["model_type"] != "EsoLM":
            raise SystemExit(f"{config['model_type']} is no Eso-LM; export a checkpoint with model_type EsoLM")
        self.hidden, self.blocks, self.heads = config["hidden_size"], config["n_blocks"], config["n_heads"]
        self.length, self.vocab, self.mask = config["model_length"], config["vocab_size"], config["mask_index"]
        self.head_dim = self.hidden // self.heads
        raw = {k.removeprefix("backbone."): v.astype(np.float64) for k, v in tensors.items()}
        silu = lambda x: x / (1 + np.exp(-x))
        embedding = np.concatenate([np.ones(128), np.zeros(128)])  # cos and sin of sigma = 0
        linear = lambda name, x: raw[name + ".weight"] @ x + raw[name + ".bias"]
        condition = silu(linear("sigma_map.mlp.2", silu(linear("sigma_map.mlp.0", embedding))))
        weights = {"embedding": raw["vocab_embed.embedding"]}
        for i in range(self.blocks):
            at = f"blocks.{i}."
            chunks = linear(at + "adaLN_modulation", condition).reshape(6, self.hidden)
            for n, (shift, scale) in ((1, chunks[0:2]), (2, chunks[3:5])):
                weights[f"{at}norm{n}.scale"] = raw[f"{at}norm{n}.weight"] * (1 + scale)
                weights[f"{at}norm{n}.shift"] = shift
            weights[at + "qkv"] = raw[at + "attn_qkv.weight"].T
            weights[at + "out"] = raw[at + "attn_out.weight"].T * chunks[2]
            weights[at + "up"] = raw[at + "mlp.0.weight"].T
            weights[at + "up.bias"] = raw[at + "mlp.0.bias"]
            weights[at + "down"] = raw[at + "mlp.2.weight"].T * chunks[5]
            weights[at + "down.bias"] = raw[at + "mlp.2.bias"] * chunks[5]
        shift, scale = linear("output_layer.adaLN_modulation", condition).reshape(2, self.hidden)
        weights["norm.scale"] = raw["output_layer.norm_final.weight"] * (1 + scale)
        weights["norm.shift"] = shift
        weights["unembedding"] = raw["output_layer.linear.weight"].T
        weights["unembedding.bias"] = raw["output_layer.linear.bias"]
        frequency = 10000.0 ** (-np.arange(0, self.head_dim, 2) / self.head_dim)
        angle = np.arange(self.length)[:, None] * frequency
        weights["cos"], weights["sin"] = np.cos(angle), np.sin(angle)
        # Rotation as x * cos + swapped halves of x * sin, so the sign of the first half goes into the table.
        weights["cos_full"] = np.concatenate([np.cos(angle), np.cos(angle)], axis=1)
        weights["sin_signed"] = np.concatenate([-np.sin(angle), np.sin(angle)], axis=1)
        weights["causal"] = np.triu(np.full((self.length, self.length), -1e9), k=1)
        self.weights = {k: v.astype(np.float32) for k, v in weights.items()}


class Builder:
    def __init__(self, model, kind):
        self.model, self.kind = model, kind
        self.nodes, self.initializers = [], {}

    def const(self, values, kind=np.int64):
        array = np.asarray(values, dtype=kind)
        name = f"const_{array.dtype}_{'_'.join(map(str, array.shape))}_{'_'.join(map(str, array.flat))}"
        self.initializers[name] = array
        return name

    def weight(self, name):
        self.initializers[name] = self.model.weights[name]
        return name

    def op(self, kind, *inputs, outputs=1, domain="", **attributes):
        names = outputs if isinstance(outputs, list) else [f"t{len(self.nodes)}_{i}" for i in range(outputs)]
        self.nodes.append(helper.make_node(kind, list(inputs), names, domain=domain, **attributes))
        return names[0] if len(names) == 1 else names

    def norm(self, x, name):
        return self.op("LayerNormalization", x, self.weight(name + ".scale"), self.weight(name + ".shift"), epsilon=1e-5)

    def slice(self, x, start, stop, axis):
        return self.op("Slice", x, start, stop, self.const([axis]))

    def shared(self):
        """What all blocks read: rotary tables of the rows, and the mask over slots."""
        per_row = lambda table: self.op("Unsqueeze", self.op("Gather", self.weight(table), "positions"), self.const([2]))
        self.cos, self.sin = per_row("cos_full"), per_row("sin_signed")
        rows = self.op("Shape", "tokens", start=1, end=2)
        if self.kind == "cached":
            self.past = self.op("Shape", "past_key_0", start=2, end=3)
            self.kept = self.op("Add", self.past, "clean")
            total = self.op("Add", self.past, rows)
            seen = self.slice(self.weight("causal"), self.past, total, 0)
        else:
            total = rows
            seen = self.slice(self.weight("causal"), self.const([0]), total, 0)
        self.causal = self.slice(seen, self.const([0]), total, 1)

    def attention(self, i, qkv):
        m = self.model
        heads = self.op("Reshape", qkv, self.const([1, -1, 3 * m.heads, m.head_dim]))
        turned, v = self.op("Split", heads, self.const([2 * m.heads, m.heads]), outputs=2, axis=2)
        first, second = self.op("Split", turned, outputs=2, axis=3, num_outputs=2)
        swapped = self.op("Concat", second, first, axis=3)
        turned = self.op("Add", self.op("Mul", turned, self.cos), self.op("Mul", swapped, self.sin))
        turned = self.op("Transpose", turned, perm=[0, 2, 1, 3])
        v = self.op("Transpose", v, perm=[0, 2, 1, 3])
        q, k = self.op("Split", turned, outputs=2, axis=1, num_outputs=2)
        if self.kind == "cached":
            k = self.op("Concat", f"past_key_{i}", k, axis=2)
            v = self.op("Concat", f"past_value_{i}", v, axis=2)
            for name, x in (("key", k), ("value", v)):
                self.op("Slice", x, self.const([0]), self.kept, self.const([2]), outputs=[f"present_{name}_{i}"])
        score = self.op("MatMul", q, self.op("Transpose", k, perm=[0, 1, 3, 2]))
        score = self.op("Mul", score, self.const(m.head_dim**-0.5, np.float32))
        share = self.op("Softmax", self.op("Add", score, self.causal), axis=-1)
        mixed = self.op("Transpose", self.op("MatMul", share, v), perm=[0, 2, 1, 3])
        return self.op("Reshape", mixed, self.const([1, -1, m.hidden]))

    def fused_attention(self, i, qkv):
        m = self.model
        turned, v = self.op("Split", qkv, self.const([2 * m.hidden, m.hidden]), outputs=2, axis=2)
        # GroupQueryAttention could rotate too, but it counts on from the first row's position, and here positions come in any order.
        turned = self.op("RotaryEmbedding", turned, "positions", self.weight("cos"), self.weight("sin"), domain="com.microsoft")
        q, k = self.op("Split", turned, outputs=2, axis=2, num_outputs=2)
        names = [f"attended_{i}", f"present_key_{i}", f"present_value_{i}"]
        return self.op("GroupQueryAttention", q, k, v, f"past_key_{i}", f"past_value_{i}", "seqlens_k", "total", outputs=names,
                       domain="com.microsoft", num_heads=m.heads, kv_num_heads=m.heads)[0]

    def graph(self):
        m, fused = self.model, self.kind == "fused"
        x = self.op("Gather", self.weight("embedding"), "tokens")
        if not fused:
            self.shared()
        for i in range(m.blocks):
            at = f"blocks.{i}."
            qkv = self.op("MatMul", self.norm(x, at + "norm1"), self.weight(at + "qkv"))
            mixed = self.fused_attention(i, qkv) if fused else self.attention(i, qkv)
            x = self.op("Add", x, self.op("MatMul", mixed, self.weight(at + "out")))
            up = self.op("MatMul", self.norm(x, at + "norm2"), self.weight(at + "up"))
            up = self.op("Gelu", self.op("Add", up, self.weight(at + "up.bias")), approximate="tanh")
            down = self.op("MatMul", up, self.weight(at + "down"))
            x = self.op("Add", x, self.op("Add", down, self.weight(at + "down.bias")))
        drawn = self.norm(self.slice(x, "clean", self.const([2**31 - 1]), 1), "norm")
        self.op("Add", self.op("MatMul", drawn, self.weight("unembedding")), self.weight("unembedding.bias"), outputs=["logits"])

        value = helper.make_tensor_value_info
        inputs = [value("tokens", TensorProto.INT32, [1, "rows"]), value("clean", TensorProto.INT64, [1])]
        outputs = [value("logits", TensorProto.FLOAT, [1, "drawn", m.vocab])]
        # RotaryEmbedding takes no other type of positions.
        inputs.insert(1, value("positions", TensorProto.INT64 if fused else TensorProto.INT32, [1, "rows"]))
        if fused:
            inputs += [value("seqlens_k", TensorProto.INT32, [1]), value("total", TensorProto.INT32, [1])]
        if self.kind != "uncached":
            for i in range(m.blocks):
                for name in ("key", "value"):
                    past, grown = (m.length, m.length) if fused else ("past", "kept")
                    inputs.append(value(f"past_{name}_{i}", TensorProto.FLOAT, [1, m.heads, past, m.head_dim]))
                    outputs.append(value(f"present_{name}_{i}", TensorProto.FLOAT, [1, m.heads, grown, m.head_dim]))
        tensors = [numpy_helper.from_array(array, name) for name, array in self.initializers.items()]
        graph = helper.make_graph(self.nodes, "step_" + self.kind, inputs, outputs, tensors)
        opsets = [helper.make_opsetid("", OPSET)] + ([helper.make_opsetid("com.microsoft", 1)] if fused else [])
        built = helper.make_model(graph, opset_imports=opsets, ir_version=9, producer_name="esolm")
        onnx.checker.check_model(built)
        return built


class Stepper:
    """One sequence on onnxruntime's CPU provider; the browser's bench does the same with WebGPU."""

    def __init__(self, model, kind):
        self.model, self.kind = model, kind
        built = Builder(model, kind).graph().SerializeToString()
        self.session = onnxruntime.InferenceSession(built, providers=["CPUExecutionProvider"])
        slots = model.length if kind == "fused" else 0
        empty = np.zeros((1, model.heads, slots, model.head_dim), np.float32)
        self.past = {i.name: empty for i in self.session.get_inputs() if i.name.startswith("past_")}

    def step(self, order, tokens, clean, start, end):
        first = 0 if self.kind == "uncached" else clean
        rows = np.concatenate([tokens[first:start], np.full(end - start, self.model.mask)])
        feeds = {"tokens": rows[None].astype(np.int32), "clean": np.array([start - first], np.int64)}
        feeds["positions"] = order[None, first:end].astype(np.int64 if self.kind == "fused" else np.int32)
        if self.kind == "fused":
            feeds |= {"seqlens_k": np.array([end - 1], np.int32), "total": np.array([end], np.int32)}
        logits, *present = self.session.run(None, feeds | self.past)
        self.past = dict(zip(self.past, present))
        return logits[0]


def check(fixtures):
    """Largest difference of each kind of graph to the recorded logits of the test model, which has random weights."""
    model = Model(fixtures / "model_a.config.json", read_safetensors(fixtures / "model_a.ema.safetensors"))
    passes = read_safetensors(fixtures / "forward_model_a.safetensors")
    traces = read_safetensors(fixtures / "sampling_model_a.safetensors")
    found = {}
    session = Stepper(model, "uncached").session
    found["uncached"] = 0.0
    for case in ("all_masked", "none_masked", "half", "uneven"):
        for row in range(2):
            feeds = {"tokens": passes[f"{case}.zt_sorted"][row : row + 1], "positions": passes[f"{case}.sort_idx"][row : row + 1]}
            logits = session.run(None, feeds | {"clean": np.array([0], np.int64)})[0][0]
            found["uncached"] = max(found["uncached"], np.abs(logits - passes[f"diffusion.causal.{case}.logits"][row]).max())
    for kind in GRAPHS:
        for trace in ("alpha1", "alpha05", "alpha0"):
            for row in range(2):
                stepper = Stepper(model, kind)
                for clean, start, end in traces[trace + ".steps"]:
                    logits = stepper.step(traces[trace + ".sort_idx"][row], traces[trace + ".tokens_sorted"][row], clean, start, end)
                    difference = np.abs(logits - traces[trace + ".logits"][row, start:end]).max()
                    found[kind] = max(found.get(kind, 0.0), difference)
    return found


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--model", type=Path, default=ROOT / "models/stories", help="folder with config.json and model.safetensors")
    arguments.add_argument("--out", type=Path, default=HERE / "onnx")
    arguments.add_argument("--fixtures", type=Path, default=ROOT / "tests/fixtures/golden")
    chosen = arguments.parse_args()
    for kind, difference in check(chosen.fixtures).items():
        print(f"{kind}: largest difference to recorded logits {difference:.1e}")
        if not difference < TOLERANCE:
            sys.exit(f"the {kind} graph computes something else: more than {TOLERANCE:.0e} off; nothing was written")
    model = Model(chosen.model / "config.json", read_safetensors(chosen.model / "model.safetensors"))
    chosen.out.mkdir(parents=True, exist_ok=True)
    for kind in GRAPHS:
        path = chosen.out / f"step_{kind}.onnx"
        onnx.save(Builder(model, kind).graph(), path)
        print(f"{path.name}: {path.stat().st_size} bytes")
    # onnxruntime's own rounding: a scale for each column of a matrix, activations rounded as they come.
    path = chosen.out / "step_int8.onnx"
    quantize_dynamic(chosen.out / "step_cached.onnx", path, per_channel=True, weight_type=QuantType.QInt8)
    print(f"{path.name}: {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
