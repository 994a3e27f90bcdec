"""The parts of a new recipe that uses ranges from a file, so that no samples are needed."""

from __future__ import annotations

from pathlib import Path

from toolkit.base.errors import RangesError
from toolkit.calibration.interchange import read_ranges
from toolkit.contract.ranges import ANY_TYPE
from toolkit.contract.registry import pass_name
from toolkit.contract.roles import Role
from toolkit.graph.model import Model


def pass_lines(model: Model, path: Path) -> list[str]:
    """The passes that quantize with ranges from a file only, without a search, which would need samples.

    Raises:
        RangesError: the file has no ranges, or none for a tensor of the model.
    """
    given = read_ranges(path).tensors
    known = model.graph.tensors()
    if not known.keys() & given.keys():
        raise RangesError(
            "none of its ranges belongs to a tensor of the model, whose first is "
            f"'{next(iter(known), '')}'; the file's is '{next(iter(given), '')}'",
            where=str(path),
            remedy="give the ranges that were made for this model",
        )
    types = {one.dtype for name, one in given.items() if name in known and one.method.partition(":")[0] not in ANY_TYPE}
    return [
        "",
        "# Every tensor that has a range is quantized; a search for what accuracy allows needs samples.",
        "[[pass]]",
        f'use = "{pass_name(Role.QUANTIZE)}"',
        *(['dtype = "fp8"'] if types == {"fp8"} else []),
        "",
        "[[pass]]",
        f'use = "{pass_name(Role.GUARD)}"',
    ]


EVALUATION = [
    "# Accuracy is not measured without samples, and a budget applies only to what is measured.",
    "# data = \"test.npz\"                 # real inputs, with labels under 'label' for a metric",
]
"""The lines of the [evaluation] table if there are no samples at all."""
