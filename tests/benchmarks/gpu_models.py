"""Export the networks that the GPU benchmarks measure. Runs where torch and torchvision are (the GPU host's python3)."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
import torchvision
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from tests.benchmarks.models import build


class Double(nn.Sequential):
    def __init__(self, inside: int, outside: int) -> None:
        super().__init__(
            nn.Conv2d(inside, outside, 3, padding=1, bias=False), nn.BatchNorm2d(outside), nn.ReLU(),
            nn.Conv2d(outside, outside, 3, padding=1, bias=False), nn.BatchNorm2d(outside), nn.ReLU(),
        )  # fmt: skip


class UNet(nn.Module):
    """Four levels, transposed convolutions on the way up, concatenated skips."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        sizes = [width * 2**i for i in range(4)]
        self.down = nn.ModuleList(Double(i, o) for i, o in zip([3, *sizes[:-1]], sizes))
        self.up = nn.ModuleList(nn.ConvTranspose2d(sizes[i + 1], sizes[i], 2, 2) for i in range(3))
        self.merge = nn.ModuleList(Double(2 * sizes[i], sizes[i]) for i in range(3))
        self.pool, self.head = nn.MaxPool2d(2), nn.Conv2d(width, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        skips = []
        for level, block in enumerate(self.down):
            x = block(x if level == 0 else self.pool(x))
            skips.append(x)
        for level in (2, 1, 0):
            x = self.merge[level](torch.cat([skips[level], self.up[level](x)], 1))
        return self.head(x)


def export(name: str, network: nn.Module, size: int, folder: Path) -> None:
    """Set BatchNorm statistics by data and write the network with a dynamic batch."""
    torch.manual_seed(0)
    x = torch.rand(16, 3, size, size) * 2 - 1
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None
    network.train()
    with torch.no_grad():
        network(x)
    network.eval()
    torch.onnx.export(
        network, (x[:2],), str(folder / f"{name}.onnx"), input_names=["image"], output_names=["out"],
        dynamic_axes={"image": {0: "n"}, "out": {0: "n"}}, opset_version=17, dynamo=False,
    )  # fmt: skip


def main(folder: Path) -> None:
    """Write resnet50, mobilenet_v2, unet and bert, and calibration data for each."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    export("resnet50", torchvision.models.resnet50(weights=None), 224, folder)
    export("mobilenet_v2", torchvision.models.mobilenet_v2(weights=None), 224, folder)
    export("unet", UNet(), 256, folder)
    build("bert", folder / "bert.onnx")
    rng = np.random.default_rng(0)

    def pictures(count: int, size: int) -> np.ndarray:
        coarse = rng.standard_normal((count, 3, size // 16, size // 16)).astype(np.float32)
        smooth = coarse.repeat(16, 2).repeat(16, 3)
        return np.clip(0.7 * smooth + 0.3 * rng.standard_normal(smooth.shape).astype(np.float32), -2, 2)

    np.savez(folder / "images.npz", image=pictures(128, 224))
    np.savez(folder / "images256.npz", image=pictures(64, 256))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
