"""What exact and fast sensitivity cost in float inferences, and how well they agree.

Run: python -m tests.benchmarks.bench_sensitivity
"""

from __future__ import annotations

import math
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from tests.benchmarks.hard_models import bert, outlier_reader
from tests.toolkit.search.planted import MODELS, simulation, trained
from toolkit import Model
from toolkit.graph.sessions.session import session
from toolkit.search.sensitivity.measure import exact, fast, spearman
from toolkit.simulation.simulation import Simulation


def costs(sim: Simulation, rounds: int = 12) -> tuple[float, float, float]:
    """Processor time of the plain float model over the batches (s), and what a group costs of it alone and without.

    The plain model is one session with one thread. It and every group are timed in turn, best of all rounds each: what
    else runs on the machine must not fall on one side only.
    """
    plain = session(sim.model, threads=1)
    whole = math.inf
    groups = {(mode, name): math.inf for mode in ("alone", "without") for name in sim.names}
    for _ in range(rounds):
        start = time.thread_time()
        for feed in sim.feeds:
            plain.run(feed.inputs)
        whole = min(whole, time.thread_time() - start)
        for mode, name in groups:
            before = sim.runner.spent
            _ = sim.alone(name) if mode == "alone" else sim.without([name])
            groups[mode, name] = min(groups[mode, name], sim.runner.spent - before)
    alone, without = (sum(s for (mode, _), s in groups.items() if mode == m) for m in ("alone", "without"))
    return whole, alone / len(sim.names) / whole, without / len(sim.names) / whole


def strips() -> list[dict[str, Any]]:
    """The test strips cut to 40 columns: many samples of one shape."""
    with np.load(MODELS / "strip_test.npz") as archive:
        images = [archive[name] for name in archive.files if name.startswith("image/")]
    return [{"image": image[..., :40]} for image in images if image.shape[-1] >= 40]


def cases(folder: Path) -> list[tuple[str, Model, Any]]:
    """Name, model and samples."""
    rng = np.random.default_rng(1)
    ids = [{"ids": rng.integers(0, 500, (1, 64))} for _ in range(48)]
    return [
        ("digits_cnn", trained("digits_cnn"), str(MODELS / "digits_calibration.npz")),
        ("strip_reader, 15 lengths", trained("strip_reader"), str(MODELS / "strip_calibration.npz")),
        ("strip_reader, one length", trained("strip_reader"), strips()),
        ("strip_reader, outliers", Model.load(outlier_reader(folder / "reader.onnx")), strips()),
        ("bert, 6 layers", Model.load(bert(folder / "bert.onnx")), ids),
    ]


def main() -> None:
    """Print the table."""
    print(f"{'model':26} groups samples  float s  alone  without  fast total  reliability  Spearman")
    with tempfile.TemporaryDirectory() as folder:
        for name, model, samples in cases(Path(folder)):
            sim = simulation(model, samples, threads=1)
            groups = len(sim.names)
            found = exact(sim)
            plain, alone, without = costs(sim)
            guess = fast(sim)
            order = [[g.alone.noise for g in result.groups if g.alone is not None] for result in (found, guess)]
            print(
                f"{name:26} {groups:6} {found.samples:7} {plain:8.4f} {alone:6.2f} {without:8.2f} "
                f"{guess.inferences:11.1f} {guess.reliability:12.3f} {spearman(*order):9.3f}"
            )


if __name__ == "__main__":
    main()
