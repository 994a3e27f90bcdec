"""Find outputs that hold the number of valid positions of another output, like a speech model's lengths."""

from __future__ import annotations

from toolkit.evaluation.observation.observed import SeenModel, SeenOutput

_CALLED = ("len", "lens", "length", "lengths")


def lengths_of(output: SeenOutput, axis: int, seen: SeenModel) -> str | None:
    """The name of the output with each sample's number of valid positions; None if there is none.

    A word of its name ends in "len" or "length" (or their plural), and it holds one integer per sample, from 0 to the
    number of positions and not all 0.

    Args:
        output: the output with the positions.
        axis: the axis of positions in a sample of it, counted from the end.
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
