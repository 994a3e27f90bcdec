"""Selecting ranges read from a file for a model and a type."""

from __future__ import annotations

from collections.abc import Collection

from toolkit.base.errors import RangesError, did_you_mean
from toolkit.base.precision import Precision
from toolkit.base.text import count
from toolkit.contract.findings import Code, Finding
from toolkit.contract.ranges import LARGEST, SMALLEST, Range, Ranges


def refuse_given(given: Ranges, tensors: Collection[str]) -> None:
    """Refuse ranges from a file that a model with these tensors cannot use.

    Raises:
        RangesError: none belongs to a tensor of the model, or one is above 0 and below ``SMALLEST``.
    """
    mine = [name for name in given.tensors if name in tensors]
    if given.tensors and not mine:
        first = min(given.tensors)
        raise RangesError(
            f"of {count(len(given.tensors), 'given range')}, such as that of '{first}', none belongs to a tensor of "
            "the model",
            remedy=did_you_mean(first, tensors) or "give ranges under the names of the model's tensors",
            value="ranges",
        )
    tiny = next((name for name in mine if 0 < given.tensors[name].amax < SMALLEST), None)
    if tiny is not None:
        raise RangesError(
            f"the range given for tensor '{tiny}' is {given.tensors[tiny].amax:g}",
            remedy=f"a range is 0 or between {SMALLEST:g} and {LARGEST:.2g}: write the file again, or leave it out",
            value="ranges",
        )


def unused_ranges(given: Ranges, tensors: Collection[str]) -> list[Finding]:
    """Findings about ranges of a file that belong to none of these tensors, and about tensors for which it has NaN."""
    said = list[Finding]()
    strange = [name for name in given.tensors if name not in tensors]
    if strange:
        said.append(Code.RANGES_OF_NO_TENSOR(tensors=strange, of=len(given.tensors)))
    without = [name for name in given.made_from.get("without", ()) if name in tensors]
    if without:
        said.append(Code.CACHE_WITHOUT_RANGE(tensors=without))
    return said


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
        RangesError: as ``refuse_given``.
    """
    refuse_given(given, tensors)
    mine = {name: one for name, one in given.tensors.items() if name in tensors}
    odd = [name for name, one in mine.items() if dtype is not None and not one.holds_for(dtype)]
    if not odd:
        return mine, []
    said = Code.RANGES_OF_OTHER_TYPE(tensors=odd, has=mine[odd[0]].dtype, wanted=str(dtype))
    return {name: one for name, one in mine.items() if name not in set(odd)}, [said]
