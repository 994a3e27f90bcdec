"""Selecting ranges read from a file for a model and a type."""

from __future__ import annotations

from collections.abc import Collection

from toolkit.base.errors import RangesError
from toolkit.base.precision import Precision
from toolkit.contract.findings import Code, Finding
from toolkit.contract.ranges import LARGEST, SMALLEST, Range, Ranges


def given_ranges(
    given: Ranges, tensors: Collection[str], dtype: Precision | None = None
) -> tuple[dict[str, Range], list[Finding]]:
    """The ranges of the model's tensors, each with the method and type in the file.

    Args:
        given: the content of a file.
        tensors: names of the model's tensors.
        dtype: leave out ranges that are not for this type, if calibration provides others; None keeps all.

    Returns:
        The ranges, and findings about those that are not used.

    Raises:
        RangesError: one is above 0 and below ``SMALLEST``.
    """
    mine = {name: one for name, one in given.tensors.items() if name in tensors}
    tiny = next((name for name, one in mine.items() if 0 < one.amax < SMALLEST), None)
    if tiny is not None:
        raise RangesError(
            f"the range given for tensor '{tiny}' is {mine[tiny].amax:g}",
            remedy=f"a range is 0 or between {SMALLEST:g} and {LARGEST:.2g}: write the file again, or leave it out",
            value="ranges",
        )
    said = []
    strange = [name for name in given.tensors if name not in tensors]
    if strange:
        said.append(Code.RANGES_OF_NO_TENSOR(tensors=strange, of=len(given.tensors)))
    without = [name for name in given.made_from.get("without", ()) if name in tensors]
    if without:
        said.append(Code.CACHE_WITHOUT_RANGE(tensors=without))
    if dtype is None:
        return mine, said
    odd = [name for name, one in mine.items() if not one.holds_for(dtype)]
    if odd:
        said.append(Code.RANGES_OF_OTHER_TYPE(tensors=odd, has=mine[odd[0]].dtype, wanted=str(dtype)))
    return {name: one for name, one in mine.items() if one.holds_for(dtype)}, said
