"""Judges by an engine's inner values whether they were computed with the rounding of the model's Q/DQ pairs.

The error at a tensor includes all upstream errors, so it says little about a single node. Here each tensor is computed
twice in onnxruntime, with and without the pairs, from the engine's own values of the tensors before it; the engine's
value is then closer to one or the other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from onnx import TensorProto, helper

from toolkit.base.types import Array
from toolkit.contract.findings import Finding
from toolkit.evaluation.codes import EvaluationCode
from toolkit.evaluation.numerics.difference import Difference
from toolkit.graph.model import Model
from toolkit.graph.proto.light import LightModel
from toolkit.graph.sessions.runnable import not_run
from toolkit.graph.sessions.session import session
from toolkit.placement.qdq import without_pairs

AS_QUANTIZED, AS_FLOAT, UNTOLD = "as quantized", "as float", "cannot be told apart"
CLEARLY_DB = 6.0
"""The least difference in SQNR to decide for a form: the error is half of the other's."""

_MOST_DB, _SAME_DB = 150.0, 100.0


class OpenedAccumulator:
    """Compares an engine's inner values with both forms, run by run.

    Args:
        source: the float model that the recipe started from.
        simulation: the float32 model with its pairs.
        tensors: names of the tensors that the engine returns; those that ``simulation`` does not compute are left out.

    Attributes:
        tensors: names of the compared tensors.
        lacking: names of the tensors that are left out.

    Raises:
        ModelError: onnxruntime refuses one of the models.
        BackendError: onnxruntime has not enough memory.
    """

    def __init__(self, source: Model, simulation: Model, tensors: Sequence[str]) -> None:
        made, original = _made(simulation) - not_run(simulation).tensors.keys(), _made(source)
        self.tensors = [name for name in tensors if name in made]
        self.lacking = [name for name in tensors if name not in made]
        self._known = [name for name in self.tensors if name in original]
        types = simulation.facts().types
        self._types = {
            name: helper.tensor_dtype_to_np_dtype(types.get(name) or TensorProto.FLOAT) for name in self.tensors
        }
        # four sessions take turns, so spinning threads of one would slow down the others
        if self.tensors:
            self._quantized = session(_fed(simulation, self.tensors), self.tensors)
            self._float = session(_fed(without_pairs(simulation), self.tensors), self.tensors)
        if self._known:
            self._source = session(source, self._known)
            self._simulation = session(simulation, self._known)
        # by tensor: engine and simulation compared with the float model, engine with either form, form with form
        self._found = {name: [Difference() for _ in range(5)] for name in self.tensors}
        self._compared: set[str] = set()

    def add(self, inputs: Mapping[str, Array], values: Mapping[str, Array]) -> None:
        """Add one run.

        Args:
            inputs: the engine's inputs.
            values: the engine's values of all ``tensors``, in any float type.
        """
        given = {_given(name): np.asarray(values[name]).astype(self._types[name]) for name in self.tensors}
        quantized = self._quantized.run({**inputs, **given})
        plain = self._float.run({**inputs, **given})
        source = self._source.run(inputs) if self._known else {}
        simulation = self._simulation.run(inputs) if self._known else {}
        for name in self.tensors:
            found = given[_given(name)]
            if found.shape != plain[name].shape:
                continue
            self._compared.add(name)
            engine, simulated, to_quantized, to_float, apart = self._found[name]
            if name in source and source[name].shape == found.shape:
                engine.add(source[name], found)
                simulated.add(source[name], simulation[name])
            to_quantized.add(quantized[name], found)
            to_float.add(plain[name], found)
            apart.add(plain[name], quantized[name])

    def result(self) -> dict[str, dict[str, Any]]:
        """The verdict by tensor, for tensors whose shapes agreed.

        Returns:
            ``verdict`` (as quantized, as float, cannot be told apart), ``why`` they cannot be told apart, ``engine``
            and ``simulated`` (sqnr_db and max_abs of the engine's and of the simulation's values compared with the
            float model; None if that has no such tensor), ``to_quantized_db`` and ``to_float_db`` (SQNR in dB of the
            engine's values relative to either form, 150 at most; None if NaN or infinity occurred).
        """
        return {name: self._result(name) for name in self.tensors if name in self._compared}

    def _result(self, name: str) -> dict[str, Any]:
        engine, simulated, to_quantized, to_float, apart = self._found[name]
        near, far = _level(to_quantized), _level(to_float)
        verdict = UNTOLD
        why: Finding | None = None
        if near is None or far is None:
            why = EvaluationCode.VALUES_NOT_COMPARABLE()
        elif (_level(apart) or 0.0) >= _SAME_DB:
            why = EvaluationCode.NO_PAIR_BETWEEN()
        elif abs(near - far) < CLEARLY_DB:
            why = EvaluationCode.NEITHER_FORM_NEARER(db=CLEARLY_DB)
        else:
            verdict = AS_QUANTIZED if near > far else AS_FLOAT
        return {
            "verdict": verdict,
            "why": why,
            "engine": _measured(engine) if name in self._known else None,
            "simulated": _measured(simulated) if name in self._known else None,
            "to_quantized_db": near,
            "to_float_db": far,
        }


def _made(model: Model) -> set[str]:
    return {tensor.name for node in model.nodes for tensor in node.outputs}


def _given(name: str) -> str:
    return f"{name} of the engine"


def _fed(model: Model, tensors: Sequence[str]) -> LightModel:
    """The model with ``tensors`` replaced by inputs for their readers, so that each is computed from given values."""
    prepared, types = model.to_light(), model.facts().types
    graph, names = prepared.proto.graph, set(tensors)
    for node in graph.node:
        for index, name in enumerate(node.input):
            if name in names:
                node.input[index] = _given(name)
    for name in tensors:
        kind = types.get(name) or TensorProto.FLOAT
        graph.input.append(helper.make_tensor_value_info(_given(name), kind, None))
    return prepared


def _level(difference: Difference) -> float | None:
    """SQNR in dB, 150 if nothing differs; None if the tensors are not comparable."""
    if difference.broken:
        return None
    return _MOST_DB if difference.noise == 0 else difference.sqnr_db


def _measured(difference: Difference) -> dict[str, float | None]:
    return {"sqnr_db": difference.sqnr_db, "max_abs": None if difference.broken else difference.max_abs}
