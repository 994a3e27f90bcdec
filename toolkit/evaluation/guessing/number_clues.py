"""Clues to the task of an output of integers: a class, labels of positions, or numbers in codebooks."""

from __future__ import annotations

import math

from toolkit.evaluation.guessing.clue import Clue
from toolkit.evaluation.guessing.value_clues import are_codes, has_many_levels, no_classes
from toolkit.evaluation.observation.observed import SeenOutput

_CODES = frozenset({"code", "codes", "codebook", "codebooks"})
_IDS, _PLACES = frozenset({"id", "ids", "label", "labels", "token", "tokens"}), frozenset({"idx", "index", "indices"})
"""Words for numbers that are read as a list, such as the best 20 items for each of four queries; the latter
also for the nearest entries of codebooks."""
_CODED = (Clue("generation", "values", 1.5, "codes"), Clue("generation", "shape", 1.0, "fits"))
"""Numbers in codebooks, as of an audio codec or an image tokenizer: each of them is an answer of its own."""


def numbers(output: SeenOutput) -> list[Clue]:
    """Clues from integers with at most one axis: a class per sample, or a label or code per position."""
    if no_classes(output):
        return []
    if math.prod(output.shape) <= 1:
        return [Clue("classification", "values", 2.0, "integers"), Clue("classification", "shape", 1.0, "fits")]
    if len(output.shape) != 1:
        return []
    if output.words & _CODES and has_many_levels(output):
        # the few characters of a postal code are one answer
        return [*_CODED, Clue("generation", "name", 1.0, sorted(output.words & _CODES)[0])]
    return [Clue("sequence", "values", 1.0, "integers"), Clue("sequence", "shape", 1.0, "fits")]


def rows_of_numbers(output: SeenOutput, picture: bool) -> list[Clue]:
    """Clues from integers with two axes; ``picture``: whether these are those of an input image."""
    if no_classes(output):
        return []
    if are_codes(output, picture) and (output.words & _CODES or not _listed(output)):
        return list(_CODED)
    task, what = ("segmentation", "picture") if picture else ("sequence", "fits")
    return [Clue(task, "values", 1.0, "integers"), Clue(task, "shape", 1.0, what)]


def _listed(output: SeenOutput) -> bool:
    """Whether name and operator say that integers are a list of ids; ArgMin finds the nearest entry of a codebook."""
    if "TopK" in output.ops:
        return True
    words = _IDS if "ArgMax" in output.ops else _IDS | _PLACES
    return bool(output.words & words) and "ArgMin" not in output.ops
