"""Columns of a page's data written by what changes from row to row, which compresses where the values hardly do.

data.js reads them back. Names and sentences of a large network repeat with other numbers in them, beyond the 32 KB that
zlib looks back.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from itertools import chain
from operator import sub

import numpy as np

_NUMBER = re.compile("(?<![0-9])(0|[1-9][0-9]{0,8})(?![0-9])")
"""A number that both languages write as it was: no leading zero, and exact in a float64."""


def packed_texts(texts: Iterable[str]) -> tuple[list[tuple[str, ...]], list[int], list[list[int]]]:
    """Texts by their form, which is what stands between the numbers in them.

    Returns:
        The forms, each as the pieces around its numbers; the form of every text, as ``first_seen`` writes it; and by
        form the numbers in its texts, row by row, each minus the one in its place in the form's previous text.
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
    # a text has a number between each two of its form's pieces
    shifted = ([0] * (len(form) - 1) + own for form, own in zip(forms, numbers))
    return list(forms), first_seen(which), [list(map(sub, own, before)) for own, before in zip(numbers, shifted)]


def steps(numbers: Iterable[int]) -> list[int]:
    """Each number minus the previous one, which is short where they rise."""
    given = list(numbers)
    return list(map(sub, given, chain((0,), given)))


def first_seen(numbers: Iterable[int]) -> list[int]:
    """Numbers given in the order of first use, at least 0: 0 for the one after the largest so far, others plus 1."""
    given = np.fromiter(numbers, np.int64)
    largest = np.maximum.accumulate(np.concatenate(([-1], given)))[:-1]
    found: list[int] = np.where(given == largest + 1, 0, given + 1).tolist()
    return found
