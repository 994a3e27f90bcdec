"""How many evaluations the search needs to find a damaged layer, how near it comes to the best of all plans, what it
makes of models that INT8 harms, and how long it takes beside the model itself.

Run: python -m tests.benchmarks.bench_search [planted] [exhaustive] [hard] [clock RECIPE ...]

All but ``clock`` where no part is named. Part clock runs the passes of recipes with search_precision, as ``qtool new``
writes them (those of bench_real lie in its folder), and prints the seconds of the whole pass, helpers, methods and
insertion included, over those of plain onnxruntime with one thread on the samples that the search decided on: at most
24 are wanted, and a first plan within the budget after 5. Such figures are worth something on a quiet machine alone.
"""

from __future__ import annotations

import json
import math
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import onnxruntime

from passes.search_precision import SearchPrecision
from tests.benchmarks.hard_models import MODELS, hard_swish_cnn, outlier_reader
from tests.toolkit.search.planted import chain, damage, feeds, simulation, trained
from toolkit.contract.context import Context
from toolkit.contract.passes import Pass
from toolkit.data.dataset import Batch
from toolkit.evaluation.budget import Budget
from toolkit.graph.model import Model
from toolkit.run.pipeline import run
from toolkit.run.recipe.recipe import Recipe
from toolkit.search.budget.spending import Spending
from toolkit.search.cost.cost_model import CostModel
from toolkit.search.cost.gpus import gpu_spec
from toolkit.search.plan_search import PlanSearch
from toolkit.search.plans.search import Search, SearchResult
from toolkit.search.plans.searched_plan import SearchedPlan
from toolkit.search.quantizer.quantizer import Quantizer
from toolkit.simulation.runner import Runner
from toolkit.simulation.simulation import Simulation

_PARTS = {
    "float": (Runner, "_start"), "other forms": (PlanSearch, "on"), "helpers": (Pass, "__call__"),
    "rounding": (Quantizer, "rounder"), "plan's form": (PlanSearch, "take"), "types": (Simulation, "outcome_of"),
    "worst layers": (PlanSearch, "_record"),
}  # fmt: skip
"""What is priced by itself, see ``toolkit.search.budget.spending``."""
INFERENCES = 16.0
"""The price of plans that a search may pay for: less than search_precision lets them cost, so that it must choose."""
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


def exhaustive() -> None:
    """The share of the work in INT8 of the plan found, against the best of all plans of models of at most 12 groups."""
    for name, sim in small_models():
        switches, names = sim.switches, sim.names
        plans = [
            frozenset(name for place, name in enumerate(names) if code >> place & 1) for code in range(2 ** len(names))
        ]
        noise = {kept: sim.without(kept).noise for kept in plans}
        cost = CostModel(switches, sim.facts, gpu_spec("A10"))
        share = {kept: cost.share(kept) for kept in plans}
        worst, found_shares = -10 * math.log10(noise[frozenset()]), []
        for more in (1.0, 2.0, 4.0, 7.0, 10.0, 14.0):
            best = max(
                share[kept] for kept in plans if not noise[kept] or -10 * math.log10(noise[kept]) >= worst + more
            )
            fresh = sim.on(sim.settings)
            account = Spending(INFERENCES)
            found = Search(fresh, Budget(min_sqnr_db=worst + more), cost, try_ranges=False, spending=account).run()
            found_shares.append((found.best.quantized if found.best.meets else 0.0) / best if best else 1.0)
            print(f"{name}: all INT8 {worst:.1f} dB, budget +{more:g} dB: best of {len(plans)} plans {best:.3f}, found "
                  f"{found.best.quantized:.3f}, {len(found.plans)} plans, {found.computed:.1f} float inferences "
                  f"({account.priced:.1f} by price), the first within the budget after "
                  f"{found.first if found.first is not None else math.nan:.1f}", flush=True)  # fmt: skip
        print(f"{name}: {min(found_shares):.3f} of the best share at least, {sum(found_shares) / len(found_shares):.3f} "
              f"on average")  # fmt: skip


def small_models() -> Iterator[tuple[str, Simulation]]:
    """Models of at most 12 groups, on batches that are small enough to be looked at in part."""
    for name in ("digits_cnn", "digits_uneven"):
        path = str(MODELS / "digits_calibration.npz")
        yield name, simulation(trained(name), path, samples=128, batch=16)
    for seed in range(3):
        model = chain(10, 24)
        random = np.random.default_rng(seed)
        for place in random.choice(10, 4, replace=False):
            damage(model, f"layer{place}", channel=int(place), factor=float(random.choice([3.0, 10.0, 40.0])))
        yield f"chain {seed}", simulation(model, feeds(256, 24), batch=32)


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


class _Searched(BaseException):
    """The pass is done; the rest of the run is not timed."""


class _Clock:
    """What is seen of one search: when its pass began, had a first plan within the budget, and ended."""

    def __init__(self) -> None:
        self.begin = self.end = time.perf_counter()
        self.first: float | None = None
        self.feeds: list[Batch] = []
        self.found: SearchResult | None = None
        self.parts: dict[str, list[float]] = {name: [] for name in _PARTS}

    def _timed(self, name: str, part: Callable[..., Any]) -> Callable[..., Any]:
        """The function, with its seconds added to those of the part."""

        def run(*given: Any, **named: Any) -> Any:
            begin = time.perf_counter()
            try:
                return part(*given, **named)
            finally:
                self.parts[name].append(time.perf_counter() - begin)

        return run

    def measure(self, recipe: Path, out: Path) -> None:
        """Run a recipe up to the end of its search."""
        apply, take, search = SearchPrecision.apply, Search._take, PlanSearch.run

        def timed(own: SearchPrecision, model: Model, context: Context) -> None:
            self.begin = time.perf_counter()
            apply(own, model, context)
            self.end = time.perf_counter()
            if not context.dry_run:
                raise _Searched

        def taken(own: Search, key: str, plan: SearchedPlan, *given: Any) -> None:
            take(own, key, plan, *given)
            if self.first is None and plan.whole and plan.meets:
                self.first = time.perf_counter()

        def searched(own: PlanSearch) -> SearchResult:
            self.found, self.feeds = search(own), own.simulation.feeds
            return self.found

        with (
            patch.object(SearchPrecision, "apply", timed), patch.object(Search, "_take", taken),
            patch.object(PlanSearch, "run", searched), suppress(_Searched), ExitStack() as parts,
        ):  # fmt: skip
            for name, (owner, method) in _PARTS.items():
                parts.enter_context(patch.object(owner, method, self._timed(name, getattr(owner, method))))
            run(recipe, out, allow_code=True)


def clock(recipes: Sequence[str]) -> None:
    """The seconds of a whole search over those of one inference of its samples."""
    for path in map(Path, recipes):
        seen = _Clock()
        with tempfile.TemporaryDirectory() as out:
            seen.measure(path, Path(out) / "run")
        assert seen.found is not None
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        # it warns of every output whose size the model leaves open
        options.log_severity_level = 3
        recipe = Recipe.load(path)
        model = recipe.resolve(recipe.model.path)
        session = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
        names = [one.name for one in session.get_inputs()]
        runs = []
        for _ in range(3):
            start = time.perf_counter()
            for feed in seen.feeds:
                session.run(None, {name: feed.inputs[name] for name in names})
            # the first one allocates
            runs.append(time.perf_counter() - start)
        inference, took = min(runs), seen.end - seen.begin
        first = (seen.first - seen.begin) / inference if seen.first is not None else math.nan
        best = seen.found.best
        print(f"{path.parent.name}/{path.stem}: {took:.1f} s, {took / inference:.1f} inferences of "
              f"{sum(feed.count for feed in seen.feeds)} samples in {inference:.2f} s ({seen.found.inferences:.1f} by price), "
              f"a first plan after {first:.1f}; {best.quantized:.1%} in INT8, {best.outcome.sqnr_db:.1f} dB, "
              f"{'within' if best.meets else 'not within'} the budget, {len(seen.found.plans)} plans", flush=True)  # fmt: skip
        # a pass holds the search itself
        parts = {name: [one for one in took if one < seen.end - seen.begin] for name, took in seen.parts.items()}
        print("  " + ", ".join(f"{name} {sum(some) / inference:.1f} in {len(some)}" for name, some in parts.items()))


def main(asked: Sequence[str]) -> None:
    """Do the parts that are named; what follows ``clock`` are its recipes."""
    at = asked.index("clock") if "clock" in asked else len(asked)
    parts = {"planted": planted, "exhaustive": exhaustive, "hard": hard}
    for name in asked[:at] if asked else parts:
        parts[name]()
    clock(asked[at + 1 :])


if __name__ == "__main__":
    main(sys.argv[1:])
