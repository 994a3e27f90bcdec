"""A small language model with a KV cache, trained on the texts of Python's own library, and exported in two ways.

``TORCH-PYTHON -m tests.benchmarks.language_model FOLDER [SECONDS]`` trains it for so long (480 s) on this machine's cores,
or with 0 draws its weights at random, a few channels of the normalizations large as training makes them, and writes ``exported.onnx`` (torch's exporter, opset 18: normalization, rotary positions and attention written out),
``operators.onnx`` (opset 23: RMSNormalization, RotaryEmbedding, Attention), ``calibration.npz`` and ``test.npz``.

A decoder as Llama's: RMSNorm, rotary positions, grouped queries, SwiGLU, bytes for tokens, head and embedding apart. A
sample is a prompt of 64 bytes after a past of 32, whose keys and values the float model computed; the label of a
position, where it was trained, is the byte that follows it.
"""

from __future__ import annotations

import random
import sys
import sysconfig
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn
from torch.nn import functional

LAYERS, HIDDEN, HEADS, GROUPS, INNER, WORDS = 4, 256, 8, 2, 768, 256
SIZE, BASE, EPSILON = HIDDEN // HEADS, 10000.0, 1e-5
PAST, PROMPT, CALIBRATION, TEST = 32, 64, 64, 96
BATCH, LENGTH, RATE = 12, 96, 2e-3
PROJECTIONS = {"q": HEADS * SIZE, "k": GROUPS * SIZE, "v": GROUPS * SIZE}


class Norm(nn.Module):
    """RMSNorm."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(HIDDEN))

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + EPSILON) * self.weight


def turned(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary positions: [batch, heads, length, size] by the cosines and sines [batch, 1, length, size]."""
    first, second = x.chunk(2, -1)
    return x * cos + torch.cat([-second, first], -1) * sin


class Block(nn.Module):
    """Attention with a cache, and SwiGLU."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = Norm(), Norm()
        self.q, self.k, self.v = (nn.Linear(HIDDEN, width, bias=False) for width in PROJECTIONS.values())
        self.o = nn.Linear(HEADS * SIZE, HIDDEN, bias=False)
        self.gate, self.up = (nn.Linear(HIDDEN, INNER, bias=False) for _ in range(2))
        self.down = nn.Linear(INNER, HIDDEN, bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, mask: Tensor, past: tuple[Tensor, Tensor]) -> Any:
        batch, length, _ = x.shape
        normed = self.first(x)
        q, k, v = (part(normed).reshape(batch, length, -1, SIZE).transpose(1, 2) for part in (self.q, self.k, self.v))
        q, k = turned(q, cos, sin), turned(k, cos, sin)
        k, v = torch.cat([past[0], k], 2), torch.cat([past[1], v], 2)
        keys, values = (
            one[:, :, None].expand(-1, -1, HEADS // GROUPS, -1, -1).reshape(batch, HEADS, -1, SIZE) for one in (k, v)
        )
        shares = torch.softmax(q @ keys.transpose(-1, -2) * SIZE**-0.5 + mask, -1)
        x = x + self.o((shares @ values).transpose(1, 2).reshape(batch, length, HEADS * SIZE))
        normed = self.second(x)
        return x + self.down(functional.silu(self.gate(normed)) * self.up(normed)), k, v


class Decoder(nn.Module):
    """Logits of the next byte, and the keys and values of all layers."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.norm = nn.Embedding(WORDS, HIDDEN), Norm()
        self.blocks = nn.ModuleList(Block() for _ in range(LAYERS))
        self.head = nn.Linear(HIDDEN, WORDS, bias=False)
        for weight in (one for one in self.parameters() if one.ndim == 2):
            nn.init.normal_(weight, std=0.02)

    def forward(self, ids: Tensor, positions: Tensor, mask: Tensor, *cache: Tensor) -> tuple[Tensor, ...]:
        """``mask`` [batch, past and length] is 1 where a key may be looked at."""
        speeds = BASE ** (-torch.arange(0, SIZE, 2, dtype=torch.float32) / SIZE)
        angles = positions[:, None, :, None].float() * speeds
        angles = torch.cat([angles, angles], -1)
        cos, sin = angles.cos(), angles.sin()
        keys = torch.arange(mask.shape[1], device=ids.device)
        own = keys[mask.shape[1] - ids.shape[1] :]
        allowed = (keys[None, :] <= own[:, None])[None, None] & (mask[:, None, None, :] > 0)
        bias = torch.where(allowed, 0.0, -10000.0)
        x, made = self.words(ids), []
        for number, block in enumerate(self.blocks):
            x, k, v = block(x, cos, sin, bias, (cache[2 * number], cache[2 * number + 1]))
            made += [k, v]
        return (self.head(self.norm(x)), *made)


def empty(batch: int) -> list[Tensor]:
    """A cache of no positions."""
    return [torch.zeros(batch, GROUPS, 0, SIZE) for _ in range(2 * LAYERS)]


def texts() -> np.ndarray:
    """The bytes of the library's files, in an order drawn by seed; the last tenth is never trained on."""
    files = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))
    random.Random(0).shuffle(files)
    return np.frombuffer(b"".join(file.read_bytes() for file in files), np.uint8)


def drawn() -> Decoder:
    """Weights of the size that keeps a signal's, and of every normalization four channels that are large."""
    torch.manual_seed(0)
    network = Decoder().eval()
    for weight in network.parameters():
        if weight.ndim == 2:
            nn.init.normal_(weight, std=weight.shape[1] ** -0.5)
        else:
            nn.init.uniform_(weight, 0.5, 1.5)
            weight.data[torch.randperm(HIDDEN)[:4]] *= 4
    return network


def train(seconds: float) -> Decoder:
    """AdamW with a rate that falls to nothing as the time runs out."""
    torch.manual_seed(0)
    network, corpus = Decoder(), texts()
    corpus = corpus[: len(corpus) * 9 // 10]
    steps = torch.optim.AdamW(network.parameters(), RATE, (0.9, 0.95), weight_decay=0.1)
    draw, start, count = np.random.default_rng(0), time.time(), 0
    positions, mask = torch.arange(LENGTH).expand(BATCH, -1), torch.ones(BATCH, LENGTH)
    while (gone := (time.time() - start) / seconds) < 1:
        places = draw.integers(0, len(corpus) - LENGTH - 1, BATCH)
        rows = torch.from_numpy(np.stack([corpus[at : at + LENGTH + 1] for at in places]).astype(np.int64))
        for group in steps.param_groups:
            group["lr"] = RATE * min(1, (count + 1) / 50) * (1 - gone)
        logits = network(rows[:, :-1], positions, mask, *empty(BATCH))[0]
        loss = functional.cross_entropy(logits.reshape(-1, WORDS), rows[:, 1:].reshape(-1))
        steps.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        steps.step()
        if count % 50 == 0:
            print(count, round(time.time() - start), round(loss.item(), 3), flush=True)
        count += 1
    return network.eval()


def names() -> tuple[list[str], list[str]]:
    """Those of the inputs and of the outputs."""
    parts = [(number, part) for number in range(LAYERS) for part in ("key", "value")]
    past = [f"past_key_values.{number}.{part}" for number, part in parts]
    return ["input_ids", "position_ids", "attention_mask", *past], [
        "logits", *(f"present.{number}.{part}" for number, part in parts)
    ]  # fmt: skip


@torch.no_grad()
def samples(network: Decoder, seed: int, count: int) -> dict[str, np.ndarray]:
    """Inputs by name with the label of every position, of the texts that were not trained on."""
    corpus = texts()
    held = corpus[len(corpus) * 9 // 10 :]
    half = len(held) // 2
    part = held[:half] if seed == 0 else held[half:]
    places = np.random.default_rng(seed).integers(0, len(part) - PAST - PROMPT - 1, count)
    rows = np.stack([part[at : at + PAST + PROMPT + 1] for at in places]).astype(np.int64)
    ids = torch.from_numpy(rows)
    first = torch.arange(PAST).expand(count, -1)
    cache = network(ids[:, :PAST], first, torch.ones(count, PAST), *empty(count))[1:]
    values = [rows[:, PAST:-1], np.tile(np.arange(PAST, PAST + PROMPT), (count, 1)),
              np.ones((count, PAST + PROMPT), np.int64), *(one.numpy() for one in cache)]  # fmt: skip
    return {**dict(zip(names()[0], values)), "label": rows[:, PAST + 1 :]}


def export(network: Decoder, path: Path) -> None:
    """By torch's exporter, everything written out."""
    cache = [torch.randn(2, GROUPS, 3, SIZE) for _ in range(2 * LAYERS)]
    ids = torch.ones(2, 5, dtype=torch.int64)
    args = (ids, torch.arange(3, 8).expand(2, -1).clone(), torch.ones(2, 8, dtype=torch.int64), *cache)
    inputs, outputs = names()
    axes: dict[str, Any] = {"input_ids": {0: "batch", 1: "length"}, "position_ids": {0: "batch", 1: "length"},
                            "attention_mask": {0: "batch", 1: "total"}, "logits": {0: "batch", 1: "length"}}  # fmt: skip
    axes |= {name: {0: "batch", 2: "past"} for name in inputs[3:]}
    axes |= {name: {0: "batch", 2: "total"} for name in outputs[1:]}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(network, args, str(path), input_names=inputs, output_names=outputs, dynamic_axes=axes,
                          opset_version=18, dynamo=False)  # fmt: skip


def assemble(network: Decoder, path: Path) -> None:
    """With opset 23's own operators for normalization, rotary positions and attention."""
    weights: dict[str, np.ndarray] = {}
    nodes: list[onnx.NodeProto] = []

    def add(op: str, read: list[str], out: str | list[str], **attributes: Any) -> str:
        made = [out] if isinstance(out, str) else out
        nodes.append(helper.make_node(op, read, made, f"/{made[0]}/{op}", **attributes))
        return made[0]

    def linear(x: str, layer: nn.Linear, out: str) -> str:
        weights[f"{out}.weight"] = layer.weight.detach().numpy().T.copy()
        return add("MatMul", [x, f"{out}.weight"], out)

    def norm(x: str, layer: Norm, out: str) -> str:
        weights[f"{out}.weight"] = layer.weight.detach().numpy()
        return add("RMSNormalization", [x, f"{out}.weight"], out, axis=-1, epsilon=EPSILON)

    places = np.arange(512, dtype=np.float32)[:, None] * BASE ** (-np.arange(0, SIZE, 2, dtype=np.float32) / SIZE)
    weights |= {"words": network.words.weight.detach().numpy(), "cos": np.cos(places), "sin": np.sin(places)}
    weights |= {f"heads.{heads}": np.array([0, 0, heads, SIZE]) for heads in (HEADS, GROUPS)}
    weights["joined"] = np.array([0, 0, HEADS * SIZE])
    weights |= {"nothing": np.array(0), "one": np.array(1), "key_axes": np.array([1, 2]), "own_axes": np.array([1, 3])}
    x = add("Gather", ["words", "input_ids"], "embedded")
    # onnxruntime 1.32 wants a mask of every query, and causality that knows of the past
    count = add("Squeeze", [add("Shape", ["attention_mask"], "total_shape", start=1, end=2)], "total_count")
    before = add("LessOrEqual", [add("Range", ["nothing", count, "one"], "keys"),
                                 add("Unsqueeze", ["position_ids", "own_axes"], "own")], "before")  # fmt: skip
    mask = add("Unsqueeze", [add("Cast", ["attention_mask"], "seen", to=TensorProto.BOOL), "key_axes"], "mask")
    allowed = add("And", [before, mask], "allowed")
    for number, block in enumerate(network.blocks):
        own = f"layers.{number}"
        normed = norm(x, block.first, f"{own}.first")
        q, k, v = (linear(normed, getattr(block, part), f"{own}.{part}") for part in "qkv")
        q, k, v = (
            add("Transpose", [add("Reshape", [value, f"heads.{heads}"], f"{own}.{part}_split")], f"{own}.{part}_heads",
                perm=[0, 2, 1, 3])
            for part, value, heads in (("q", q, HEADS), ("k", k, GROUPS), ("v", v, GROUPS))
        )  # fmt: skip
        q, k = (
            add("RotaryEmbedding", [value, "cos", "sin", "position_ids"], f"{own}.{part}_turned")
            for part, value in (("q", q), ("k", k))
        )
        # TensorRT takes an Attention of one output alone: the cache grows before it
        k, v = (
            add("Concat", [f"past_key_values.{number}.{part}", value], f"present.{number}.{part}", axis=2)
            for part, value in (("key", k), ("value", v))
        )
        mixed = add("Transpose", [add("Attention", [q, k, v, allowed], f"{own}.mixed")], f"{own}.rows",
                    perm=[0, 2, 1, 3])  # fmt: skip
        joined = add("Reshape", [mixed, "joined"], f"{own}.joined")
        x = add("Add", [x, linear(joined, block.o, f"{own}.o")], f"{own}.attended")
        normed = norm(x, block.second, f"{own}.second")
        gate, up = linear(normed, block.gate, f"{own}.gate"), linear(normed, block.up, f"{own}.up")
        smooth = add("Mul", [gate, add("Sigmoid", [gate], f"{own}.sigmoid")], f"{own}.silu")
        inner = add("Mul", [smooth, up], f"{own}.inner")
        x = add("Add", [x, linear(inner, block.down, f"{own}.down")], f"{own}.out")
    linear(norm(x, network.norm, "norm"), network.head, "logits")
    inputs, outputs = names()
    float32, int64 = TensorProto.FLOAT, TensorProto.INT64
    described = [helper.make_tensor_value_info("input_ids", int64, ["batch", "length"]),
                 helper.make_tensor_value_info("position_ids", int64, ["batch", "length"]),
                 helper.make_tensor_value_info("attention_mask", int64, ["batch", "total"])]  # fmt: skip
    described += [helper.make_tensor_value_info(one, float32, ["batch", GROUPS, "past", SIZE]) for one in inputs[3:]]
    given = [helper.make_tensor_value_info("logits", float32, ["batch", "length", WORDS])]
    given += [helper.make_tensor_value_info(one, float32, ["batch", GROUPS, "total", SIZE]) for one in outputs[1:]]
    stored = [numpy_helper.from_array(value, name) for name, value in weights.items()]
    graph = helper.make_graph(nodes, "decoder", described, given, stored)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)], ir_version=10)
    onnx.checker.check_model(model)
    onnx.save(model, path)


def main() -> None:
    """See the module."""
    folder, seconds = Path(sys.argv[1]), float(sys.argv[2]) if len(sys.argv) > 2 else 480.0
    folder.mkdir(parents=True, exist_ok=True)
    stored = folder / "weights.pt"
    if stored.exists():
        network = Decoder().eval()
        network.load_state_dict(torch.load(stored))
    else:
        network = train(seconds) if seconds else drawn()
        torch.save(network.state_dict(), stored)
    for part, seed, count in (("calibration", 0, CALIBRATION), ("test", 1, TEST)):
        made = samples(network, seed, count)
        if not seconds:
            del made["label"]
        np.savez(folder / f"{part}.npz", **made)
    export(network, folder / "exported.onnx")
    assemble(network, folder / "operators.onnx")


if __name__ == "__main__":
    main()
