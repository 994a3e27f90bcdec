"""The roles of passes, so that the toolkit can find, recommend and explain them without knowing any by name."""

from __future__ import annotations

from enum import Enum


class Role(str, Enum):
    """What a pass is for. Several passes may have the same role."""

    FOLD = "fold"
    """Folds constants."""
    FOLD_NORMALIZATION = "fold-normalization"
    """Folds normalizations into the preceding layers, before these get Q/DQ pairs."""
    STRIP = "strip"
    """Removes Q/DQ pairs: the resulting model is float."""
    QUANTIZE = "quantize"
    """Inserts Q/DQ pairs as its settings specify."""
    SEARCH = "search"
    """Inserts the Q/DQ pairs that the accuracy budget allows."""
    KEEP = "keep"
    """Requests a float precision for chosen nodes; settings ``nodes`` and ``precision``."""
    GUARD = "guard"
    """Requests a wider float precision where float16 cannot represent the values."""
    HELP = "help"
    """Changes layers without Q/DQ pairs so that they lose less when quantized; ``mends`` says what it helps against."""


class Harm(str, Enum):
    """Why a layer loses accuracy when quantized, for causes that a pass can reduce."""

    OUTLIER_CHANNELS = "outlier-channels"
    """A few channels of an activation are much larger than the others."""
    UNEVEN_WEIGHTS = "uneven-weights"
    """The channels of a weight differ much in magnitude."""
    SHIFTED_MEAN = "shifted-mean"
    """Rounding the weights shifts the mean of the layer's output."""
    ONE_SIDED = "one-sided"
    """An activation lies mostly on one side of zero: a symmetric type has levels that are never used."""
