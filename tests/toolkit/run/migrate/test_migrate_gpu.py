"""An engine by TensorRT's calibrator beside one by migrated pairs: ``pytest -m gpu -s tests/toolkit/run/migrate``.

Both are made of the same samples: the calibrator's cache is what is migrated. LEVEL is the builder's optimization level.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import MODELS
from toolkit import Recipe, run
from toolkit.run.migrate.migrate import MigrationRequest, migrate
from toolkit.run.result import Result

pytestmark = [pytest.mark.gpu, pytest.mark.usefixtures("measuring_tensorrt")]

NOISE = 0.004
"""What two builds of one network differ by in accuracy on the test samples."""
SLOWER = 1.05
"""Engines of some ten microseconds; what is measured is printed, and 1.01 is what it should be."""
MODEL = {"digits": "digits_cnn", "strip": "strip_reader"}
RECIPE = """
[model]
path = "{model}"
[[profile]]
name = "profile0"
shapes.image = {{ min = {low}, opt = {opt}, max = {high} }}
[calibration]
data = "{data}"
[[pass]]
use = "fold_constants"
[[pass]]
use = "fold_batchnorm"
[[pass]]
use = "insert_qdq"
[engine]
backend = "tensorrt"
quantization = "implicit"
calibrator = "entropy2"
rest = "fp16"
[evaluation]
data = "{test}"
metric = "top1"
"""


def of_one_width(source: Path, target: Path, width: int = 64) -> list[int]:
    """The strips that are long enough, cut to one width, as one batch: a calibrator takes one shape. Returns a sample's."""
    with np.load(source) as stored:
        images = [stored[name] for name in stored.files if name.startswith("image/")]
    cut = np.concatenate([image[..., :width] for image in images if image.shape[-1] >= width])
    np.savez(target, image=cut)
    return list(cut.shape[1:])


def ready(name: str, folder: Path) -> dict[str, object]:
    """What the recipe says of one of the models: its file, its samples and its shapes."""
    said: dict[str, object] = {
        "model": (MODELS / f"{MODEL[name]}.onnx").as_posix(), "test": (MODELS / f"{name}_test.npz").as_posix(),
        "data": (MODELS / f"{name}_calibration.npz").as_posix(),
    }  # fmt: skip
    if name == "digits":
        return {**said, "low": [1, 1, 8, 8], "opt": [20, 1, 8, 8], "high": [64, 1, 8, 8]}
    shape = of_one_width(MODELS / f"{name}_calibration.npz", folder / "data.npz")
    said["data"] = (folder / "data.npz").as_posix()
    return {**said, "low": [1, 1, 8, 16], "opt": [8, *shape], "high": [32, 1, 8, 128]}


def built(recipe: Recipe, out: Path, cache: Path) -> Result:
    """A run with the same settings of the builder for both forms."""
    recipe.engine.backend, recipe.engine.timing_cache = "tensorrt", str(cache)
    recipe.engine.tactic_sources, recipe.engine.avg_timing_iterations = [], 8
    recipe.engine.optimization_level = int(os.environ.get("LEVEL", "3"))
    return run(recipe, out, device_check=True)


def quantized(result: Result) -> dict[str, tuple[str, ...]]:
    """By node of the float model what its outputs are in the engine, of those that compute."""
    return {
        layer.node: tuple(map(str, layer.actual.output_types)) or (str(layer.actual.precision),)
        for layer in result.report.computing
    }


@pytest.mark.parametrize("name", list(MODEL))
def test_the_migrated_engine_does_what_the_calibrated_did(tmp_path, monkeypatch, name):
    from tests.benchmarks.bench_placement import in_turn

    monkeypatch.chdir(tmp_path)
    said = ready(name, tmp_path)
    (tmp_path / "implicit.toml").write_text(RECIPE.format(**said))
    cache = tmp_path / "shared.timing"
    before = built(Recipe.load(tmp_path / "implicit.toml"), tmp_path / "implicit", cache)
    calibrated = tmp_path / "implicit" / "calibration.cache"
    shapes = {end: "x".join(map(str, said[key])) for end, key in (("min", "low"), ("opt", "opt"), ("max", "high"))}  # type: ignore[call-overload]
    words = ["trtexec", f"--onnx={said['model']}", "--int8", "--fp16", f"--calib={calibrated}",
             *(f"--{end}Shapes=image:{shape}" for end, shape in shapes.items())]  # fmt: skip
    made = migrate(MigrationRequest(words, test=Path(str(said["test"])), out=tmp_path / "migrated"))
    migrated = Recipe.load(made.recipe)
    migrated.evaluation.metric = "top1"
    after = built(migrated, tmp_path / "explicit", cache)
    times = in_turn(
        {kind: (one.folder / "model.engine").read_bytes() for kind, one in (("implicit", before), ("explicit", after))},
        migrated.profiles(),
    )
    ratio = times["explicit"]["profile0"] / times["implicit"]["profile0"]
    top1 = {kind: one.report.device.accuracy.quantized for kind, one in (("implicit", before), ("explicit", after))}
    was, now = quantized(before), quantized(after)
    unlike = {node: (was[node], now[node]) for node in was.keys() & now.keys() if was[node] != now[node]}
    print(json.dumps({
        "model": name, "top1": top1, "ms": times, "explicit over implicit": round(ratio, 4),
        "tensors": made.to_json()["counts"], "int8 nodes": {
            "implicit": sum("int8" in kinds for kinds in was.values()), "explicit": sum("int8" in kinds for kinds in now.values()),
        }, "unlike": unlike, "only implicit": sorted(was.keys() - now.keys()), "only explicit": sorted(now.keys() - was.keys()),
    }, indent=1))  # fmt: skip
    assert abs(top1["implicit"] - top1["explicit"]) <= NOISE
    assert ratio <= SLOWER
    assert any("int8" in kinds for kinds in now.values())
