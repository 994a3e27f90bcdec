"""How many evaluations the search needs to find a damaged layer, and what it makes of models that INT8 harms.

Run: python -m tests.benchmarks.bench_search
"""

from __future__ import annotations

import json
import math
import tempfile
import time
from pathlib import Path

from tests.benchmarks.hard_models import MODELS, hard_swish_cnn, outlier_reader
from tests.toolkit.search.planted import damage, simulation, trained
from toolkit.evaluation.budget import Budget
from toolkit.run.pipeline import run
from toolkit.search.cost import CostModel
from toolkit.search.gpus import gpu_spec
from toolkit.search.search import Search

RECIPE = """
[model]
path = "{model}"
[calibration]
data = "{models}/{data}_calibration.npz"
[[pass]]
use = "fold_constants"
[[pass]]
use = "fold_batchnorm"
[[pass]]
use = "{use}"
{helpers}
[engine]
backend = "none"
[evaluation]
data = "{models}/{data}_test.npz"
metric = "top1"
budget = {{ max_drop = 0.01 }}
layer_samples = 1
"""


def planted() -> None:
    """Every layer of both models damaged in turn."""
    for name, data, least in (("digits_cnn", "digits", 30.0), ("strip_reader", "strip", 33.0)):
        path = str(MODELS / f"{data}_calibration.npz")
        counts, kept, failed = [], [], 0
        for layer in simulation(trained(name), path).names:
            model = trained(name)
            weight = model.constant(model.node(layer).inputs[1])
            if weight is None or weight.shape[1] == 1:
                continue
            damage(model, layer)
            sim = simulation(model, path)
            cost = CostModel(sim.switches, sim.facts, gpu_spec("A10"))
            found = Search(sim, Budget(min_sqnr_db=least), cost, try_ranges=False).run()
            if found.plans[0].meets:
                continue
            counts.append(found.evaluations)
            kept.append(len(found.best.kept))
            failed += layer not in found.best.kept or not found.best.meets
        limit = 2 * math.log2(len(sim.names)) + 8
        print(f"{name}: {len(counts)} damaged models, {failed} not found, evaluations at most {max(counts)} of {limit:.1f}, "
              f"layers kept at most {max(kept)}")  # fmt: skip


def hard() -> None:
    """Plain INT8 and the search, with the recipe that `qtool new` writes."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        models = [
            (hard_swish_cnn(folder / "hard_swish.onnx"), "digits"),
            (outlier_reader(folder / "outlier_reader.onnx"), "strip"),
            (MODELS / "digits_uneven.onnx", "digits"),
        ]
        for path, data in models:
            for use in ("insert_qdq", "search_precision"):
                recipe = folder / f"{path.stem}_{use}.toml"
                helpers = 'helpers = ["equalize", "smooth"]' if use == "search_precision" else ""
                recipe.write_text(
                    RECIPE.format(model=path.as_posix(), models=MODELS.as_posix(), data=data, use=use, helpers=helpers)
                )
                start = time.perf_counter()
                report = run(recipe, folder / recipe.stem).report
                text = f"drop {report.accuracy.drop:+.4f}, met {report.accuracy.met}" if report.accuracy else ""
                found = folder / recipe.stem / "search.json"
                if found.exists():
                    best = json.loads(found.read_text())
                    text += f", {best['best']['quantized_macs']:.0%} in INT8, {best['evaluations']} evaluations"
                print(f"{path.stem} {use}: {text}, {time.perf_counter() - start:.1f} s")


if __name__ == "__main__":
    planted()
    hard()
