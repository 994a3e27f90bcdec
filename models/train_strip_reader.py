"""Train the reader of digit strips and write ``strip_reader.onnx`` with its calibration and test data."""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Sequence
from pathlib import Path

import digits
import numpy as np
import onnx_export
import torch
from torch import Tensor, nn

SEED = 11
DATA_SEED = 12
STEPS = 2400
DIGITS_PER_STEP = 192
CALIBRATION_STRIPS = 96
TEST_STRIPS = 300

D_MODEL = 64
HEADS = 4
HIDDEN = 128
LAYERS = 3


class ConvNorm(nn.Module):
    """A 3x3 convolution without bias, batch normalization and ReLU."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """Map float32 [N, inputs, H, W] to [N, outputs, H / stride, W / stride]."""
        y: Tensor = self.relu(self.bn(self.conv(x)))
        return y


class Columns(nn.Module):
    """Turns the columns of a feature map of height 1 into a sequence."""

    def forward(self, x: Tensor) -> Tensor:
        """Map float32 [N, C, 1, L] to [N, L, C]."""
        return x.squeeze(2).permute(0, 2, 1)


class Positions(nn.Module):
    """Adds sinusoidal positions, cut from a table of 16 rows to the length of the input."""

    table: Tensor

    def __init__(self) -> None:
        super().__init__()
        place = torch.arange(digits.MAX_LENGTH, dtype=torch.float32)[:, None]
        rate = torch.exp(torch.arange(0, D_MODEL, 2, dtype=torch.float32) * (-math.log(100.0) / D_MODEL))
        table = torch.stack((torch.sin(place * rate), torch.cos(place * rate)), dim=2).flatten(1)
        self.register_buffer("table", table[None])
        self.add = onnx_export.Add()

    def forward(self, x: Tensor) -> Tensor:
        """Map float32 [N, L, 64] to the same shape; L is 16 at most."""
        y: Tensor = self.add(x, self.table[:, : x.size(1)])
        return y


class SplitHeads(nn.Module):
    """Cuts the features of each position into heads."""

    def forward(self, x: Tensor) -> Tensor:
        """Map float32 [N, L, 64] to [N, 4, L, 16]."""
        return x.reshape(x.size(0), -1, HEADS, D_MODEL // HEADS).permute(0, 2, 1, 3)


class MergeHeads(nn.Module):
    """Puts the heads of each position back together."""

    def forward(self, x: Tensor) -> Tensor:
        """Map float32 [N, 4, L, 16] to [N, L, 64]."""
        return x.permute(0, 2, 1, 3).flatten(2)


class Attention(nn.Module):
    """Self-attention with four heads, every product written out."""

    def __init__(self) -> None:
        super().__init__()
        self.query = nn.Linear(D_MODEL, D_MODEL)
        self.key = nn.Linear(D_MODEL, D_MODEL)
        self.value = nn.Linear(D_MODEL, D_MODEL)
        self.query_heads = SplitHeads()
        self.key_heads = SplitHeads()
        self.value_heads = SplitHeads()
        self.scores = onnx_export.MatMul()
        self.softmax = nn.Softmax(dim=-1)
        self.context = onnx_export.MatMul()
        self.merge = MergeHeads()
        self.output = nn.Linear(D_MODEL, D_MODEL)

    def forward(self, x: Tensor) -> Tensor:
        """Map float32 [N, L, 64] to the same shape; positions of one strip attend to one another."""
        query = self.query_heads(self.query(x))
        key = self.key_heads(self.key(x))
        value = self.value_heads(self.value(x))
        weight = self.softmax(self.scores(query, key.transpose(2, 3)) * (D_MODEL // HEADS) ** -0.5)
        y: Tensor = self.output(self.merge(self.context(weight, value)))
        return y


class FeedForward(nn.Module):
    """Two linear layers with GELU between them."""

    def __init__(self) -> None:
        super().__init__()
        self.expand = nn.Linear(D_MODEL, HIDDEN)
        self.gelu = nn.GELU()
        self.reduce = nn.Linear(HIDDEN, D_MODEL)

    def forward(self, x: Tensor) -> Tensor:
        """Map float32 [N, L, 64] to the same shape."""
        y: Tensor = self.reduce(self.gelu(self.expand(x)))
        return y


class Layer(nn.Module):
    """One encoder layer; each half is normalized at its entrance and added to its input."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(D_MODEL)
        self.attention = Attention()
        self.add1 = onnx_export.Add()
        self.norm2 = nn.LayerNorm(D_MODEL)
        self.ffn = FeedForward()
        self.add2 = onnx_export.Add()

    def forward(self, x: Tensor) -> Tensor:
        """Map float32 [N, L, 64] to the same shape."""
        x = self.add1(x, self.attention(self.norm1(x)))
        y: Tensor = self.add2(x, self.ffn(self.norm2(x)))
        return y


class StripReader(nn.Module):
    """Convolutions that leave one vector per digit, a transformer encoder, and a classifier per position."""

    def __init__(self) -> None:
        super().__init__()
        channels = (1, 16, 32, 48, D_MODEL)
        strides = (1, 2, 2, 2)
        self.stem = nn.ModuleList(
            ConvNorm(inputs, outputs, stride)
            for inputs, outputs, stride in zip(channels[:-1], channels[1:], strides, strict=True)
        )
        self.columns = Columns()
        self.positions = Positions()
        self.encoder = nn.ModuleList(Layer() for _ in range(LAYERS))
        self.norm = nn.LayerNorm(D_MODEL)
        self.head = nn.Linear(D_MODEL, digits.CLASSES)

    def forward(self, image: Tensor) -> Tensor:
        """Map float32 strips [N, 1, 8, 8 * L] to float32 logits [N, L, 10]; L is 16 at most."""
        x = image
        for conv in self.stem:
            x = conv(x)
        x = self.positions(self.columns(x))
        for layer in self.encoder:
            x = layer(x)
        logits: Tensor = self.head(self.norm(x))
        return logits


def train(samples: digits.Samples) -> StripReader:
    """Train for a fixed number of steps; each step draws new strips of one length from ``samples``."""
    onnx_export.make_deterministic(SEED)
    rng = np.random.default_rng(SEED)
    model = StripReader()
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=2e-3, total_steps=STEPS)
    loss_of = nn.CrossEntropyLoss(label_smoothing=0.05)
    model.train()
    for _ in range(STEPS):
        length = int(rng.integers(digits.MIN_LENGTH, digits.MAX_LENGTH + 1))
        strips = digits.draw_strips(samples, DIGITS_PER_STEP // length, length, rng, shift=True)
        logits = model(torch.from_numpy(strips.image))
        loss = loss_of(logits.flatten(0, 1), torch.from_numpy(strips.label).flatten())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    return model


def measure(path: Path, strips: Sequence[digits.Samples]) -> float:
    """Return the share of positions, over all ``strips``, that the ONNX model at ``path`` reads correctly."""
    session = onnx_export.open_session(path)
    right = [onnx_export.run_onnx(session, strip.image).argmax(axis=2) == strip.label for strip in strips]
    return float(np.mean(np.concatenate([row.ravel() for row in right])))


def check_shapes(path: Path, model: StripReader) -> None:
    """Run the ONNX model at several batch sizes and lengths and compare it with torch.

    Raises AssertionError where a shape or a value differs.
    """
    session = onnx_export.open_session(path)
    rng = np.random.default_rng(DATA_SEED)
    for count in (1, 3, 32):
        for length in (2, 5, 16):
            image = rng.random((count, 1, digits.SIDE, digits.SIDE * length), dtype=np.float32)
            logits = onnx_export.run_onnx(session, image)
            with torch.no_grad():
                expected = model(torch.from_numpy(image)).numpy()
            np.testing.assert_allclose(logits, expected, atol=1e-3)


def main() -> None:
    """Train, export, write the data and print the accuracy."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent, help="folder to write to")
    out: Path = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    splits = digits.load_splits()

    started = time.perf_counter()
    model = train(splits.train)
    seconds = time.perf_counter() - started

    path = out / "strip_reader.onnx"
    example = torch.zeros(2, 1, digits.SIDE, digits.SIDE * 5)
    axes = {"image": {0: "batch", 3: "width"}, "logits": {0: "batch", 1: "length"}}
    onnx_export.export(model, example, path, axes)
    check_shapes(path, model)

    rng = np.random.default_rng(DATA_SEED)
    digits.save_strips(
        out / "strip_calibration.npz", digits.draw_ragged_strips(splits.calibration, CALIBRATION_STRIPS, rng)
    )
    test = digits.draw_ragged_strips(splits.test, TEST_STRIPS, rng)
    digits.save_strips(out / "strip_test.npz", test)

    print(f"wrote {path}: {onnx_export.count_parameters(model)} parameters, trained in {seconds:.1f} s")
    print(f"test accuracy of the ONNX file, per position: {measure(path, test):.4f}")


if __name__ == "__main__":
    main()
