"""Along which axis of an output its classes or channels lie, and which class is CTC's blank."""

from __future__ import annotations

from toolkit.evaluation.observation.observed import SeenModel, SeenOutput

_UNLIKE = 2.0
"""How many times further apart neighbours along classes are than neighbouring places."""


def class_axis(output: SeenOutput) -> int:
    """The axis of classes of positions, counted from the end.

    It is where shares add up, else the fixed one, else that of the channels of the layer that computes them, else the
    last. An axis is fixed if its extent never varies while the other's does, or if the model declares it alone so.
    """
    for axis in (-1, -2):
        if output.sums_to_one(axis):
            return axis
    if output.varies(-1) != output.varies(-2):
        return -2 if output.varies(-1) else -1
    if output.fixed(-2) != output.fixed(-1):
        return -2 if output.fixed(-2) else -1
    return -2 if output.channels == -2 else -1


def channel_axis(output: SeenOutput) -> int:
    """The axis of channels of a picture or a volume, counted from the end: the first or the last of a sample.

    The axis where shares add up, else the one end that is fixed, that of the channels of the layer that computes them,
    or along which neighbours are unlike, else the shorter. The last axis is it where it is short, as for colours, or
    where those before it form a larger square or cube.
    """
    first = -len(output.shape)
    ends, between = (first, -1), range(first + 1, -1)
    for axis in ends:
        if output.sums_to_one(axis):
            return axis
    for differ in (output.varies, lambda axis: not output.fixed(axis)):
        if differ(-1) != differ(first) and all(map(differ, between)):
            return first if differ(-1) else -1
    if output.channels in ends:
        return -1 if output.channels == -1 else first
    steps = {axis: output.step(axis) for axis in range(first, 0)}
    for axis in ends:
        if steps[axis] > _UNLIKE * max(step for other, step in steps.items() if other != axis):
            return axis
    *places, last = output.shape
    return -1 if last < places[0] and (last <= 4 or len(set(places)) == 1) else first


def blank_of(output: SeenOutput, axis: int, seen: SeenModel) -> tuple[int, float]:
    """The class that may be CTC's blank, the first or the last, and the share of positions that are it.

    A class that labels name is no blank, unless they name both.
    """
    chosen = output.stacked(axis).argmax(axis=1)
    ends = (0, output.shape[axis] - 1)
    places = [place for place in ends if place not in seen.read] or ends
    shares = {place: float((chosen == place).mean()) for place in places}
    blank = max(shares, key=lambda place: shares[place])
    return blank, shares[blank]


def channel_axis_last(output: SeenOutput) -> bool:
    """Whether height and width are the last two axes."""
    return len(output.shape) < 3 or channel_axis(output) != -1
