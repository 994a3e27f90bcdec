"""Rejects non-finite values in samples; NaN is accepted if the model handles missing values."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from toolkit.base.errors import DataError, QtoolError
from toolkit.base.profiles import Shape
from toolkit.base.text import count
from toolkit.base.types import Array
from toolkit.graph.model import Model
from toolkit.graph.sessions.session import own_session

_MISSING = frozenset({"IsNaN", "Imputer", "TreeEnsemble", "TreeEnsembleClassifier", "TreeEnsembleRegressor"})
"""Operators that handle missing values."""
_COMPARING = frozenset({"Equal", "Less", "LessOrEqual", "Greater", "GreaterOrEqual", "LabelEncoder"})
"""Operators that may choose a branch by an input's own value, as in decision trees exported as single operators."""
_MOVING = frozenset(
    {"Identity", "Cast", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Slice", "Split", "Gather",
     "Concat", "Expand", "Tile", "ArrayFeatureExtractor"}
)  # fmt: skip


class FiniteValues:
    """Refuses samples with non-finite values, except NaN in models that handle missing values.

    NaN stands for a missing value if the model replaces it, for example with IsNaN and Where or a tree's default
    branch: its outputs are then finite. Without an operator for this, finite outputs prove nothing: comparing a score
    with a threshold gives a number even if the score is NaN. Since a model may replace NaN in some columns only, it is
    run on every sample that has NaN at positions not seen before.

    Args:
        model: the model; if None, NaN is refused.
    """

    def __init__(self, model: Model | None = None) -> None:
        self._model = model
        self._asks: bool | None = None
        self._replaced: dict[tuple[str, Shape], Array] = {}

    def check(self, inputs: Mapping[str, Array], origin: str) -> None:
        """Check one sample.

        Args:
            inputs: the sample's inputs, with the model's dtypes and ranks.
            origin: where the sample comes from, for messages.

        Raises:
            DataError: a value is infinite, or NaN and the model returns NaN for it or has no float outputs.
        """
        faults = {name: fault for name, value in inputs.items() if (fault := _fault(value)) is not None}
        unknown = all(np.isnan(wide[~finite]).all() for wide, finite in faults.values())
        if not faults or (unknown and self._takes(inputs, {name: ~finite for name, (_, finite) in faults.items()})):
            return
        name, (wide, finite) = next(iter(faults.items()))
        at = np.unravel_index(int(np.argmin(finite)), wide.shape)
        number = int(finite.size - np.count_nonzero(finite))
        others = f"{count(number, 'value')} {'is' if number == 1 else 'are'} not finite"
        # if an additive mask causes this, all samples will have it
        masked = bool((wide[~finite] == -np.inf).all()) and number < finite.size
        lower = "; for a mask that is added to scores give -65504, the least of float16, in place of -inf"
        raise DataError(
            f"the value at {[int(i) for i in at]} is {wide[at]} ({others})",
            where=f"{origin}, input '{name}'",
            remedy=f"samples need finite values: repair or remove this one{lower if masked else ''}",
        )

    def _takes(self, inputs: Mapping[str, Array], missing: Mapping[str, Array]) -> bool:
        """Whether the model's float outputs for a sample contain no NaN; ``missing`` marks the NaN of each input."""
        if self._model is None:
            return False
        # rows of a batch are not distinguished
        places = {(name, where.shape[1:]): np.atleast_1d(where).any(axis=0) for name, where in missing.items()}
        if all(key in self._replaced and not (where & ~self._replaced[key]).any() for key, where in places.items()):
            return True
        if self._asks is None:
            self._asks = _asks_for_missing(self._model)
        if not self._asks:
            return False
        try:
            outputs = own_session(self._model).run(dict(inputs))
        except QtoolError:
            return False
        floats = [value for value in outputs.values() if value.dtype.kind == "f" and value.size]
        returned = bool(floats) and not any(np.isnan(value).any() for value in floats)
        for key, where in places.items() if returned else ():
            self._replaced[key] = np.asarray(where | self._replaced.get(key, np.False_))
        return returned


def _asks_for_missing(model: Model) -> bool:
    """Whether an operator handles missing values, or compares an input before anything is computed from it."""
    own = {tensor.name for tensor in model.graph.inputs}
    for node, _ in model.walk():
        read = any(tensor.name in own for tensor in node.inputs)
        if node.op in _MISSING or (read and node.op in _COMPARING):
            return True
        if read and node.op in _MOVING:
            own |= {tensor.name for tensor in node.outputs}
    return False


def _fault(value: Array) -> tuple[Array, Array] | None:
    """The values in a type that numpy can test, and a mask of the finite ones; None if all are finite."""
    if value.dtype.kind != "f" and value.dtype.name != "bfloat16":
        return None
    wide = value.astype(np.float32) if value.dtype.itemsize < 4 else value
    finite = np.isfinite(wide)
    return None if finite.all() else (wide, finite)
