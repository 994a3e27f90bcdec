"""Export of a trained torch module to ONNX, in a form close to what exporters give in practice."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort  # type: ignore[import-untyped]
import torch
from torch import Tensor, nn

OPSET = 17


class Add(nn.Module):
    """Sum of two tensors of one shape, as a module so that its node gets a name of its own."""

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        """Return ``left + right``."""
        return left + right


class MatMul(nn.Module):
    """Product of two computed matrices, as a module so that its node gets a name of its own."""

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        """Return ``left @ right``; [..., M, K] times [..., K, N] gives [..., M, N]."""
        return torch.matmul(left, right)


def make_deterministic(seed: int) -> None:
    """Seed torch and allow only deterministic kernels on one thread.

    One thread, because the order of a sum, and with it the last bits of every weight, depends on the thread count.
    """
    torch.manual_seed(seed)
    torch.use_deterministic_algorithms(True)
    torch.set_num_threads(1)


def count_parameters(model: nn.Module) -> int:
    """Return how many trainable numbers ``model`` holds."""
    return sum(parameter.numel() for parameter in model.parameters())


def export(model: nn.Module, example: Tensor, path: Path, dynamic_axes: Mapping[str, Mapping[int, str]]) -> None:
    """Write ``model`` in evaluation mode to ``path``, with the input ``image`` and the output ``logits``.

    ``example`` is one input of the float32 shape that the module takes; the axes named in ``dynamic_axes`` stay free.
    """
    model.eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        # Torch warns about PRESERVE with constant folding; check_model and the comparison in the scripts cover that.
        warnings.filterwarnings("ignore", "It is recommended that constant folding be turned off", UserWarning)
        torch.onnx.export(
            model,
            (example,),
            str(path),
            # The TorchScript exporter names nodes after the modules, and PRESERVE keeps it from folding
            # BatchNormalization into the convolution before it.
            dynamo=False,
            training=torch.onnx.TrainingMode.PRESERVE,
            opset_version=OPSET,
            input_names=["image"],
            output_names=["logits"],
            dynamic_axes=dynamic_axes,
        )
    exported = onnx.load(str(path))
    _copy_shared_weights(exported.graph)
    _tidy_names(exported.graph)
    onnx.checker.check_model(exported, full_check=True)
    onnx.save(exported, str(path))


def run_onnx(session: ort.InferenceSession, image: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Run the model of ``session`` on ``image`` and return its logits, float32."""
    (logits,) = session.run(["logits"], {"image": image})
    return np.asarray(logits, dtype=np.float32)


def open_session(path: Path) -> ort.InferenceSession:
    """Open the ONNX file at ``path`` on the CPU with one thread."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def _copy_shared_weights(graph: onnx.GraphProto) -> None:
    """Replace each Identity that reads a weight by a copy of the weight.

    The exporter stores bit-equal weights once, such as the biases of two normalizations that are only ever summed.
    """
    weights = {initializer.name: initializer for initializer in graph.initializer}
    shared = [node for node in graph.node if node.op_type == "Identity" and node.input[0] in weights]
    for node in shared:
        copy = graph.initializer.add()
        copy.CopyFrom(weights[node.input[0]])
        copy.name = node.output[0]
        graph.node.remove(node)


def _tidy_names(graph: onnx.GraphProto) -> None:
    """Turn ``/encoder.0/...`` into ``/encoder/0/...`` and name each folded weight after the node that reads it."""
    names: dict[str, str] = {}
    for initializer in graph.initializer:
        if initializer.name.startswith("onnx::"):
            reader = next(node for node in graph.node if initializer.name in node.input)
            names[initializer.name] = _slashes(reader.name).strip("/").replace("/", ".") + ".weight"
            initializer.name = names[initializer.name]
    for node in graph.node:
        node.name = _slashes(node.name)
        node.doc_string = ""
        node.input[:] = [names.get(name, _slashes(name)) for name in node.input]
        node.output[:] = [_slashes(name) for name in node.output]
    for value in graph.value_info:
        value.name = _slashes(value.name)


def _slashes(name: str) -> str:
    """Return ``name`` with ``encoder.0`` written ``encoder/0``; weights are not named by a path and keep their names."""
    return re.sub(r"\.(\d+)(?=/)", r"/\1", name) if name.startswith("/") else name
