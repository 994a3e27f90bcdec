"""The networks that the benchmarks measure, built with torch, random weights, BatchNorm statistics set by data."""

from __future__ import annotations

import argparse
import math
import warnings
from pathlib import Path

import torch
from torch import Tensor, nn


class Bottleneck(nn.Module):
    def __init__(self, inside: int, width: int, stride: int) -> None:
        super().__init__()
        outside = width * 4
        self.body = nn.Sequential(
            nn.Conv2d(inside, width, 1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, stride, 1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, outside, 1, bias=False),
            nn.BatchNorm2d(outside),
        )
        self.down: nn.Module = nn.Identity()
        if stride != 1 or inside != outside:
            self.down = nn.Sequential(nn.Conv2d(inside, outside, 1, stride, bias=False), nn.BatchNorm2d(outside))
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(self.body(x) + self.down(x))


def resnet50() -> nn.Module:
    layers: list[nn.Module] = [
        nn.Conv2d(3, 64, 7, 2, 3, bias=False),
        nn.BatchNorm2d(64),
        nn.ReLU(),
        nn.MaxPool2d(3, 2, 1),
    ]
    inside = 64
    for width, depth, stride in ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2)):
        for i in range(depth):
            layers.append(Bottleneck(inside, width, stride if i == 0 else 1))
            inside = width * 4
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2048, 1000))


class Dense(nn.Module):
    def __init__(self, inside: int, growth: int = 32) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.BatchNorm2d(inside),
            nn.ReLU(),
            nn.Conv2d(inside, 4 * growth, 1, bias=False),
            nn.BatchNorm2d(4 * growth),
            nn.ReLU(),
            nn.Conv2d(4 * growth, growth, 3, 1, 1, bias=False),
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.body(x)], 1)


def densenet121() -> nn.Module:
    layers: list[nn.Module] = [
        nn.Conv2d(3, 64, 7, 2, 3, bias=False),
        nn.BatchNorm2d(64),
        nn.ReLU(),
        nn.MaxPool2d(3, 2, 1),
    ]
    width = 64
    for block, depth in enumerate((6, 12, 24, 16)):
        for _ in range(depth):
            layers.append(Dense(width))
            width += 32
        if block < 3:
            layers += [nn.BatchNorm2d(width), nn.ReLU(), nn.Conv2d(width, width // 2, 1, bias=False), nn.AvgPool2d(2)]
            width //= 2
    layers += [nn.BatchNorm2d(width), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 1000)]
    return nn.Sequential(*layers)


class EncoderLayer(nn.Module):
    def __init__(self, hidden: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q, self.k, self.v, self.o = (nn.Linear(hidden, hidden) for _ in range(4))
        self.up, self.down = nn.Linear(hidden, 4 * hidden), nn.Linear(4 * hidden, hidden)
        self.first, self.second = nn.LayerNorm(hidden), nn.LayerNorm(hidden)
        self.gelu = nn.GELU()

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        batch, length, hidden = x.shape
        q, k, v = (
            part(x).reshape(batch, length, self.heads, hidden // self.heads).transpose(1, 2)
            for part in (self.q, self.k, self.v)
        )
        scores = q @ k.transpose(-1, -2) / math.sqrt(hidden // self.heads) + bias
        mixed = (torch.softmax(scores, -1) @ v).transpose(1, 2).reshape(batch, length, hidden)
        x = self.first(x + self.o(mixed))
        return self.second(x + self.down(self.gelu(self.up(x))))


class Bert(nn.Module):
    def __init__(self, layers: int = 6, hidden: int = 384, heads: int = 12, words: int = 30522) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(words, hidden), nn.Embedding(512, hidden)
        self.norm = nn.LayerNorm(hidden)
        self.layers = nn.ModuleList(EncoderLayer(hidden, heads) for _ in range(layers))
        self.head = nn.Linear(hidden, 2)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        places = self.places(torch.arange(ids.shape[1]))
        x = self.norm(self.words(ids) + places)
        bias = (1.0 - mask[:, None, None, :].float()) * -10000.0
        for layer in self.layers:
            x = layer(x, bias)
        return self.head(x)


class Inverted(nn.Module):
    def __init__(self, inside: int, outside: int, stride: int, expand: int) -> None:
        super().__init__()
        hidden = inside * expand
        wide = [nn.Conv2d(inside, hidden, 1, bias=False), nn.BatchNorm2d(hidden), nn.ReLU6()] if expand > 1 else []
        self.body = nn.Sequential(
            *wide,
            nn.Conv2d(hidden, hidden, 3, stride, 1, groups=hidden, bias=False),
            nn.BatchNorm2d(hidden),
            nn.ReLU6(),
            nn.Conv2d(hidden, outside, 1, bias=False),
            nn.BatchNorm2d(outside),
        )
        self.residual = stride == 1 and inside == outside

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x) if self.residual else self.body(x)


def mobilenet_v2() -> nn.Module:
    layers: list[nn.Module] = [nn.Conv2d(3, 32, 3, 2, 1, bias=False), nn.BatchNorm2d(32), nn.ReLU6()]
    inside = 32
    for expand, width, depth, stride in (
        (1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1),
    ):  # fmt: skip
        for i in range(depth):
            layers.append(Inverted(inside, width, stride if i == 0 else 1, expand))
            inside = width
    layers += [nn.Conv2d(320, 1280, 1, bias=False), nn.BatchNorm2d(1280), nn.ReLU6()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(1280, 1000))


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


class ConvSilu(nn.Sequential):
    def __init__(self, inside: int, outside: int, kernel: int = 1, stride: int = 1) -> None:
        super().__init__(
            nn.Conv2d(inside, outside, kernel, stride, kernel // 2, bias=False), nn.BatchNorm2d(outside), nn.SiLU()
        )


class Split(nn.Module):
    """A cross-stage block: half of the channels through two residual convolutions, all parts concatenated."""

    def __init__(self, inside: int, outside: int) -> None:
        super().__init__()
        half = outside // 2
        self.before, self.after = ConvSilu(inside, outside), ConvSilu(outside + half, outside)
        self.inner = nn.Sequential(ConvSilu(half, half, 3), ConvSilu(half, half, 3))

    def forward(self, x: Tensor) -> Tensor:
        first, second = self.before(x).chunk(2, 1)
        return self.after(torch.cat([first, second, second + self.inner(second)], 1))


class Detector(nn.Module):
    """Three scales, pooled pyramid, upsampled and concatenated features, heads whose boxes are decoded and joined."""

    def __init__(self, width: int = 32, classes: int = 20) -> None:
        super().__init__()
        w = [width * 2**i for i in range(5)]
        self.stem = ConvSilu(3, w[0], 3, 2)
        self.down = nn.ModuleList(
            nn.Sequential(ConvSilu(w[i], w[i + 1], 3, 2), Split(w[i + 1], w[i + 1])) for i in range(4)
        )
        self.pool, self.join = nn.MaxPool2d(5, 1, 2), ConvSilu(4 * w[4], w[4])
        self.up, self.lateral = (
            nn.Upsample(scale_factor=2),
            nn.ModuleList([Split(w[4] + w[3], w[3]), Split(w[3] + w[2], w[2])]),
        )
        self.heads = nn.ModuleList(nn.Conv2d(w[i], 4 + classes, 1) for i in (2, 3, 4))

    def forward(self, image: Tensor) -> Tensor:
        x, levels = self.stem(image), []
        for block in self.down:
            x = block(x)
            levels.append(x)
        pools = [levels[3]]
        for _ in range(3):
            pools.append(self.pool(pools[-1]))
        deep = self.join(torch.cat(pools, 1))
        middle = self.lateral[0](torch.cat([self.up(deep), levels[2]], 1))
        fine = self.lateral[1](torch.cat([self.up(middle), levels[1]], 1))
        found = []
        for head, features in zip(self.heads, (fine, middle, deep)):
            boxes, scores = head(features).flatten(2).split([4, head.out_channels - 4], 1)
            found.append(torch.cat([boxes * 0.1, scores.sigmoid()], 1))
        return torch.cat(found, 2)


def resnet18() -> nn.Module:
    """torchvision's."""
    from torchvision.models import resnet18

    return resnet18()


def vit_s() -> nn.Module:
    """torchvision's VisionTransformer in the size S/16; its class token, positions and head are not left at zero."""
    from torchvision.models.vision_transformer import VisionTransformer

    # the fused attention of inference cannot be exported
    torch.backends.mha.set_fastpath_enabled(False)
    network = VisionTransformer(224, 16, 12, 6, 384, 1536)
    for weight in (network.class_token, network.heads.head.weight):
        nn.init.normal_(weight, std=0.02)
    return network


def build(name: str, path: Path) -> Path:
    """Export a network to ``path`` unless it is there."""
    if path.exists():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    if name == "bert":
        network: nn.Module = Bert().eval()
        args = (torch.ones(2, 8, dtype=torch.int64), torch.ones(2, 8, dtype=torch.int64))
        names, axes = ["ids", "mask"], {n: {0: "batch", 1: "length"} for n in ("ids", "mask")}
    else:
        made = {
            "resnet18": resnet18,
            "resnet50": resnet50,
            "vit_s": vit_s,
            "densenet121": densenet121,
            "mobilenet_v2": mobilenet_v2,
            "unet": UNet,
            "detector": Detector,
        }
        network, size = made[name](), 256 if name in ("unet", "detector") else 224
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = None
        network.train()
        with torch.no_grad():
            network(torch.randn(8, 3, size, size))
        network.eval()
        args = (torch.randn(2, 3, size, size),)
        names, axes = ["image"], {"image": {0: "batch"}}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            network, args, str(path), input_names=names, output_names=["out"], dynamic_axes=axes, opset_version=17,
            dynamo=False,
        )  # fmt: skip
    return path


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Export the benchmarks' networks")
    parser.add_argument("folder", type=Path)
    parser.add_argument("names", nargs="*", default=["resnet50", "densenet121", "bert"])
    given = parser.parse_args()
    for model in given.names:
        build(model, given.folder / f"{model}.onnx")
