"""Benchmark networks whose random weights are made again from seeds, so that they travel in kilobytes.

On the development machine, with torch and torchvision; the second command with nvidia-modelopt 0.47:
    python -m tests.benchmarks.carry make .gpu/models
    python -m tests.benchmarks.carry modelopt .gpu/models
    python -m tests.benchmarks.carry thin .gpu/models .gpu/carried
On the GPU host: python3.10 -m tests.benchmarks.carry fill .gpu/carried /tmp/models
"""

from __future__ import annotations

import hashlib
import json
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

NAMES = ("resnet18", "resnet50", "mobilenet_v2", "unet", "bert", "detector", "vit_s")
SIZES = {"resnet18": 224, "resnet50": 224, "mobilenet_v2": 224, "unet": 256, "detector": 256, "vit_s": 224}
_LARGE = 4096


def pictures(count: int, size: int) -> np.ndarray[Any, Any]:
    """Smooth random images, float32, shape [count, 3, size, size]."""
    rng = np.random.default_rng(0)
    coarse = rng.standard_normal((count, 3, size // 16, size // 16)).astype(np.float32)
    smooth = coarse.repeat(16, 2).repeat(16, 3)
    return np.clip(0.7 * smooth + 0.3 * rng.standard_normal(smooth.shape).astype(np.float32), -2, 2)


def inputs_of(name: str, count: int) -> dict[str, np.ndarray[Any, Any]]:
    """Calibration inputs of a network, samples along the first axis."""
    if name in SIZES:
        return {"image": pictures(count, SIZES[name])}
    rng = np.random.default_rng(0)
    return {"ids": rng.integers(0, 30522, (count, 128)), "mask": np.ones((count, 128), np.int64)}


def _values(recipe: dict[str, Any], shape: tuple[int, ...]) -> np.ndarray[Any, Any]:
    rng = np.random.default_rng(recipe["seed"])
    if "std" not in recipe:
        return np.clip(np.rint(rng.standard_normal(shape, dtype=np.float32) * 40), -127, 127).astype(np.int8)
    std = np.asarray(recipe["std"], np.float32).reshape(-1, *[1] * (len(shape) - 1))
    return rng.standard_normal(shape, dtype=np.float32) * std


def _large(model: onnx.ModelProto) -> list[TensorProto]:
    kinds = (TensorProto.FLOAT, TensorProto.INT8)
    return [t for t in model.graph.initializer if t.data_type in kinds and np.prod(t.dims) > _LARGE]


def regenerable(path: Path) -> None:
    """Replace every large weight by random values of the same spread along its first axis, made from a seed."""
    model = onnx.load(str(path))
    for tensor in _large(model):
        old = numpy_helper.to_array(tensor)
        spread = old.reshape(len(old), -1).std(axis=1) if len(old) <= 4096 else np.array([old.std()])
        recipe = {"seed": zlib.crc32(tensor.name.encode()), "std": [round(float(s), 6) for s in spread]}
        tensor.CopyFrom(numpy_helper.from_array(_values(recipe, old.shape), tensor.name))
        tensor.doc_string = json.dumps(recipe)
    onnx.save(model, str(path))


def thin(source: Path, float_path: Path, target: Path) -> None:
    """Write a network without the bytes of its large weights."""
    known = {}
    for tensor in _large(onnx.load(str(float_path))):
        known[hashlib.sha256(numpy_helper.to_array(tensor).tobytes()).digest()] = tensor.doc_string
    model = onnx.load(str(source))
    for tensor in _large(model):
        values = numpy_helper.to_array(tensor)
        recipe = known.get(hashlib.sha256(values.tobytes()).digest(), "")
        if not recipe and tensor.data_type == TensorProto.INT8:
            recipe = json.dumps({"seed": zlib.crc32(tensor.name.encode())})
        if not recipe:
            print(f"{source.name}: '{tensor.name}' {list(tensor.dims)} has values of its own and travels whole")
            continue
        for field in ("raw_data", "float_data", "int32_data"):
            tensor.ClearField(field)
        tensor.doc_string = "carry:" + recipe
    onnx.save(model, str(target))


def fill(source: Path, target: Path) -> None:
    """Make the large weights again."""
    model = onnx.load(str(source))
    for tensor in model.graph.initializer:
        if tensor.doc_string.startswith("carry:"):
            values = _values(json.loads(tensor.doc_string[6:]), tuple(tensor.dims))
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    onnx.save(model, str(target))


def main() -> None:
    """Do what the first argument says."""
    action, folder = sys.argv[1], Path(sys.argv[2])
    folder.mkdir(parents=True, exist_ok=True)
    if action == "make":
        from tests.benchmarks.models import build

        for name in NAMES:
            if not (folder / f"{name}.onnx").exists():
                regenerable(build(name, folder / f"{name}.onnx"))
    elif action == "modelopt":
        from modelopt.onnx.quantization import quantize

        for name in [n for n in NAMES if not (folder / f"{n}_modelopt.onnx").exists()]:
            out = folder / f"{name}_modelopt.onnx"
            copy = folder / f"{name}_copy.onnx"  # it rewrites the file that it is given
            copy.write_bytes((folder / f"{name}.onnx").read_bytes())
            shapes = ",".join(
                f"{k}:{'x'.join(str(d) for d in (8, *v.shape[1:]))}" for k, v in inputs_of(name, 1).items()
            )
            quantize(
                str(copy), quantize_mode="int8", calibration_method="entropy", calibration_data=inputs_of(name, 32),
                calibration_shapes=shapes, calibration_eps=["cpu"], high_precision_dtype="fp32", output_path=str(out),
            )  # fmt: skip
            copy.unlink()
    else:
        other = Path(sys.argv[3])
        other.mkdir(parents=True, exist_ok=True)
        for path in sorted(folder.glob("*.onnx")):
            if action == "thin":
                thin(path, folder / f"{path.stem.removesuffix('_modelopt')}.onnx", other / path.name)
            else:
                fill(path, other / path.name)
        if action == "fill":
            for name in NAMES:
                np.savez(other / f"{name}.npz", **inputs_of(name, 64))


if __name__ == "__main__":
    main()
