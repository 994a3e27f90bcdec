"""Whether what `qtool new` writes runs, for every model given: python -m tests.benchmarks.bench_new FILE_OR_FOLDER ...

A model is calibrated with what lies beside it as *cal*.npz or members.npz, else with random samples, which --random makes
of all. Of the onnx package's light models, with --light, the first four convolutions are taken. One line a model: the
exit status of new, check and run, seconds, and what was said where one failed. The exit status is 1 where `check`
passed a recipe that `run` refused, or `new` wrote one that `check` refused.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import onnx

from tests.conftest import LIGHT
from tests.random_samples import random_samples
from tests.toolkit.backends.lowering.test_light_models import beginning
from toolkit import Model
from toolkit.base.errors import QtoolError
from toolkit.cli.main import invoke

CONVOLUTIONS = 4


def tried(model: Path, folder: Path, random: bool) -> tuple[list[int], str]:
    """The exit status of each command that was reached, and the last error."""
    data = next((p for word in ("*cal*.npz", "members.npz") for p in sorted(model.parent.glob(word))), None)
    if data is None or random:
        data = folder / "data.npz"
        np.savez(data, **random_samples(Model.load(model), count=12, size=8))
    recipe, said = folder / "made.toml", io.StringIO()
    found = []
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        found.append(invoke(["new", str(model), "--data", str(data), "--out", str(recipe)]))
        if found[-1] == 0:
            recipe.write_text(recipe.read_text().replace('backend = "auto"', 'backend = "none"'))
            found.append(invoke(["check", str(recipe)]))
            found.append(invoke(["run", str(recipe), "--out", str(folder / "out")]))
    errors = [line for line in said.getvalue().splitlines() if line.startswith("qtool: ")]
    return found, errors[-1] if errors else ""


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="bench_new", description=str(__doc__).partition("\n")[0])
    parser.add_argument("places", type=Path, nargs="*", help="models, and folders of them")
    parser.add_argument("--random", action="store_true", help="random samples for all models")
    parser.add_argument("--light", action="store_true", help="the beginnings of the onnx package's light models, too")
    given = parser.parse_args()
    broken = 0
    with tempfile.TemporaryDirectory(prefix="bench-new-") as folder:
        models = [m for place in given.places for m in (sorted(place.rglob("*.onnx")) if place.is_dir() else [place])]
        for path in sorted(LIGHT.glob("*.onnx")) if given.light else []:
            models.append(Path(folder) / path.name)
            onnx.save(beginning(path, CONVOLUTIONS), str(models[-1]))
        for number, model in enumerate(models):
            start, own = time.perf_counter(), Path(folder) / str(number)
            own.mkdir()
            try:
                found, error = tried(model, own, given.random)
            except QtoolError as fault:
                found, error = [], str(fault)
            broken += any(status not in (0, 1) for status in found[1:])
            print(
                f"{model.parent.name}/{model.name} {found} {time.perf_counter() - start:.1f} s {error[:300]}",
                flush=True,
            )
    return int(broken > 0)


if __name__ == "__main__":
    sys.exit(main())
