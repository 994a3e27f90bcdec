"""Train a MobileNet-like digit classifier and write ``digits_uneven.onnx``, whose channels have strongly uneven scales.

After training every channel between two convolutions is multiplied by a factor of its own, and the next convolution's
weights are divided by it: the ReLUs in between pass positive factors through, so the function stays the same, while
one INT8 scale a tensor no longer fits. This is the state in which many trained MobileNets are found (Nagel et al.,
"Data-free quantization through weight equalization and bias correction", ICCV 2019, figure 2).
"""

from __future__ import annotations

import argparse
from pathlib import Path

import digits
import numpy as np
import onnx_export
import torch
from torch import Tensor, nn

SEED = 23
EPOCHS = 40
BATCH = 63
OCTAVES = 7.0


class ConvNorm(nn.Module):
    """A convolution without bias, batch normalization and ReLU."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, groups=groups, bias=False)
        self.bn = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """Map float32 [N, inputs, H, W] to [N, outputs, H / stride, W / stride]."""
        y: Tensor = self.relu(self.bn(self.conv(x)))
        return y


class Uneven(nn.Module):
    """A convolution, four depthwise-separable blocks, a pool and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        widths = [(16, 32, 2), (32, 32, 1), (32, 64, 2), (64, 64, 1)]
        layers = [ConvNorm(1, 16, 3)]
        for inputs, outputs, stride in widths:
            layers += [ConvNorm(inputs, inputs, 3, stride, groups=inputs), ConvNorm(inputs, outputs, 1)]
        self.features = nn.Sequential(*layers)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(64, digits.CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """Map float32 [N, 1, 8, 8] to logits [N, 10]."""
        y: Tensor = self.head(self.pool(self.features(x)).flatten(1))
        return y


def train(model: Uneven) -> None:
    """Train on the training digits, each moved by up to one pixel."""
    data = digits.load_splits().train
    rng = np.random.default_rng(SEED)
    steps = EPOCHS * (len(data.label) // BATCH)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 6e-3, steps)
    model.train()
    for _ in range(EPOCHS):
        order = rng.permutation(len(data.label))
        for start in range(0, len(order) - BATCH + 1, BATCH):
            index = order[start : start + BATCH]
            image = torch.from_numpy(digits.shift_digits(data.image[index], rng))
            loss = nn.functional.cross_entropy(model(image), torch.from_numpy(data.label[index]), label_smoothing=0.1)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()


@torch.no_grad()
def make_uneven(model: Uneven) -> None:
    """Multiply each inner channel by a factor between 2^-OCTAVES/2 and 2^OCTAVES/2; the function stays the same."""
    rng = np.random.default_rng(SEED)
    layers: list[ConvNorm] = list(model.features)  # type: ignore[arg-type]
    for layer, after in zip(layers, [*layers[1:], None]):
        scale = torch.from_numpy(np.exp2(rng.uniform(-OCTAVES / 2, OCTAVES / 2, layer.bn.num_features)).astype(np.float32))
        layer.bn.weight.mul_(scale)
        layer.bn.bias.mul_(scale)
        if after is None:
            model.head.weight.div_(scale)
        elif after.conv.groups > 1:
            after.conv.weight.div_(scale[:, None, None, None])
        else:
            after.conv.weight.div_(scale[None, :, None, None])


def main() -> None:
    """Train, scale, export and report the accuracy on the test digits."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path(__file__).resolve().parent)
    folder = parser.parse_args().out
    onnx_export.make_deterministic(SEED)
    model = Uneven()
    train(model)
    model.eval()
    splits = digits.load_splits()
    image = torch.from_numpy(splits.test.image)
    with torch.no_grad():
        before = model(image)
        make_uneven(model)
        after = model(image)
    torch.testing.assert_close(before, after, rtol=1e-3, atol=1e-3)
    path = folder / "digits_uneven.onnx"
    onnx_export.export(model, torch.from_numpy(splits.calibration.image[:1]), path, {"image": {0: "batch"}, "logits": {0: "batch"}})
    logits = onnx_export.run_onnx(onnx_export.open_session(path), splits.test.image)
    print(f"{path.name}: top1 {np.mean(logits.argmax(1) == splits.test.label):.4f}, {onnx_export.count_parameters(model)} parameters")


if __name__ == "__main__":
    main()
