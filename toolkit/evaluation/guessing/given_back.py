"""Clues to an output that gives back an input, as an autoencoder's does: its largest value is no class."""

from __future__ import annotations

import numpy as np

from toolkit.evaluation.guessing.class_axes import class_axis
from toolkit.evaluation.guessing.clue import ANY, PAR, SHARES, Clue, of_values
from toolkit.evaluation.guessing.rivalry import may_be_rivals
from toolkit.evaluation.observation.observed import SeenModel, SeenOutput

_RELATED, _ALIKE, _SCALED = 0.5, 0.9, 0.9999
"""Least median correlation with an input of an output that may give it back, of one that does, and of one that only
scales or moves its values, as a calibration of class scores does, whatever they are. Class scores follow the feature at
their place only by chance, about as often with either sign."""
_AXES = 2
"""Most axes of a vector or of rows; of pictures other properties tell."""


def given_back(output: SeenOutput, seen: SeenModel) -> list[Clue]:
    """Clues that an output repeats the values of an input of its shape; see ``SeenOutput.repeats``."""
    if len(output.shape) > _AXES or seen.images or output.ops & SHARES or output.repeats < _RELATED:
        return []
    certain = _ALIKE <= output.repeats < _SCALED and not _may_be_chosen(output, seen)
    return [*of_values("given back", 2.5), ANY] if certain else of_values("given back", PAR)


def _may_be_chosen(output: SeenOutput, seen: SeenModel) -> bool:
    """Whether what is given back may be scores or choices, of which the largest counts, as in a calibrated classifier.

    These are rivals without an order, or 0 and 1 as the items that a recommender's user chose.
    """
    like = [one for one in seen.inputs.values() if one.shape == output.shape and one.dtype.kind == "f"]
    if any(bool(np.isin(one, (0, 1)).all()) for one in like):
        return True
    return may_be_rivals(output, class_axis(output) if len(output.shape) == _AXES else -1)
