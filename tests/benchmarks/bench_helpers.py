"""What each helper pass does to all-INT8 models, alone and together: SQNR, answers that stay, seconds.

``python -m tests.benchmarks.real_data FOLDER`` and then ``python -m tests.benchmarks.bench_helpers FOLDER [MODEL ...]
[--samples N] [--method mse] [--rows plain,shift,...]``. Every layer is quantized and every helper is kept, whether it
helps or not. The answers are judged as in bench_real, by onnxruntime with its optimizations off, on test samples.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
import time
from pathlib import Path

import numpy as np

from tests.benchmarks.bench_real import answers, judged
from tests.benchmarks.real_data import MODELS
from toolkit import CalibrationData, Calibrator, Context, Model, configure, find
from toolkit.base.types import Array

ROWS: dict[str, tuple[list[str], str, list[str]]] = {
    "plain": ([], "minmax", []),
    "equalize": (["equalize"], "minmax", []),
    "smooth": (["smooth"], "minmax", []),
    "shift": (["shift"], "minmax", []),
    "output": ([], "output", []),
    "correct_bias": ([], "minmax", ["correct_bias"]),
    "compensate": ([], "minmax", ["compensate"]),
    "shift+output": (["shift"], "output", []),
    "all": (["equalize", "shift", "smooth"], "output", ["compensate"]),
}
"""By name: the passes before insert_qdq, its weights, and the passes behind it."""


def sqnr_db(reference: list[dict[str, Array]], tested: list[dict[str, Array]]) -> float:
    """Of the worst float output over all samples."""
    levels = []
    for name in [name for name, value in reference[0].items() if value.dtype.kind == "f"]:
        noise = sum(float(((a[name] - b[name]).astype(np.float64) ** 2).sum()) for a, b in zip(reference, tested))
        signal = sum(float((a[name].astype(np.float64) ** 2).sum()) for a in reference)
        levels.append(10 * math.log10(signal / noise) if noise else math.inf)
    return min(levels)


def quantized(source: Model, data: CalibrationData, method: str, row: str) -> Model:
    """The model with all layers in INT8 and the helpers of a row."""
    before, weights, behind = ROWS[row]
    model, context = source.copy(), Context(provider=Calibrator(data, method=method), judges_helpers=False)
    steps = [
        *((name, {}) for name in ("fold_constants", "fold_batchnorm", *before)),
        ("insert_qdq", {"weights": weights}),
    ]
    for name, settings in [*steps, *((name, {}) for name in behind)]:
        configure(find(name), settings)(model, context)
    return model


def main() -> None:
    """Print a line a model and row."""
    options = argparse.ArgumentParser()
    options.add_argument("folder", type=Path)
    options.add_argument("models", nargs="*", default=list(MODELS))
    options.add_argument("--samples", type=int, default=200)
    options.add_argument("--method", default="mse")
    options.add_argument("--rows", default=",".join(ROWS))
    given = options.parse_args()
    for name in given.models:
        place = given.folder / name
        test = {key: value[: given.samples] for key, value in np.load(place / "test.npz").items()}
        source = Model.load(place / "model.onnx")
        data = CalibrationData.open(str(place / "calibration.npz"), source)
        reference = answers(place / "model.onnx", test)
        for row in given.rows.split(","):
            started = time.perf_counter()
            model = quantized(source, data, given.method, row)
            seconds = time.perf_counter() - started
            with tempfile.TemporaryDirectory() as scratch:
                tested = answers(model.save(Path(scratch) / "model.onnx"), test)
            found = judged(MODELS[name], test.get("label"), reference, tested)
            level = round(sqnr_db(reference, tested), 1)
            print(
                json.dumps({"model": name, "row": row, "sqnr_db": level, **found, "seconds": round(seconds)}),
                flush=True,
            )


if __name__ == "__main__":
    main()
