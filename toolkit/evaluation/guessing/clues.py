"""Rules that collect clues to one output's task from its shape, values and name, and the operators that produce it."""

from __future__ import annotations

from dataclasses import replace

from toolkit.evaluation.guessing.class_axes import blank_of, class_axis, usual_length
from toolkit.evaluation.guessing.clue import ANY, LINEAR, SHARES, Clue, computed_with, of_values, once_on_a_par
from toolkit.evaluation.guessing.given_back import given_back
from toolkit.evaluation.guessing.horizons import forecasts
from toolkit.evaluation.guessing.map_clues import is_picture, map_clues, pictures
from toolkit.evaluation.guessing.number_clues import numbers, rows_of_numbers
from toolkit.evaluation.guessing.rivalry import values_of_rows, values_of_vectors
from toolkit.evaluation.guessing.value_clues import (
    are_boxes,
    ends_a_span,
    is_code,
    is_squashed,
    never_sure,
    ordered,
    own_levels,
    unit_norm,
    unlike_scales,
)
from toolkit.evaluation.observation.observed import SeenModel, SeenOutput

_WORDS = {
    "classification": "prob probs probability class classes cls label labels logits logit score scores pred",
    "sequence": "tag tags logits logit label labels tokens ner pos",
    "ctc": "ctc",
    "generation": "lm next",
    "segmentation": "mask masks seg segmentation semantic",
    "embedding": "embed embeds embedding embeddings feature features feat pooler pooled pooling hidden sentence vector",
    "regression": "audio wav wave waveform pcm depth image sr flow enhanced denoised restored reconstruction "
    "forecast quantile quantiles landmark landmarks coords coordinates xyz translation rotation rot quaternion quat "
    "pose angle angles params coeffs offset offsets ppg bvp",
}
_NAMES = {task: frozenset(words.split()) for task, words in _WORDS.items()}
_POOLED = frozenset(
    {"LayerNormalization", "SkipLayerNormalization", "RMSNormalization", "ReduceMean", "LpNormalization", "Div", "Tanh",
     "ReduceSum", "GlobalAveragePool", "ReduceL2", "Mul"}
)  # fmt: skip
_NORMALIZED = frozenset({"LayerNormalization", "SkipLayerNormalization", "RMSNormalization", "LpNormalization"})
_RECURRENT = frozenset({"LSTM", "GRU", "RNN"})
_SPECTRA = frozenset({"mel", "mels", "melspec", "spectrogram", "spectrograms", "spectrum"})
_CHANCES = frozenset({"Sigmoid", "HardSigmoid"})
_SIGNALS = 16
"""Least extent of each axis of an input for which an output's equal shape is hardly a coincidence."""
_IMAGENET = frozenset({1000, 1001, 21841, 21843})
"""Numbers of classes of ImageNet-1k and ImageNet-21k models, which would otherwise count as widths of features."""
_BLANKS = 0.25
"""Least share of positions at which CTC's blank is the argmax; other first or last classes are rarely that frequent."""
_LASTING = 3.0
"""Usual number of positions in a row from which on classes are labels of frames beside a background, not a reading."""
_BOXES = frozenset({"box", "boxes", "bbox", "bboxes"})
_COLOURS = frozenset({"rgb", "rgba", "bgr"})
_FEW_CLASSES = 16
"""A constant argmax suggests values of different scales only in vectors shorter than this."""
_DIRECTION = 4
"""Largest width of a direction or a rotation of length 1 rather than an embedding: a quaternion's."""
_FEATURES = 64
"""From this width on, the output of a Tanh may be a feature vector, like that of BERT's pooler (768)."""
_FEWEST_TOKENS = 16
"""Least vocabulary size that identifies token scores. Smaller counts of labels may equal a table's size by coincidence:
2 segments, or the letters of a genome."""
_ALPHABET = 5
"""Fewest classes of a CTC output: the blank and the four letters of a genome."""


def names(output: SeenOutput, seen: SeenModel) -> list[Clue]:
    """Clues from the words of the output's name."""
    found = []
    # "next" means the next token only in a model that reads tokens
    called = output.words if seen.reads_tokens else output.words - {"next"}
    for task, words in _NAMES.items():
        if hit := sorted(called & words):
            found.append(Clue(task, "name", 1.0, hit[0]))
    return found


def vectors(output: SeenOutput, seen: SeenModel) -> list[Clue]:
    """Clues from a vector per sample: class scores, features, a signal, or a chance for each of its positions."""
    if output.discrete:
        return numbers(output)
    wide = [extent for extent in output.shape if extent > 1]
    single_row = len(output.shape) == 2 and output.shape[0] == 1 and bool(wide)
    if len(wide) > 1 or single_row or _value_per_position(output):
        return []
    if not wide:
        return _chances(output) or [Clue("regression", "shape", 2.0, "single"), ANY]
    if output.one_each and output.batch_axis == 1 and len(output.shape) == 1:
        # [positions, 1] of one sample; class scores of several choices are [samples, choices]
        return [Clue("regression", "shape", 2.0, "each"), ANY]
    axis = output.shape.index(wide[0]) - len(output.shape)
    if output.in_stretches(axis) and (chances := _chances(output)):
        return [replace(clue, task="segmentation") for clue in chances]
    return _decisive_values(output, seen, axis) or _scores_or_features(output, seen, axis)


def _decisive_values(output: SeenOutput, seen: SeenModel, axis: int) -> list[Clue]:
    """Clues from a vector's values if they alone decide its task; empty if it may hold scores or features."""
    if (kind := _other_values(output, axis)) is not None:
        return [*of_values(kind, 2.5), ANY]
    if ends_a_span(output, seen):
        return [Clue("classification", "values", 2.5, "span")]
    if is_code(output, axis):
        return [Clue("embedding", "values", 2.5, "code"), Clue("embedding", "shape", 1.0, "fits")]
    if output.shape[axis] < _FEATURES and is_squashed(output, axis):
        return [*of_values("squashed", 2.5), ANY]
    return []


def _scores_or_features(output: SeenOutput, seen: SeenModel, axis: int) -> list[Clue]:
    """Clues from a vector's values, its length, and the operators that produce it."""
    count = output.shape[axis]
    found = _scores(output, axis)
    if output.dynamic(axis):
        return [*found, Clue("regression", "shape", 2.5, "dynamic"), ANY]
    if not _may_be_classes(count) and not _called_scores_or_features(output) and output.has_bands(axis):
        # an embedding has no order of its features
        return [*found, *of_values("bands", 2.5), ANY]
    found += _width_of_vector(output, count, axis, valued=any(clue.kind == "values" for clue in found))
    found += _operators_of_vector(output, seen, count, features=any(clue.task == "embedding" for clue in found))
    if unit_norm(output, axis):
        # probabilities of a classifier that is sure have the length 1 too
        if count <= _DIRECTION and not output.in_unit:
            found += [*of_values("direction", 2.5), ANY]
        else:
            found.append(Clue("embedding", "values", 2.0, "normalized"))
    long = count in _signal_lengths(seen) and count not in _IMAGENET
    if long and (not output.fixed(axis) or output.has_bands(axis)):
        found += [Clue("regression", "shape", 2.5, "length", count), ANY]
    return found


def _scores(output: SeenOutput, axis: int) -> list[Clue]:
    """Clues from values that are class probabilities, and from the operators that produce them."""
    found = _shares(output, axis, "classification")
    if output.ops & SHARES:
        found.append(Clue("classification", "operator", 1.0, sorted(output.ops & SHARES)[0]))
    found += _chances(output)
    # a single such score is rather that of a classifier
    return [*found, *of_values("never sure", 2.5), ANY] if never_sure(output) else found


def _width_of_vector(output: SeenOutput, count: int, axis: int, valued: bool) -> list[Clue]:
    """Clues from a vector's length, ``count``; ``valued``: whether there are clues from the values already."""
    if not _may_be_classes(count):
        return [Clue("embedding", "shape", 1.0, "features", count)] if count % 32 == 0 else []
    found = [Clue("classification", "shape", 1.0, "classes", count)]
    if valued or output.ops & SHARES:
        return found
    if not output.in_unit and unlike_scales(output, axis):
        return [*found, *of_values("unlike scales", 2.5), ANY]
    if not _called_scores_or_features(output) and (clues := values_of_vectors(output, axis)):
        return [*found, *clues]
    if count < _FEW_CLASSES and output.one_largest(axis):
        # class scores rarely have the same argmax in all samples, but values of different scales do
        return [*found, *of_values("one largest", 1.5)]
    return [*found, *of_values("own levels", 1.5)] if count not in _IMAGENET and own_levels(output, axis) else found


def _operators_of_vector(output: SeenOutput, seen: SeenModel, count: int, features: bool) -> list[Clue]:
    """Clues from a vector's operators; ``features``: whether its length, ``count``, is a usual width of features."""
    if output.ops and output.ops <= _RECURRENT:
        return [_recurrent(output)]
    if output.ops & _POOLED and not output.ops & SHARES:
        # a head with few classes may be normalized too, so its output is judged as both
        return [_pooled(output, _POOLED, weight=1.0 if count in _IMAGENET or count < 64 else 2.0)]
    if not output.ops & LINEAR:
        return []
    found = [Clue("classification", "operator", 0.75, sorted(output.ops & LINEAR)[0])]
    if features:
        return found
    if computed_with(output, seen):
        return [*found, *of_values("computed with", 2.5)]
    return [*found, *of_values("beside shares", 2.5)] if _beside_shares(output, seen) else found


def _signal_lengths(seen: SeenModel) -> set[int]:
    """Extents of float inputs that may be the length of a signal: 64 or more; shorter axes are often channels."""
    return {extent for one in seen.inputs.values() for extent in one.shape if extent >= 64 and one.dtype.kind == "f"}


def _other_values(output: SeenOutput, axis: int) -> str | None:
    """The kind of values along an axis: ``ordered`` (quantiles), ``boxes``, ``colours``; None for possible scores."""
    if output.ops & SHARES:
        return None
    if output.words & _COLOURS and output.shape[axis] in (3, 4) and not output.sums_to_one(axis):
        return "colours"
    called = bool(output.words & _BOXES) and output.shape[axis] == 4 and not output.sums_to_one(axis)
    return "ordered" if ordered(output, axis) else "boxes" if called or are_boxes(output, axis) else None


def _chances(output: SeenOutput) -> list[Clue]:
    """Clues from values between 0 and 1 that a Sigmoid produces."""
    if "Sigmoid" not in output.ops or not output.in_unit:
        return []
    return [Clue("classification", "values", 2.0, "sigmoid"), Clue("classification", "operator", 1.0, "Sigmoid")]


def _may_be_classes(count: int) -> bool:
    """Whether a vector of ``count`` values may hold class scores."""
    # widths of features are usually multiples of 32 from 64 on
    return count in _IMAGENET or count < 64 or (count % 32 != 0 and count <= 4096)


def rows(output: SeenOutput, seen: SeenModel) -> list[Clue]:
    """Clues from an output with one row per position: labels, CTC scores, token scores, vectors, or signals.

    A past (a key-value cache) weighs 3.0 because only decoders have one. "like input" adds up to 2.0, close to the
    usual clues to labels (1.75 with a linear layer), so that such an output is judged as both. Multiples of 64 are a
    clue to features because hidden sizes are.
    """
    if len(output.shape) != 2:
        return []
    if output.discrete:
        return rows_of_numbers(output, is_picture(output, seen))
    if is_picture(output, seen):
        return map_clues(output, seen, None)
    axis = class_axis(output)
    decisive = _decisive_rows(output, axis)
    return _scores_of_rows(output, seen, axis) if decisive is None else decisive


def _decisive_rows(output: SeenOutput, axis: int) -> list[Clue] | None:
    """Clues from rows whose values alone show that they are no class scores; None if they may be."""
    for each in (-1, -2):
        if (kind := _other_values(output, each)) is not None:
            return [*of_values(kind, 2.5), ANY]
    if _value_per_position(output):
        return [Clue("regression", "shape", 2.0, "each"), ANY]
    if output.shape[axis] == 1 and "Sigmoid" not in output.ops:
        # with one class the argmax never changes
        return _long(output, axis)
    if output.shape[axis] < _FEATURES and is_squashed(output, axis):
        return [*of_values("squashed", 2.5), ANY]
    return None


def _scores_of_rows(output: SeenOutput, seen: SeenModel, axis: int) -> list[Clue]:
    """Clues from rows that may be scores of classes or tokens, features, or signals."""
    count = output.shape[axis]
    found = [*_shares(output, axis, "sequence"), *_shares(output, axis, "ctc")]
    if count > 2 and "Sigmoid" in output.ops and output.in_unit and not found:
        # multi-label: each position may have any number of labels
        found += [Clue("segmentation", "values", 2.0, "sigmoid"), Clue("segmentation", "operator", 1.0, "Sigmoid")]
    found += _operators_of_rows(output)
    features = _called_scores_or_features(output) or any(clue.task == "embedding" for clue in found)
    found += values_of_rows(output, seen, axis, features)
    if seen.pasts:
        found.append(Clue("generation", "shape", 3.0, "past"))
    if (kind := _spectrum(output, seen, axis)) is not None:
        return [*found, *of_values(kind, 2.5), ANY]
    if _shaped_as_input(output, seen):
        # may be a mask of the signal, or class scores with as many classes as features: judged as both
        found += of_values("like input", 1.5)
    found += _tokens(count, seen) if seen.reads_tokens else _readings(output, seen, axis)
    if count >= 64 and count % 64 == 0 and count not in _IMAGENET and not output.ops & SHARES:
        found.append(Clue("embedding", "shape", 1.0, "features", count))
    if unit_norm(output, axis):
        found.append(Clue("embedding", "values", 2.0, "normalized"))
    return found


def _spectrum(output: SeenOutput, seen: SeenModel, axis: int) -> str | None:
    """Which clue shows that rows are a spectrogram or another signal rather than class scores; None if none does.

    ``spectrum``: the name; ``bands``: correlated neighbours; ``like input``: it resembles an input, as in a denoiser.
    """
    if output.ops & (SHARES | (_POOLED - {"Mul", "Div"})):
        return None
    if output.words & _SPECTRA:
        return "spectrum"
    if output.has_bands(axis):
        # in silent frames all bands are low and the first is often the largest, which looks like CTC's blank
        return "bands"
    return "like input" if _shaped_as_input(output, seen) and output.follows_input else None


def _shaped_as_input(output: SeenOutput, seen: SeenModel) -> bool:
    """Whether rows have the shape of a float input, and no name of class scores."""
    if _called_classes(output):
        # a tagger may have as many tags as input features
        return False
    like = [one for one in seen.inputs.values() if one.shape == output.shape and one.dtype.kind == "f"]
    return bool(like) and min(output.shape) >= _SIGNALS and not output.ops & (_CHANCES | SHARES)


def _called_classes(output: SeenOutput) -> bool:
    """Whether an output's name says that it holds class scores or labels of some kind."""
    plain = ("regression", "embedding", "generation")
    return any(output.words & words for task, words in _NAMES.items() if task not in plain)


def _called_scores_or_features(output: SeenOutput) -> bool:
    """Whether an output holds probabilities, or its name says scores or features: neighbouring bins may be alike."""
    return bool(output.ops & (_CHANCES | SHARES) or output.words & _NAMES["embedding"]) or _called_classes(output)


def _value_per_position(output: SeenOutput) -> bool:
    """Whether a layer with one output channel computes one value for each position, as in a forecast of many hours.

    An axis of extent 1 alone does not show that: pooling leaves one next to the channels.
    """
    return len(output.shape) == 2 and min(output.shape) == 1 and output.one_each


def _operators_of_rows(output: SeenOutput) -> list[Clue]:
    """Clues from the operators that produce rows."""
    plain = _POOLED - {"Mul", "Div"}
    if output.ops & SHARES:
        return [Clue(task, "operator", 1.0, sorted(output.ops & SHARES)[0]) for task in ("sequence", "ctc")]
    if output.ops & plain:
        return [_pooled(output, plain)]
    if output.ops and output.ops <= _RECURRENT:
        return [_recurrent(output)]
    linear = sorted(output.ops & LINEAR)
    return [Clue(task, "operator", 0.75, linear[0]) for task in ("sequence", "ctc", "generation")] if linear else []


def _tokens(count: int, seen: SeenModel) -> list[Clue]:
    """Clues from the width of rows of a model that reads tokens: scores of a vocabulary, or of a few labels.

    The width of the model's vocabulary (see ``SeenModel.is_vocabulary``), however small, shows token scores, and so
    does 4096 or more, as no tag set is that large. From 512 to 4095 it may as well be a hidden size.
    """
    if count >= 4096 or (count >= _FEWEST_TOKENS and seen.is_vocabulary(count)):
        return [Clue("generation", "shape", 1.5, "vocabulary", count), Clue("generation", "values", 0.5, "tokens")]
    return [Clue("sequence", "shape", 1.0, "classes", count)] if count < 512 else []


def _readings(output: SeenOutput, seen: SeenModel, axis: int) -> list[Clue]:
    """Clues from rows of a model that reads no tokens: labels or CTC scores, unless they look like continuous values.

    Both weigh the same, so an output is judged as both unless a blank (1.5) shows that it is CTC.
    """
    count = output.shape[axis]
    if long := _long(output, axis):
        return long
    if _beside_shares(output, seen):
        # a detector's boxes next to its scores of the same anchors
        return of_values("beside shares", 2.5)
    if not output.ops & SHARES and not output.in_unit and unlike_scales(output, axis):
        # if boxes and scores share an axis, its largest value is always a coordinate
        return of_values("unlike scales", 2.5)
    found = [Clue(task, "shape", 1.0, "classes", count) for task in ("sequence", "ctc")]
    found += _blanks(output, axis, seen)
    if seen.ops & _RECURRENT:
        found.append(Clue("ctc", "operator", 0.5, sorted(seen.ops & _RECURRENT)[0]))
    return found


def _long(output: SeenOutput, axis: int) -> list[Clue]:
    """Clues from rows that may be a signal: one or two channels (mono or stereo) of 256 or more positions, else none.

    Shorter rows may as well be binary labels of the words of a sentence.
    """
    count, positions = output.shape[axis], output.shape[-3 - axis]
    if min(count, positions) > 2 or max(count, positions) < 256:
        return []
    return [Clue("regression", "shape", 3.0, "length", positions), ANY]


def clues_to(output: SeenOutput, seen: SeenModel) -> list[Clue]:
    """All clues to the task of an output."""
    found = [clue for rule in (names, vectors, rows, pictures) for clue in rule(output, seen)]
    return once_on_a_par([*found, *forecasts(output, seen, _called_classes(output)), *given_back(output, seen)])


def _shares(output: SeenOutput, axis: int, task: str) -> list[Clue]:
    return [Clue(task, "values", 2.0, "softmax")] if output.sums_to_one(axis) else []


def _blanks(output: SeenOutput, axis: int, seen: SeenModel) -> list[Clue]:
    (blank, share), classes = blank_of(output, axis, seen), output.shape[axis]
    if classes < _ALPHABET or output.shape[-3 - axis] < 4 or usual_length(output, axis, blank) >= _LASTING:
        return []
    # with few classes each of them is frequent: 2 / classes is twice its even share
    return [Clue("ctc", "values", 1.5, "blank", share)] if share >= max(_BLANKS, 2 / classes) else []


def _beside_shares(output: SeenOutput, seen: SeenModel) -> bool:
    """Whether another output, not computed from this one, holds class probabilities for the same positions."""
    shares = [one for one in seen.outputs if one.ops & SHARES or ("Sigmoid" in one.ops and one.in_unit)]
    if any(one is output or one.name in output.chosen_by for one in shares):
        return False
    like = [one for one in shares if not one.discrete and one.shape[:-1] == output.shape[:-1] and one.shape != ()]
    return bool(like) and not any(one.largest_as(output) for one in like)


def _pooled(output: SeenOutput, of: frozenset[str], weight: float = 2.0) -> Clue:
    """A clue to an embedding from those of its operators that are in ``of``; a normalization has ``weight``."""
    normalized = sorted(output.ops & of & _NORMALIZED)
    return Clue("embedding", "operator", weight if normalized else 1.0, [*normalized, *sorted(output.ops & of)][0])


def _recurrent(output: SeenOutput) -> Clue:
    """A clue to features from a recurrent layer that produces the output: class scores need a linear layer after it."""
    return Clue("embedding", "operator", 2.0, sorted(output.ops)[0])
