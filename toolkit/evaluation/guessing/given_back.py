"""Clues to an output that gives back an input, as an autoencoder's does: its largest value is no class."""

from __future__ import annotations

from toolkit.evaluation.guessing.clue import ANY, SHARES, Clue, of_values
from toolkit.evaluation.observation.observed import SeenModel, SeenOutput

_ALIKE, _RELATED = 0.9, 0.5
"""Least median correlation with an input of an output that gives it back, and of one that may do so. Class scores
follow the feature at their place only by chance, about as often with either sign."""
_AXES = 2
"""Most axes of a vector or of rows; of pictures other properties tell."""


def given_back(output: SeenOutput, seen: SeenModel) -> list[Clue]:
    """Clues that an output repeats the values of an input of its shape; see ``SeenOutput.repeats``."""
    if len(output.shape) > _AXES or seen.images or output.ops & SHARES or output.repeats < _RELATED:
        return []
    return [*of_values("given back", 2.5), ANY] if output.repeats >= _ALIKE else of_values("given back", 1.5)
