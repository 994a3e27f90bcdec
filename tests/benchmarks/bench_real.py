"""Trained models: qtool's verdict beside what an independent judge says of the very model that qtool wrote.

``python -m tests.benchmarks.real_data FOLDER`` and then ``python -m tests.benchmarks.bench_real FOLDER [MODEL ...]``.
Rows: qtool with nothing but insert_qdq, qtool as ``new`` writes the recipe, onnxruntime's quantize_static (pairs, symmetric,
weights per channel), and with ``MODELOPT=PYTHON`` in the environment nvidia-modelopt 0.47 in that interpreter. «Unchanged» is
the share of test samples whose whole answer is the float model's. A verdict is true where «Usable» is said exactly where at
least 99 % of the answers are unchanged, within what the number of samples can tell (Wilson, 95 %).
"""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import onnxruntime as ort

from tests.benchmarks.real_data import MODELS, Real

BUDGET = 0.99
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
data = "{folder}/test.npz"
"""
MODELOPT = """
import sys, numpy as np
from modelopt.onnx.quantization import quantize
data = dict(np.load(sys.argv[2])); data.pop("label", None)
quantize(sys.argv[1], calibration_data=data, output_path=sys.argv[3], calibration_eps=["cpu"])
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


def wilson(right: int, count: int, z: float = 1.96) -> tuple[float, float]:
    """The 95 % interval of a share (Wilson 1927)."""
    share, spread = (
        right / count,
        z * math.sqrt(right / count * (1 - right / count) / count + z * z / (4 * count * count)),
    )
    middle, scale = share + z * z / (2 * count), 1 + z * z / count
    return (middle - spread) / scale, (middle + spread) / scale


def judged(real: Real, data: dict[str, np.ndarray], reference: list, tested: list) -> dict[str, object]:
    """The independent judge's figures."""
    same = [real.same(a, b) for a, b in zip(reference, tested)]
    low, high = wilson(sum(same), len(same))
    found: dict[str, object] = {
        "unchanged": round(sum(same) / len(same), 4),
        "interval": [round(low, 3), round(high, 3)],
    }
    if real.correct is not None:
        found["metric"] = float(np.mean([real.correct(o, int(label)) for o, label in zip(tested, data["label"])]))
        found["float"] = float(np.mean([real.correct(o, int(label)) for o, label in zip(reference, data["label"])]))
    return found


def qtool(recipe: Path, out: Path) -> dict[str, object]:
    """A run in a process of its own: its first line, its share of INT8 and its seconds."""
    started = time.time()
    command = [sys.executable, "-m", "toolkit.cli.main", "run", str(recipe), "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    found: dict[str, object] = {"exit": done.returncode, "seconds": round(time.time() - started)}
    if not (out / "report.json").exists():
        return found | {"headline": done.stderr.strip()[-400:]}
    summary = json.loads((out / "report.json").read_text())["summary"]
    return found | {"headline": summary["headline"], "int8": summary.get("asked_share")}


def plain_recipe(folder: Path, data: dict[str, np.ndarray], scratch: Path) -> Path:
    """insert_qdq and nothing else, one profile of the samples' own shape."""
    session = ort.InferenceSession(str(folder / "model.onnx"), providers=["CPUExecutionProvider"])
    shapes = []
    for one in session.get_inputs():
        shape = [1, *data[one.name].shape[1:]]
        shapes.append(f"shapes.{json.dumps(one.name)} = {{ min = {shape}, opt = {shape}, max = {shape} }}")
    recipe = scratch / "plain.toml"
    recipe.write_text(PLAIN.format(model=folder / "model.onnx", shapes="\n".join(shapes), folder=folder))
    return recipe


def new_recipe(folder: Path, scratch: Path) -> Path:
    """What ``qtool new`` writes, with backend none."""
    recipe = scratch / "new.toml"
    command = [sys.executable, "-m", "toolkit.cli.main", "new", str(folder / "model.onnx"), "--data",
               str(folder / "calibration.npz"), "--test", str(folder / "test.npz"), "--out", str(recipe)]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr)
    recipe.write_text(re.sub(r'backend = "\w+"', 'backend = "none"', recipe.read_text()))
    return recipe


def onnxruntime_static(folder: Path, scratch: Path) -> Path:
    """onnxruntime's own quantizer: pairs, minimum and maximum, symmetric, weights per channel."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            data = {n: v for n, v in np.load(folder / "calibration.npz").items() if n != "label"}
            count = len(next(iter(data.values())))
            self.rows = iter([{n: v[i : i + 1] for n, v in data.items()} for i in range(count)])

        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(self.rows, None)

    ready, made = scratch / "ready.onnx", scratch / "onnxruntime.onnx"
    quant_pre_process(str(folder / "model.onnx"), str(ready), skip_symbolic_shape=True)
    quantize_static(
        str(ready), str(made), Reader(), quant_format=QuantFormat.QDQ, per_channel=True, activation_type=QuantType.QInt8,
        weight_type=QuantType.QInt8, extra_options={"ActivationSymmetric": True, "WeightSymmetric": True},
    )  # fmt: skip
    return made


def main() -> None:
    """Print a line a row, and keep all in FOLDER/bench_real.json."""
    root = Path(sys.argv[1])
    rows: list[dict[str, object]] = []
    for name in sys.argv[2:] or MODELS:
        real, folder = MODELS[name], root / name
        data = dict(np.load(folder / "test.npz"))
        reference = answers(folder / "model.onnx", data)
        with tempfile.TemporaryDirectory() as place:
            scratch = Path(place)
            for row in ("plain", "new", "onnxruntime", "modelopt"):
                found: dict[str, object] = {"model": name, "row": row}
                try:
                    if row in ("plain", "new"):
                        recipe = plain_recipe(folder, data, scratch) if row == "plain" else new_recipe(folder, scratch)
                        found |= qtool(recipe, scratch / row)
                        made = scratch / row / "model.onnx"
                    elif row == "onnxruntime":
                        made = onnxruntime_static(folder, scratch)
                    elif "MODELOPT" in os.environ:
                        made = scratch / "modelopt.onnx"
                        inputs = [str(folder / "model.onnx"), str(folder / "calibration.npz"), str(made)]
                        subprocess.run(
                            [os.environ["MODELOPT"], "-c", MODELOPT, *inputs], check=True, capture_output=True
                        )
                    else:
                        continue
                    found |= judged(real, data, reference, answers(made, data))
                    if "headline" in found:
                        usable = str(found["headline"]).startswith("Usable")
                        low, high = found["interval"]  # type: ignore[misc]
                        # between the two ends the samples cannot tell, and either word is honest
                        found["true"] = usable == (found["unchanged"] >= BUDGET) or low < BUDGET < high  # type: ignore[operator]
                except Exception as error:
                    found["failed"] = f"{type(error).__name__}: {error}"[:400]
                rows.append(found)
                print(json.dumps(found), flush=True)
                (root / "bench_real.json").write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
