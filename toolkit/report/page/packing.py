"""Delta encoding of a page's data, column by column, which compresses better than the values.

data.js decodes it. Names and sentences of a large network repeat with different numbers in them, beyond the 32 KB
window of zlib.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from itertools import chain
from operator import sub

import numpy as np

_NUMBER = re.compile("(?<![0-9])(0|[1-9][0-9]{0,8})(?![0-9])")
"""A number that Python and JavaScript write back unchanged: no leading zero, and exact in a float64."""


def packed_texts(texts: Iterable[str]) -> tuple[list[tuple[str, ...]], list[int], list[list[int]]]:
    """Encode texts by form, the text around their numbers.

    Returns:
        The forms, each as the pieces around its numbers; the form of every text, encoded by ``first_seen``; and by form
        the numbers in its texts, row by row, each minus its counterpart in the form's previous text.
    """
    forms: dict[tuple[str, ...], int] = {}
    numbers: list[list[int]] = []
    which = []
    for text in texts:
        pieces = _NUMBER.split(text)
        form = forms.setdefault(tuple(pieces[::2]), len(forms))
        if form == len(numbers):
            numbers.append([])
        numbers[form] += map(int, pieces[1::2])
        which.append(form)
    # a text has one number fewer than its form has pieces
    shifted = ([0] * (len(form) - 1) + own for form, own in zip(forms, numbers))
    return list(forms), first_seen(which), [list(map(sub, own, before)) for own, before in zip(numbers, shifted)]


def steps(numbers: Iterable[int]) -> list[int]:
    """The differences of consecutive numbers, beginning with the first itself: short for rising numbers."""
    given = list(numbers)
    return list(map(sub, given, chain((0,), given)))


def first_seen(numbers: Iterable[int]) -> list[int]:
    """Numbers given in the order of first use, at least 0: 0 for the one after the largest so far, others plus 1."""
    given = np.fromiter(numbers, np.int64)
    largest = np.maximum.accumulate(np.concatenate(([-1], given)))[:-1]
    found: list[int] = np.where(given == largest + 1, 0, given + 1).tolist()
    return found
