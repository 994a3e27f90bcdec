"""What every quantized type makes of a transformer: sizes, errors and kernels, beside NVIDIA's ModelOpt.

``python -m tests.benchmarks.real_data FOLDER focus`` and ``TORCH-PYTHON -m tests.benchmarks.language_model FOLDER/decoder``
make the models; then ``python -m tests.benchmarks.bench_types FOLDER [focus|exported|operators ...]``. ``--rows fp8,int4``
leaves rows out, ``--samples N`` judges by so many test samples, ``--table`` prints what is known. With ``MODELOPT=PYTHON`` in
the environment, rows of nvidia-modelopt 0.47 in that interpreter stand beside qtool's.

All rows have float16 for the rest and the same calibration samples. One judge runs every file in onnxruntime without graph
optimizations against the float32 model: SQNR of the first output, share of its answers that stay (masks, or the next byte
of every position), the metric with labels (perplexity). «Engine» is TensorRT-RTX's for compute capability 8.9 (12.0 where
the type needs it), built without a GPU. Of its kernels that name ONNX nodes, «quantized» are those of layers with weights or
of attention whose operands are of the type, of all such (of INT4 none: weights are unpacked by the kernels); «apart» are
kernels that only quantize, dequantize or cast.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from toolkit import Model, Recipe, run
from toolkit.backends.backend import EngineSettings
from toolkit.backends.layers.program import kernels
from toolkit.backends.rtx import RtxBackend
from toolkit.base.block_operators import TENSORRT
from toolkit.base.profiles import Extent, Profiles, ShapeProfile
from toolkit.graph.sessions.session import session

MODELS = {"focus": "focus/model.onnx", "exported": "decoder/exported.onnx", "operators": "decoder/operators.onnx"}
BLOCK, CALIBRATION, BATCH = 64, 32, 8
_WEIGHTED = {"MatMul", "Gemm", "Conv", "ConvTranspose", "Attention"}
_BETWEEN = {"QuantizeLinear", "DequantizeLinear", "Cast"}
_OPERANDS = {"nvfp4": "fp4"}
"""What a program calls the operands of a type, where that is not its name."""


def rows() -> dict[str, list[dict[str, Any]]]:
    """The passes of each row of qtool's, after the folding ones."""
    int4 = {"dtype": "int4", "block": BLOCK}
    found: dict[str, list[dict[str, Any]]] = {
        "fp16": [],
        "int8": [{"use": "insert_qdq"}],
        "int8 best": [{"use": "smooth"}, {"use": "insert_qdq", "weights": "output"}, {"use": "compensate"}],
        "fp8": [{"use": "insert_qdq", "dtype": "fp8"}],
        "fp8 float attention": [{"use": "insert_qdq", "dtype": "fp8", "activation_matmul": False}],
        "int4": [{"use": "insert_qdq", **int4}],
        "int4 mse": [{"use": "insert_qdq", **int4, "weights": "mse"}],
        "int4 gptq": [{"use": "insert_qdq", **int4, "weights": "output"}],
        "int4 awq": [{"use": "smooth", **int4}, {"use": "insert_qdq", **int4}],
        "int4 awq gptq": [{"use": "smooth", **int4}, {"use": "insert_qdq", **int4, "weights": "output"}],
    }
    for dtype in ("nvfp4", "mxfp8"):
        found[dtype] = [{"use": "insert_qdq", "dtype": dtype}]
    return found | {"nvfp4 gptq": [{"use": "insert_qdq", "dtype": "nvfp4", "weights": "output"}]}


MODELOPT = {
    "modelopt int8": {"quantize_mode": "int8", "calibration_method": "entropy"},
    "modelopt int8 max": {"quantize_mode": "int8", "calibration_method": "max"},
    "modelopt fp8": {"quantize_mode": "fp8", "calibration_method": "max"},
    "modelopt int4": {"quantize_mode": "int4", "calibration_method": "rtn_dq", "block_size": BLOCK},
    "modelopt int4 awq": {"quantize_mode": "int4", "calibration_method": "awq_clip", "block_size": BLOCK},
    "modelopt int4 awq lite": {"quantize_mode": "int4", "calibration_method": "awq_lite", "block_size": BLOCK},
}
_CALL = """
import json, sys, numpy as np
from modelopt.onnx.quantization import quantize
data = dict(np.load(sys.argv[2]))
quantize(sys.argv[1], calibration_data=data, output_path=sys.argv[3], calibration_eps=["cpu"],
         high_precision_dtype="fp16", **json.loads(sys.argv[4]))
"""


class Subject:
    """One model with its samples.

    Args:
        name: see ``MODELS``.
        folder: where the models lie.
        samples: how many test samples judge.
    """

    def __init__(self, name: str, folder: Path, samples: int) -> None:
        self.name, self.path = name, folder / MODELS[name]
        self.inputs = [one.name for one in _session(self.path).get_inputs()]
        self.test = self._stored("test", samples)
        self.label = self.test.pop("label", None)
        self.calibration = self._stored("calibration", CALIBRATION)
        self.calibration.pop("label", None)

    def _stored(self, part: str, count: int) -> dict[str, np.ndarray]:
        with np.load(self.path.with_name(f"{part}.npz")) as stored:
            return {name: stored[name][:count] for name in stored.files}

    @property
    def profile(self) -> ShapeProfile:
        """Batches of 1 to 8 of the samples' shape."""
        shapes = {name: self.test[name].shape[1:] for name in self.inputs}
        return ShapeProfile(
            "one", {name: Extent((1, *shape), (BATCH, *shape), (BATCH, *shape)) for name, shape in shapes.items()}
        )

    def outputs(self, path: Path) -> list[np.ndarray]:
        """The first output of every sample, as the file says, and no optimizer."""
        if any(node.domain == TENSORRT for node, _ in Model.load(path).walk()):
            # TensorRT's own operators, as qtool writes them out for onnxruntime
            written = session(Model.load(path))
            return [
                row for feeds in self._feeds() for row in next(iter(written.run(feeds).values())).astype(np.float32)
            ]
        plain = _session(path)
        kinds = {one.name: one.type for one in plain.get_inputs()}
        found = []
        for feeds in self._feeds():
            feeds = {name: one.astype(np.float16) if "float16" in kinds[name] else one for name, one in feeds.items()}
            found += list(plain.run(None, feeds)[0].astype(np.float32))
        return found

    def _feeds(self) -> Iterator[dict[str, np.ndarray]]:
        for start in range(0, len(self.test[self.inputs[0]]), BATCH):
            yield {name: self.test[name][start : start + BATCH] for name in self.inputs}

    @cache  # noqa: B019
    def reference(self) -> list[np.ndarray]:
        """The float32 model's outputs."""
        return self.outputs(self.path)

    def judged(self, path: Path) -> dict[str, float]:
        """SQNR, share of answers that stay, and the metric where there are labels."""
        wanted, found = np.stack(self.reference()).astype(np.float64), np.stack(self.outputs(path)).astype(np.float64)
        noise = float(np.square(wanted - found).sum())
        said = {"db": 10 * math.log10(float(np.square(wanted).sum()) / noise) if noise else math.inf}
        if self.name == "focus":
            before, after = wanted > 0.5, found > 0.5
            said["same"] = float((before == after).mean())
            return said
        said["same"] = float((wanted.argmax(-1) == found.argmax(-1)).mean())
        if self.label is not None:
            said["metric"], said["float"] = (perplexity(one, self.label) for one in (found, wanted))
        return said


def perplexity(logits: np.ndarray, label: np.ndarray) -> float:
    """Of the labels of all positions."""
    top = logits.max(-1)
    total = top + np.log(np.exp(logits - top[..., None]).sum(-1))
    return float(np.exp((total - np.take_along_axis(logits, label[..., None], -1)[..., 0]).mean()))


def _session(path: Path) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def quantized_by_qtool(subject: Subject, row: str, folder: Path) -> Path:
    """The model of a row of qtool's."""
    data = folder / "calibration.npz"
    np.savez(data, **subject.calibration)  # type: ignore[arg-type]
    shapes = {
        name: {"min": list(one.min), "opt": list(one.opt), "max": list(one.max)}
        for name, one in subject.profile.shapes.items()
    }
    recipe = Recipe.build(
        "types",
        model={"path": str(subject.path)},
        profile=[{"name": "one", "shapes": shapes}],
        calibration={"data": str(data), "method": "minmax" if "8" in row and "int" not in row else "mse"},
        passes=[{"use": "fold_constants"}, {"use": "fold_batchnorm"}, *rows()[row]],
        engine={"backend": "none"},
        # the judge is the same for all rows: qtool's own looks at as little as it can
        evaluation={"samples": 1, "layer_samples": 1},
    )
    return run(recipe, folder / "run").folder / "model.onnx"


def quantized_by_modelopt(subject: Subject, row: str, folder: Path) -> Path:
    """The model of a row of ModelOpt's."""
    data, made = folder / "calibration.npz", folder / "made.onnx"
    np.savez(data, **subject.calibration)  # type: ignore[arg-type]
    source = folder / "source.onnx"
    # it writes into the folder of its input, and over it; and compiles a part of itself where it runs
    source.write_bytes(subject.path.read_bytes())
    command = [os.environ["MODELOPT"], "-c", _CALL, str(source), str(data), str(made), json.dumps(MODELOPT[row])]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder)
    if not made.exists():
        raise RuntimeError((done.stderr or done.stdout).strip()[-400:])
    return made


def engine_of(subject: Subject, path: Path, dtype: str) -> dict[str, Any]:
    """The engine's size, and what its kernels are."""
    model = Model.load(path)
    ops = {node.name: node.op for node, _ in model.walk()}
    capability = "12.0" if dtype in ("nvfp4", "mxfp8") else "8.9"
    settings = EngineSettings(compute_capabilities=[capability])
    build = RtxBackend().build(path, Profiles((subject.profile,)), settings)
    assert build.engine is not None
    heavy, quantized, apart = 0, 0, 0
    for kernel in kernels(build.engine):
        held = {ops.get(node, "") for node in kernel.nodes}
        if held & _WEIGHTED:
            heavy += 1
            quantized += set(kernel.operands[:2]) == {_OPERANDS.get(dtype, dtype)}
        elif held and held <= _BETWEEN:
            apart += 1
    return {"engine": len(build.engine), "kernels": heavy, "quantized": quantized, "apart": apart,
            "pairs": sum(op == "DequantizeLinear" for op in ops.values())}  # fmt: skip


def measure(subject: Subject, row: str) -> dict[str, Any]:
    """One row; ``failed`` says why there is none."""
    found: dict[str, Any] = {"model": subject.name, "row": row, "samples": len(subject.test[subject.inputs[0]])}
    dtype = next((one for one in ("nvfp4", "mxfp8", "int8", "int4", "fp8") if one in row), "fp16")
    started = time.time()
    with tempfile.TemporaryDirectory() as place:
        try:
            make = quantized_by_modelopt if row in MODELOPT else quantized_by_qtool
            path = make(subject, row, Path(place))
            found |= {"seconds": round(time.time() - started), "size": _size(path)}
            found |= subject.judged(path)
            found |= engine_of(subject, path, dtype)
        except Exception as error:
            found["failed"] = f"{type(error).__name__}: {error}"[:300]
    return found


def _size(path: Path) -> int:
    return sum(one.stat().st_size for one in path.parent.glob(f"{path.name}*"))


def table(found: list[dict[str, Any]]) -> Iterator[str]:
    """All rows in Markdown."""
    yield "| model | row | ONNX, MB | SQNR, dB | unchanged | perplexity | engine, MB | kernels quantized | apart | s |"
    yield "| --- " * 10 + "|"
    for one in found:
        shown = [one["model"], one["row"], _megabytes(one.get("size")), _number(one.get("db"), ".1f"),
                 _number(one.get("same"), ".2%"), _number(one.get("metric"), ".3f"), _megabytes(one.get("engine")),
                 f"{one['quantized']} of {one['kernels']}" if "kernels" in one else one.get("failed", ""),
                 str(one.get("apart", "")), str(one.get("seconds", ""))]  # fmt: skip
        yield f"| {' | '.join(shown)} |"


def _megabytes(size: int | None) -> str:
    return f"{size / 1e6:.1f}" if size is not None else ""


def _number(value: float | None, form: str) -> str:
    return format(value, form) if value is not None else ""


def main() -> None:
    """Print a line a row, and keep all in FOLDER/bench_types.json, over those of the same name."""
    options = argparse.ArgumentParser()
    options.add_argument("folder", type=Path)
    options.add_argument("models", nargs="*", default=list(MODELS))
    options.add_argument("--samples", type=int, default=48)
    options.add_argument("--rows", default=",".join((*rows(), *MODELOPT)))
    options.add_argument("--table", action="store_true")
    given = options.parse_args()
    kept = given.folder / "bench_types.json"
    known = json.loads(kept.read_text()) if kept.exists() else []
    for name in () if given.table else given.models:
        subject = Subject(name, given.folder, given.samples)
        for row in given.rows.split(","):
            if row in MODELOPT and "MODELOPT" not in os.environ:
                continue
            found = measure(subject, row)
            known = [one for one in known if (one["model"], one["row"]) != (name, row)] + [found]
            print(json.dumps(found), file=sys.stderr, flush=True)
            kept.write_text(json.dumps(known, indent=1))
    order = [*rows(), *MODELOPT]
    print("\n".join(table(sorted(known, key=lambda one: (list(MODELS).index(one["model"]), order.index(one["row"]))))))


if __name__ == "__main__":
    main()
