"""An engine by TensorRT's calibrator beside one by migrated pairs: ``pytest -m gpu -s tests/toolkit/run/migrate``.

Both are made of the same samples: the calibrator's cache is what is migrated. Two builds of one network differ by 2 to
10 %, so each form is built BUILDS times (two where not given), each time on a new timing cache that both forms share: on one
that is kept the next build takes the same kernels. All engines are measured in turn, and the fastest of each form are
compared; of the trained models, whose engines take some ten microseconds, the explicit form may be slower by 5 % and by what
the builds of one form differ in. What is known is printed after every turn of builds. LEVEL is the builder's
optimization level, GPU_MODELS where tests/benchmarks/carry.py has filled the large models (/tmp/models), whose weights are
random: they are held against their float model. What each engine's layers are is left in KEEP, where that is given.
"""

from __future__ import annotations

import json
import os
import shutil
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnxruntime as ort
import pytest

from tests.conftest import MODELS
from toolkit import Recipe, run
from toolkit.contract.bench import ratio_in_turn
from toolkit.run.migrate.migrate import Migration, MigrationRequest, migrate
from toolkit.run.result import Result

pytestmark = [pytest.mark.gpu, pytest.mark.usefixtures("measuring_tensorrt")]

NOISE = 0.004
"""What two builds of one network differ by in accuracy on the test samples."""
NOISE_DB = 1.5
"""What two builds differ by in SQNR: of a layer whose kernels are about as fast they take INT8 once and FP16 once."""
SLOWER = 1.01
SLOWER_SMALL = 1.05
"""Engines of some ten microseconds."""
TRAINED = {"digits": "digits_cnn", "strip": "strip_reader"}
LARGE = ("resnet18", "resnet50", "mobilenet_v2", "unet")
SAMPLES = 32
"""Samples of a large model for the calibrator, and as many others to compare with."""
CASES = [*TRAINED, *(f"{name}-b{batch}" for batch in (8, 32) for name in LARGE)]
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
"""


@dataclass
class Case:
    """What is built: a model, its samples, and the shapes of its input ``image``."""

    model: Path
    data: Path
    test: Path
    low: list[int]
    opt: list[int]
    high: list[int]
    metric: str | None = None

    def recipe(self, folder: Path) -> Recipe:
        """The recipe of the engine by TensorRT's calibrator."""
        paths = {key: getattr(self, key).as_posix() for key in ("model", "data", "test")}
        (folder / "implicit.toml").write_text(RECIPE.format(**{**vars(self), **paths}))
        return Recipe.load(folder / "implicit.toml")

    def migrated(self, cache: Path, folder: Path) -> Migration:
        """The recipe by pairs, from the command of trtexec that would build the same engine of the cache."""
        shapes = [("min", self.low), ("opt", self.opt), ("max", self.high)]
        words = ["trtexec", f"--onnx={self.model}", "--int8", "--fp16", f"--calib={cache}",
                 *(f"--{end}Shapes=image:{'x'.join(map(str, shape))}" for end, shape in shapes)]  # fmt: skip
        return migrate(MigrationRequest(words, test=self.test, out=folder / "migrated"))


def of_one_width(source: Path, target: Path, width: int = 64) -> list[int]:
    """The strips that are long enough, cut to one width, as one batch: a calibrator takes one shape. Returns a sample's."""
    with np.load(source) as stored:
        images = [stored[name] for name in stored.files if name.startswith("image/")]
    cut = np.concatenate([image[..., :width] for image in images if image.shape[-1] >= width])
    np.savez(target, image=cut)
    return list(cut.shape[1:])


def ready(name: str, folder: Path) -> Case:
    """A case by its name; skips where the model is not there."""
    if name in TRAINED:
        given, test = MODELS / f"{name}_calibration.npz", MODELS / f"{name}_test.npz"
        model = MODELS / f"{TRAINED[name]}.onnx"
        if name == "digits":
            return Case(model, given, test, [1, 1, 8, 8], [20, 1, 8, 8], [64, 1, 8, 8], "top1")
        shape = of_one_width(given, folder / "data.npz")
        return Case(model, folder / "data.npz", test, [1, 1, 8, 16], [8, *shape], [32, 1, 8, 128], "top1")
    stem, _, batch = name.partition("-b")
    model = Path(os.environ.get("GPU_MODELS", "/tmp/models")) / f"{stem}.onnx"
    if not model.exists():
        pytest.skip(f"{model} is not there: python3.10 -m tests.benchmarks.carry fill .gpu/carried {model.parent}")
    with np.load(model.with_suffix(".npz")) as stored:
        images = stored["image"]
    np.savez(folder / "data.npz", image=images[:SAMPLES])
    np.savez(folder / "test.npz", image=images[-SAMPLES:])
    shape = [int(batch), *images.shape[1:]]
    return Case(model, folder / "data.npz", folder / "test.npz", shape, shape, shape)


def built(recipe: Recipe, case: Case, out: Path, cache: Path, prefer: Literal["speed", "int8"] = "int8") -> Result:
    """A run with the same settings of the builder for both forms; one that is there is only built anew.

    Pairs are not given back where FP16 is as fast, unless ``prefer`` says so: the two forms of INT8 are what is compared.
    """
    recipe.engine.prefer = prefer
    recipe.engine.backend, recipe.engine.timing_cache = "tensorrt", str(cache)
    recipe.engine.tactic_sources, recipe.engine.avg_timing_iterations = [], 8
    recipe.engine.optimization_level = int(os.environ.get("LEVEL", "3"))
    recipe.evaluation.metric = case.metric
    return run(recipe, out, device_check=True)


def keep(name: str, results: dict[str, list[Result]]) -> None:
    """The reports of the engines, whose layers tell where two forms differ."""
    if folder := os.environ.get("KEEP"):
        for one in (one for found in results.values() for one in found):
            shutil.copy(one.folder / "report.json", Path(folder) / f"{name}_{one.folder.name}.json".replace(" ", "_"))


def again(form: str, number: int) -> Path:
    """The folder of a form's next build: that of the one before, without its engine."""
    folder = Path(f"{form} {number}")
    if number > 1:
        shutil.copytree(f"{form} {number - 1}", folder)
        (folder / "model.engine").unlink()
    return folder


def outputs_of(result: Result) -> dict[str, tuple[str, ...]]:
    """By node of the float model what its outputs are in the engine, of those that compute."""
    return {
        layer.node: tuple(map(str, layer.actual.output_types)) or (str(layer.actual.precision),)
        for layer in result.report.computing
    }


def accuracy(result: Result, case: Case) -> dict[str, Any]:
    """What the engine keeps of the float model.

    Networks with random weights give nearly the same for every sample: «between samples» counts only what differs from
    the mean over the samples, in answers too.
    """
    found = result.report.device
    assert found.status == "ran"
    kept: dict[str, Any] = {"samples": found.samples, "metric": found.accuracy.quantized}
    for name, one in found.accuracy.outputs.items():
        kept |= {"output": name, "sqnr_db": one.sqnr_db, "top-1 agreement": one.agreement}
    if case.metric is None:
        with np.load(case.test) as stored:
            images, count = stored["image"], case.opt[0]
        feeds = [{"image": images[start : start + count]} for start in range(0, len(images), count)]
        name = kept["output"]
        plain = ort.InferenceSession(str(case.model), providers=["CPUExecutionProvider"])
        wanted = np.concatenate([plain.run([name], feed)[0] for feed in feeds]).astype(np.float64)
        with result.engine() as engine:
            given = np.concatenate([np.array(engine.run(feed)[name]) for feed in feeds]).astype(np.float64)
        wanted, given = wanted - wanted.mean(0), given - given.mean(0)
        kept["sqnr_db between samples"] = 10 * np.log10(np.square(wanted).sum() / np.square(wanted - given).sum())
        kept["top-1 agreement between samples"] = float((wanted.argmax(1) == given.argmax(1)).mean())
    return kept


def spread(latencies: Iterable[float]) -> float:
    """How much slower the slowest of some engines of one network is than the fastest, as a share."""
    found = list(latencies)
    return max(found) / min(found) - 1


def compared(results: dict[str, list[Result]], profiles: Any, case: Case) -> dict[str, Any]:
    """The engines of both forms, measured in turn, the fastest of each side by side."""
    from tests.benchmarks.bench_placement import turns

    engines = {
        one.folder.name: (one.folder / "model.engine").read_bytes() for found in results.values() for one in found
    }
    times = turns(engines, profiles)["profile0"]
    median = {name: float(np.median(rounds)) for name, rounds in times.items()}
    best = {form: min(found, key=lambda one: median[one.folder.name]) for form, found in results.items()}
    ratio, noise = ratio_in_turn(*(times[best[form].folder.name] for form in ("explicit", "implicit")))
    was, now = outputs_of(best["implicit"]), outputs_of(best["explicit"])
    unlike = defaultdict(list)
    for node in sorted(was.keys() & now.keys()):
        if was[node] != now[node]:
            unlike[f"{'/'.join(was[node])} -> {'/'.join(now[node])}"].append(node)
    return {
        "explicit over implicit": round(ratio, 4), "noise of the measurement": round(noise, 4),
        "spread of builds": round(max(spread(median[one.folder.name] for one in of) for of in results.values()), 4),
        "ms": {name: round(value, 5) for name, value in median.items()}, "best": {k: v.folder.name for k, v in best.items()},
        "accuracy": {form: [accuracy(one, case) for one in found] for form, found in results.items()},
        "int8 nodes": {form: sum("int8" in kinds for kinds in of.values()) for form, of in (("implicit", was), ("explicit", now))},
        "alike": sum(was[node] == now[node] for node in was.keys() & now.keys()), "unlike": unlike,
        "only implicit": sorted(was.keys() - now.keys()), "only explicit": sorted(now.keys() - was.keys()),
    }  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_the_migrated_engine_does_what_the_calibrated_did(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    case = ready(name, tmp_path)
    before = case.recipe(tmp_path)
    results: dict[str, list[Result]] = {"implicit": [], "explicit": []}
    made, after, found = None, None, {}
    for number in range(1, 1 + int(os.environ.get("BUILDS", "2"))):
        cache = tmp_path / f"build{number}.timing"
        results["implicit"].append(built(before, case, again("implicit", number), cache))
        if made is None or after is None:
            made = case.migrated(tmp_path / "implicit 1" / "calibration.cache", tmp_path)
            after = Recipe.load(made.recipe)
        results["explicit"].append(built(after, case, again("explicit", number), cache))
        keep(name, results)
        found = compared(results, after.profiles(), case)
        print(json.dumps({
            "model": name, "builds": number, **found, "ranges": made.to_json()["counts"],
            "simulated": {form: one.to_json() for form, one in made.forms.items()},
        }, indent=1), flush=True)  # fmt: skip
    assert found["int8 nodes"]["explicit"] > 0
    kept = {form: {what: max(one.get(what) or 0.0 for one in of) for what in of[0] if what != "output"}
            for form, of in found["accuracy"].items()}  # fmt: skip
    was, now = kept["implicit"], kept["explicit"]
    if name in TRAINED:
        assert abs(was["metric"] - now["metric"]) <= NOISE
        if not found["int8 nodes"]["implicit"]:
            # TensorRT found FP16 as fast everywhere, so a run that may choose must be as fast too, with pairs or without
            assert after is not None
            results["explicit"] = [built(after, case, tmp_path / "free", tmp_path / "free.timing", "speed")]
            found = compared(results, after.profiles(), case)
            print(json.dumps({"model": name, "free to choose": found["explicit over implicit"]}), flush=True)
        assert found["explicit over implicit"] <= SLOWER_SMALL + found["spread of builds"]
        return
    nodes = found["int8 nodes"]
    if nodes["explicit"] > nodes["implicit"]:
        # an engine that left nodes of both in FP16 says nothing about pairs; what INT8 costs in all of them does
        assert now["sqnr_db"] >= made.forms["before"].sqnr_db - NOISE_DB
    else:
        for what in ("sqnr_db", "sqnr_db between samples"):
            assert now[what] >= was[what] - NOISE_DB, what
    assert found["explicit over implicit"] <= SLOWER + found["noise of the measurement"]
