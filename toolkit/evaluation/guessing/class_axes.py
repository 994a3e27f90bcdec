"""Find the axis of classes or channels of an output, and CTC's blank."""

from __future__ import annotations

import numpy as np

from toolkit.evaluation.observation.observed import SeenModel, SeenOutput

_UNLIKE = 2.0
"""Least ratio between the mean difference of adjacent channels and that of adjacent pixels: pictures are smooth."""


def class_axis(output: SeenOutput) -> int:
    """The axis of classes of an output with classes per position, -1 or -2.

    It is the axis along which probabilities sum to 1; else the fixed one; else that of the channels of the layer that
    computes the output; else the last. An axis is fixed if the other one's extent varies between samples and its own
    does not, or if it is the only one with a declared extent.
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
    """The axis of channels of a picture or a volume, counted from the end: a sample's first or last axis.

    In this order: the axis along which probabilities sum to 1; the one that alone among all axes has a fixed extent;
    that of the channels of the layer that computes the output; the one along which neighbours differ at least
    ``_UNLIKE`` times as much as along any other axis. Otherwise it is the last if that is shorter than the first and is
    either short (up to 4, as colours) or follows equal extents (a square or a cube); else the first.
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
    """The class that is probably CTC's blank, and the share of positions (0 to 1) at which it is the argmax.

    It is the more frequent of the first and the last class. A class that occurs in labels is no blank, unless both do.
    """
    chosen = output.stacked(axis).argmax(axis=1)
    ends = (0, output.shape[axis] - 1)
    places = [place for place in ends if place not in seen.read] or ends
    shares = {place: float((chosen == place).mean()) for place in places}
    blank = max(shares, key=lambda place: shares[place])
    return blank, shares[blank]


def usual_length(output: SeenOutput, axis: int, blank: int) -> float:
    """For how many positions in a row a class other than ``blank`` stays the argmax, the median; 0 if none ever is.

    CTC's classes are peaks of one or two positions between blanks (Graves et al., "Connectionist temporal
    classification", ICML 2006). Labels of frames last as long as what they label. The median does not depend on the
    few runs that are long in either, such as padding or silence that is read as the end of a word.
    """
    lengths = [np.zeros(0, np.int64)]
    for one in output.samples:
        chosen = np.moveaxis(one, axis, -1).argmax(axis=-1)
        for row in chosen.reshape(-1, chosen.shape[-1]):
            ends = np.flatnonzero(np.diff(row, prepend=-1, append=-1))
            lengths.append(np.diff(ends)[row[ends[:-1]] != blank])
    found = np.concatenate(lengths)
    return float(np.median(found)) if len(found) else 0.0


def channel_axis_last(output: SeenOutput) -> bool:
    """Whether a map's last two axes are height and width, so that channels, if any, come first."""
    return len(output.shape) < 3 or channel_axis(output) != -1
