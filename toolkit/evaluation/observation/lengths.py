"""Outputs that say how many positions of another one a sample has, as a speech model's lengths do of padded audio."""

from __future__ import annotations

from toolkit.evaluation.observation.observed import SeenModel, SeenOutput

_CALLED = ("len", "lens", "length", "lengths")


def lengths_of(output: SeenOutput, axis: int, seen: SeenModel) -> str | None:
    """The output that says how many positions of another one count in each sample; None where none does.

    It is called lengths, and holds one whole number a sample, at least one of them above 0 and none above the number of
    positions.

    Args:
        output: what has the positions.
        axis: where they lie in a sample of it, counted from the end.
        seen: the model that it belongs to.
    """
    most = [one.shape[axis] for one in output.samples]
    for one in seen.outputs:
        called = any(word.endswith(_CALLED) for word in one.words)
        if one is output or not called or not one.discrete or (one.batch_axis, output.batch_axis) != (0, 0):
            continue
        if len(one.samples) != len(most) or any(value.size != 1 for value in one.samples):
            continue
        counts = [int(value.reshape(())) for value in one.samples]
        if max(counts) > 0 and all(0 <= count <= extent for count, extent in zip(counts, most)):
            return one.name
    return None
