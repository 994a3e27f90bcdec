"""What each helper pass does to all-INT8 models, alone and together: SQNR, answers that stay, seconds.

Of probabilities a sample or two, whose answer is a near tie, make nearly all of the noise (three of 200 pages: 86 %),
so a dB more or less on them says little. ``scores_db`` is the SQNR of centred log-probabilities, as of the logits, and
``gain_db`` what it has over the first row, with the 90 % interval that drawing the same samples again gives (paired
bootstrap): what holds 0 has not been shown to differ.

``python -m tests.benchmarks.real_data FOLDER`` and then ``python -m tests.benchmarks.bench_helpers FOLDER [MODEL ...]
[--samples N] [--method mse] [--rows plain,shift,...]``. Every layer is quantized and every helper is kept, whether it
helps or not. The answers are judged as in bench_real, by onnxruntime with its optimizations off, on test samples.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from tests.benchmarks.bench_real import answers, judged
from tests.benchmarks.real_data import MODELS
from toolkit import CalibrationData, Calibrator, Context, Model, configure_pass, find_pass
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
"""By name: the passes before insert_qdq, its weights, and the passes after it."""


def scores(value: Array) -> Array:
    """Centred logarithms of what sums to 1 along the last axis; all else as it is. float64."""
    wide = value.astype(np.float64)
    if wide.ndim > 1 and wide.shape[-1] > 1 and wide.min() >= 0 and np.allclose(wide.sum(axis=-1), 1, atol=1e-3):
        logs = np.log(np.maximum(wide, 1e-30))
        return np.asarray(logs - logs.mean(axis=-1, keepdims=True))
    return wide


def powers(reference: list[dict[str, Array]], tested: list[dict[str, Array]], as_scores: bool) -> tuple[Array, Array]:
    """Signal and noise of every sample and float output, [samples, outputs]."""
    names = [name for name, value in reference[0].items() if value.dtype.kind == "f"]
    seen: Callable[[Array], Array] = scores if as_scores else lambda value: value.astype(np.float64)
    signal = [[float((seen(a[name]) ** 2).sum()) for name in names] for a in reference]
    noise = [[float(((seen(a[name]) - seen(b[name])) ** 2).sum()) for name in names] for a, b in zip(reference, tested)]
    return np.array(signal), np.array(noise)


def sqnr_db(signal: Array, noise: Array) -> Array:
    """Of the worst output over the samples, which are the second to last axis."""
    with np.errstate(divide="ignore"):
        return np.asarray(10 * np.log10(signal.sum(axis=-2) / noise.sum(axis=-2)).min(axis=-1))


def gain_db(signal: Array, first: Array, noise: Array) -> list[float]:
    """How much higher the SQNR is than with the first row's noise: the 5 % quantile, the value, the 95 % quantile."""
    drawn = np.random.default_rng(0).integers(len(noise), size=(1000, len(noise)))
    again = sqnr_db(signal[drawn], noise[drawn]) - sqnr_db(signal[drawn], first[drawn])
    value = sqnr_db(signal, noise) - sqnr_db(signal, first)
    return [round(float(one), 1) for one in (np.quantile(again, 0.05), value, np.quantile(again, 0.95))]


def quantized(source: Model, data: CalibrationData, method: str, row: str) -> Model:
    """The model with all layers in INT8 and the helpers of a row."""
    before, weights, after = ROWS[row]
    model, context = source.copy(), Context(provider=Calibrator(data, method=method), judges_helpers=False)
    steps = [
        *((name, {}) for name in ("fold_constants", "fold_batchnorm", *before)),
        ("insert_qdq", {"weights": weights}),
    ]
    for name, settings in [*steps, *((name, {}) for name in after)]:
        configure_pass(find_pass(name), settings)(model, context)
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
        first: Array | None = None
        for row in given.rows.split(","):
            started = time.perf_counter()
            model = quantized(source, data, given.method, row)
            seconds = time.perf_counter() - started
            with tempfile.TemporaryDirectory() as scratch:
                tested = answers(model.save(Path(scratch) / "model.onnx"), test)
            level = float(sqnr_db(*powers(reference, tested, as_scores=False)))
            signal, noise = powers(reference, tested, as_scores=True)
            first = noise if first is None else first
            found = {
                "model": name, "row": row, "sqnr_db": round(level, 1), "scores_db": round(float(sqnr_db(signal, noise)), 1),
                "gain_db": gain_db(signal, first, noise),
                **judged(MODELS[name], test.get("label"), reference, tested), "seconds": round(seconds),
            }  # fmt: skip
            print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
