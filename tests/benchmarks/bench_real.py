"""Trained models: qtool's verdict beside what an independent judge says of the very model that qtool wrote.

``python -m tests.benchmarks.real_data FOLDER`` and then ``python -m tests.benchmarks.bench_real FOLDER [MODEL ...]``.
``--samples N`` judges by the first N test samples, and gives qtool no more; ``--rows plain,new`` leaves rows out; ``--table``
prints what is known as a table and measures nothing.

Rows: qtool with nothing but insert_qdq, qtool as ``new`` writes the recipe, onnxruntime's quantize_static (pairs, symmetric,
weights per channel), and with ``MODELOPT=PYTHON`` in the environment nvidia-modelopt 0.47 in that interpreter. «Unchanged» is
the share of test samples whose whole answer is the float model's, «metric» the share whose answer is the label's.

The score is within the budget where no more answers are lost than it allows: of those right by the labels and the recipe's
max_drop, where the recipe has a metric, else one point of the float model's. A verdict is true where «Usable» is said of a
score within it and of enough samples, «Within its budget» of a score within it, and a missed budget or «BROKEN» of one that
is not; «1 answer» where one answer decides: onnxruntime leaves float16's rounding between its kernels out, which qtool's
figures have in them.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import re
import subprocess
import sys
import tempfile
import time
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.version_converter
import onnxruntime as ort

from tests.benchmarks.real_data import MODELS, Real
from toolkit.base.profiles import Extent, Profiles, ShapeProfile
from toolkit.graph.layers.work import facts_at_opt, work_of
from toolkit.graph.model import Model

LOST, ENOUGH = 0.01, 300
ROWS = ("plain", "new", "onnxruntime", "modelopt")
PLAIN = """[model]
path = "{model}"

[[profile]]
name = "one"
{shapes}

[calibration]
data = "{folder}/calibration.npz"

[[pass]]
use = "fold_constants"

[[pass]]
use = "fold_batchnorm"

[[pass]]
use = "insert_qdq"

[engine]
backend = "none"

[evaluation]
data = "{test}"
"""
MODELOPT = """
import sys, numpy as np
from modelopt.onnx.quantization import quantize
quantize(sys.argv[1], calibration_data=dict(np.load(sys.argv[2])), output_path=sys.argv[3], calibration_eps=["cpu"])
"""


def answers(model: Path, data: dict[str, np.ndarray]) -> list[dict[str, np.ndarray]]:
    """Outputs of each sample, one inference each; graph optimizations off, so that pairs compute what they say."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    session = ort.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    inputs, names = [one.name for one in session.get_inputs()], [one.name for one in session.get_outputs()]
    count = len(data[inputs[0]])
    return [dict(zip(names, session.run(None, {n: data[n][i : i + 1] for n in inputs}))) for i in range(count)]


@cache
def float_answers(folder: Path, samples: int) -> list[dict[str, np.ndarray]]:
    """Those of the float model, once for all rows."""
    return answers(folder / "model.onnx", {key: value[:samples] for key, value in np.load(folder / "test.npz").items()})


def wilson(right: int, count: int, z: float = 1.96) -> tuple[float, float]:
    """The 95 % interval of a share (Wilson 1927)."""
    share, spread = (
        right / count,
        z * math.sqrt(right / count * (1 - right / count) / count + z * z / (4 * count * count)),
    )
    middle, scale = share + z * z / (2 * count), 1 + z * z / count
    return (middle - spread) / scale, (middle + spread) / scale


def judged(real: Real, truth: np.ndarray | None, reference: list[Any], tested: list[Any]) -> dict[str, Any]:
    """The independent judge's figures."""
    same = [real.same(a, b) for a, b in zip(reference, tested)]
    low, high = wilson(sum(same), len(same))
    found: dict[str, Any] = {"unchanged": round(sum(same) / len(same), 4), "interval": [round(low, 3), round(high, 3)]}
    if real.correct is not None and truth is not None:
        for key, outputs in (("metric", tested), ("float", reference)):
            found[key] = round(float(np.mean([real.correct(one, label) for one, label in zip(outputs, truth)])), 4)
    return found


def true(found: dict[str, Any], count: int) -> bool | None:
    """Whether qtool's word is what the independent score says; None where one answer decides; see the module."""
    lost = found["float"] - found["metric"] if found["by_labels"] else 1 - found["unchanged"]
    limit = found["budget"] if found["by_labels"] else LOST
    within, word = lost <= limit + 1e-9, found["verdict"]
    few = count < 3 / limit - 1e-6
    nearly = lost * count <= max(limit * count, 1 if few else 0) + 1e-6
    right = {"usable": within and not few, "doubtful": nearly, "missed": not within, "broken": not within}.get(
        word, False
    )
    return True if right else None if abs(lost - limit) * count <= 1 else False


def qtool(recipe: Path, out: Path) -> dict[str, Any]:
    """A run in a process of its own: its verdict, first line and share of work that is asked for in INT8."""
    command = [sys.executable, "-m", "toolkit.cli.main", "run", str(recipe), "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if not (out / "report.json").exists():
        raise RuntimeError(done.stderr.strip()[-400:])
    report = json.loads((out / "report.json").read_text())
    summary, accuracy = report["summary"], report["accuracy"]
    return {
        "exit": done.returncode, "verdict": summary["verdict"], "headline": summary["headline"],
        "int8": summary["asked_share"], "task": accuracy["task"]["name"], "by_labels": accuracy["metric"] is not None,
        "budget": accuracy["budget"],
    }  # fmt: skip


def plain_recipe(folder: Path, test: Path, data: dict[str, np.ndarray], scratch: Path) -> Path:
    """insert_qdq and nothing else, one profile of the samples' own shape."""
    session = ort.InferenceSession(str(folder / "model.onnx"), providers=["CPUExecutionProvider"])
    shapes = []
    for one in session.get_inputs():
        shape = [1, *data[one.name].shape[1:]]
        shapes.append(f"shapes.{json.dumps(one.name)} = {{ min = {shape}, opt = {shape}, max = {shape} }}")
    recipe = scratch / "plain.toml"
    text = PLAIN.format(model=folder / "model.onnx", shapes="\n".join(shapes), folder=folder, test=test)
    recipe.write_text(text)
    return recipe


def new_recipe(folder: Path, test: Path, scratch: Path) -> Path:
    """What ``qtool new`` writes, with backend none."""
    recipe = scratch / "new.toml"
    command = [sys.executable, "-m", "toolkit.cli.main", "new", str(folder / "model.onnx"), "--data",
               str(folder / "calibration.npz"), "--test", str(test), "--out", str(recipe)]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr)
    recipe.write_text(re.sub(r'backend = "\w+"', 'backend = "none"', recipe.read_text()))
    return recipe


def onnxruntime_static(folder: Path, made: Path) -> dict[str, Any]:
    """onnxruntime's own quantizer: pairs, minimum and maximum, symmetric, weights per channel."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            data = dict(np.load(folder / "calibration.npz"))
            count = len(next(iter(data.values())))
            self.rows = iter([{n: v[i : i + 1] for n, v in data.items()} for i in range(count)])

        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(self.rows, None)

    source, file, ready = onnx.load(folder / "model.onnx"), made.with_name("source.onnx"), made.with_name("ready.onnx")
    if source.opset_import[0].version < 13:
        # scales per channel, which it writes whatever the opset
        source = onnx.version_converter.convert_version(source, 13)
    # given a model in memory it refuses the weights that it wrote beside it itself (1.32)
    onnx.save(source, file)
    quant_pre_process(str(file), str(ready), skip_symbolic_shape=True)

    def quantize(per_channel: bool) -> None:
        quantize_static(
            str(ready), str(made), Reader(), quant_format=QuantFormat.QDQ, per_channel=per_channel,
            activation_type=QuantType.QInt8, weight_type=QuantType.QInt8,
            extra_options={"ActivationSymmetric": True, "WeightSymmetric": True},
        )  # fmt: skip

    try:
        quantize(per_channel=True)
    except ValueError as error:
        # it takes every bias for one of one dimension: that of a Gemm may be [1, C], and then it fails (1.32)
        quantize(per_channel=False)
        return {"note": f"weights per tensor; per channel: {error}"}
    return {}


def modelopt(folder: Path, made: Path) -> dict[str, Any]:
    """nvidia-modelopt with its own settings for INT8."""
    inputs = [str(folder / "model.onnx"), str(folder / "calibration.npz"), str(made)]
    done = subprocess.run(
        [os.environ["MODELOPT"], "-c", MODELOPT, *inputs], capture_output=True, text=True, check=False
    )
    if not made.exists():
        raise RuntimeError(done.stderr.strip()[-400:])
    return {}


def int8_share(path: Path, data: dict[str, np.ndarray]) -> float | None:
    """The share of multiply-accumulates whose operands come from DequantizeLinear; None where they are not known."""
    model = Model.load(path)
    shapes = {one.name: (1, *data[one.name].shape[1:]) for one in model.graph.inputs}
    one = ShapeProfile("one", {name: Extent(shape, shape, shape) for name, shape in shapes.items()})
    work = work_of(model, facts_at_opt(model, Profiles((one,))))
    if work.of != "macs":
        return None
    return work.share(
        node.name for node, _ in model.walk()
        if len(node.inputs) > 1 and all(one.inputs and one.inputs[0].op == "DequantizeLinear" for one in node.inputs[:2])
    )  # fmt: skip


def measure(name: str, row: str, root: Path, samples: int) -> dict[str, Any]:
    """One row of the table; ``failed`` says why there is none."""
    real, folder, found = MODELS[name], root / name, {"model": name, "row": row}
    data = {key: values[:samples] for key, values in np.load(folder / "test.npz").items()}
    truth = np.load(folder / "truth.npz")["label"][:samples] if (folder / "truth.npz").exists() else None
    started = time.time()
    with tempfile.TemporaryDirectory() as place:
        scratch = Path(place)
        test, made = scratch / "test.npz", scratch / f"{row}.onnx"
        np.savez(test, **data)  # type: ignore[arg-type]
        try:
            if row in ("plain", "new"):
                plain = row == "plain"
                recipe = plain_recipe(folder, test, data, scratch) if plain else new_recipe(folder, test, scratch)
                found |= qtool(recipe, scratch / row)
                made = scratch / row / "model.onnx"
            else:
                found |= onnxruntime_static(folder, made) if row == "onnxruntime" else modelopt(folder, made)
                found["int8"] = int8_share(made, data)
            found["seconds"] = round(time.time() - started)
            found |= judged(real, truth, float_answers(folder, samples), answers(made, data))
            found["samples"] = len(next(iter(data.values())))
            if "verdict" in found:
                found["true"] = true(found, found["samples"])
        except Exception as error:
            found["failed"] = f"{type(error).__name__}: {error}"[:400]
    return found


def table(rows: list[dict[str, Any]]) -> str:
    """All rows in Markdown."""
    lines = ["| model | row | float | metric | unchanged | INT8 | s | verdict | true |", "| --- " * 9 + "|"]
    for row in rows:
        shown = [row["model"], row["row"]]
        shown += [
            f"{row[key]:.1%}" if row.get(key) is not None else "" for key in ("float", "metric", "unchanged", "int8")
        ]
        shown += [str(row.get("seconds", "")), row.get("verdict") or row.get("failed") or row.get("note", "")]
        word = {True: "yes", False: "NO", None: "1 answer"}[row["true"]] if "true" in row else ""
        lines.append(f"| {' | '.join([*shown, word])} |")
    return "\n".join(lines)


def main() -> None:
    """Print a line a row, and keep all in FOLDER/bench_real.json, over those of the same name."""
    options = argparse.ArgumentParser()
    options.add_argument("folder", type=Path)
    options.add_argument("models", nargs="*", default=list(MODELS))
    options.add_argument("--samples", type=int, default=ENOUGH)
    options.add_argument("--rows", default=",".join(ROWS))
    options.add_argument("--table", action="store_true")
    given = options.parse_args()
    kept = given.folder / "bench_real.json"
    rows = json.loads(kept.read_text()) if kept.exists() else []
    wanted = [] if given.table else [(name, row) for name in given.models for row in given.rows.split(",")]
    for name, row in wanted:
        if row == "modelopt" and "MODELOPT" not in os.environ:
            continue
        found = measure(name, row, given.folder, given.samples)
        rows = [one for one in rows if (one["model"], one["row"]) != (name, row)] + [found]
        print(json.dumps(found), flush=True)
        kept.write_text(json.dumps(rows, indent=1))
    order = list(MODELS)
    print(table(sorted(rows, key=lambda one: (order.index(one["model"]), ROWS.index(one["row"])))))


if __name__ == "__main__":
    main()
