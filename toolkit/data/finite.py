"""Values of samples that are not finite: NaN is taken where the model itself replaces it."""

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
"""Operators that are made for missing values."""
_COMPARING = frozenset({"Equal", "Less", "LessOrEqual", "Greater", "GreaterOrEqual", "LabelEncoder"})
"""Those of which an input's own value may choose a branch, as trees that are written out do."""
_MOVING = frozenset(
    {"Identity", "Cast", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Slice", "Split", "Gather",
     "Concat", "Expand", "Tile", "ArrayFeatureExtractor"}
)  # fmt: skip


class FiniteValues:
    """Refuses samples whose values are not finite.

    NaN stands for a missing value where the model replaces it, as IsNaN and Where do, or a tree's branch for it: then
    it returns numbers all the same. Without an operator for that, numbers show nothing: a score that is compared with a
    threshold is one whatever it was computed from. It may replace those of some columns only, so it is run for each
    sample with NaN where none was before.

    Args:
        model: the model; without it NaN is refused.
    """

    def __init__(self, model: Model | None = None) -> None:
        self._model = model
        self._asks: bool | None = None
        self._replaced: dict[tuple[str, Shape], Array] = {}

    def check(self, inputs: Mapping[str, Array], origin: str) -> None:
        """Check a sample.

        Args:
            inputs: its inputs, as the model takes them.
            origin: where it came from, in words.

        Raises:
            DataError: a value is infinite, or NaN and the model returns NaN for it, or no floats.
        """
        faults = {name: fault for name, value in inputs.items() if (fault := _fault(value)) is not None}
        unknown = all(np.isnan(wide[~finite]).all() for wide, finite in faults.values())
        if not faults or (unknown and self._takes(inputs, {name: ~finite for name, (_, finite) in faults.items()})):
            return
        name, (wide, finite) = next(iter(faults.items()))
        at = np.unravel_index(int(np.argmin(finite)), wide.shape)
        number = int(finite.size - np.count_nonzero(finite))
        others = f"{count(number, 'value')} {'is' if number == 1 else 'are'} not finite"
        # of many samples with a mask to add, all have it
        masked = bool((wide[~finite] == -np.inf).all()) and number < finite.size
        lower = "; for a mask that is added to scores give -65504, the least of float16, in place of -inf"
        raise DataError(
            f"the value at {[int(i) for i in at]} is {wide[at]} ({others})",
            where=f"{origin}, input '{name}'",
            remedy=f"samples need finite values: repair or remove this one{lower if masked else ''}",
        )

    def _takes(self, inputs: Mapping[str, Array], missing: Mapping[str, Array]) -> bool:
        """Whether the model returns floats for a sample, and no NaN among them; ``missing`` says where the NaN are."""
        if self._model is None:
            return False
        # of a batch all rows count as one
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
    """Whether an operator asks for missing values, or inputs are compared before anything is computed from them."""
    own = {tensor.name for tensor in model.graph.inputs}
    for node, _ in model.walk():
        read = any(tensor.name in own for tensor in node.inputs)
        if node.op in _MISSING or (read and node.op in _COMPARING):
            return True
        if read and node.op in _MOVING:
            own |= {tensor.name for tensor in node.outputs}
    return False


def _fault(value: Array) -> tuple[Array, Array] | None:
    """The values in a type that numpy compares, and which of them are finite; None where all are."""
    if value.dtype.kind != "f" and value.dtype.name != "bfloat16":
        return None
    wide = value.astype(np.float32) if value.dtype.itemsize < 4 else value
    finite = np.isfinite(wide)
    return None if finite.all() else (wide, finite)
