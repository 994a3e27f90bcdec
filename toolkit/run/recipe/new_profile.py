"""The profiles of a new recipe: an extent for each dynamic dimension, from samples if there are any."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from itertools import pairwise

from toolkit.base.text import toml_key
from toolkit.contract.findings import Finding
from toolkit.data.sample import EVERYTHING
from toolkit.graph.shape_inference.derived_dimensions import derived_dimensions
from toolkit.graph.shape_inference.dimensions import Dims, batch_axes
from toolkit.report.codes import ReportCode

Seen = Mapping[str, Sequence[tuple[int, ...]]]
SizeKey = str | tuple[str, int]
"""The key of a dynamic dimension: its name, which inputs may share, or else its input and axis."""
Sizes = tuple[int, int, int]
_APART, _LEAST, _SHARE = math.log(4), 2, 0.1
"""Criteria for two groups of sizes: their distance as the logarithm of a sample's values, the fewest samples of a
group, and its smallest share of all samples."""
_GROUPS = "small", "large"
_ENDS = "min", "opt", "max"
_GUESS = {"batch": (1, 8, 32), "length": (1, 128, 512), "image": (224, 224, 224)}


def profile_lines(
    shapes: Mapping[str, Dims], seen: Seen, alone: str = "", fixed: str = "", apart: str = ""
) -> list[str]:
    """The ``[[profile]]`` tables: one, or two if sizes form two groups; none if no dimension is dynamic.

    Args:
        shapes: the declared dimensions of each input.
        seen: the shapes of the samples, by input.
        alone: why samples cannot share a batch; empty if they can.
        fixed: which dimensions get a single size because all samples have it; empty if there are none.
        apart: a sentence that sizes form two groups; empty if they do not.
    """
    profiles = profile_shapes(shapes, seen, bool(alone))
    if not profiles:
        return []
    lines = [*wrapped(alone), *wrapped(fixed), *wrapped(apart)]
    guessed = "" if seen else "                      # check these shapes: they are guesses"
    for called, inputs in zip(_GROUPS if len(profiles) > 1 else (EVERYTHING,), profiles):
        lines += ["[[profile]]", f'name = "{called}"{guessed}']
        for name, one in inputs.items():
            ends = ", ".join(f"{end} = {sizes}" for end, sizes in one.items())
            lines.append(f"shapes.{toml_key(name)} = {{ {ends} }}")
        lines.append("")
    return lines


def profile_shapes(shapes: Mapping[str, Dims], seen: Seen, alone: bool) -> list[dict[str, dict[str, list[int]]]]:
    """The min, opt and max shapes of each dynamic input, by profile: none, one or two, see ``profile_lines``.

    Args:
        shapes: the declared dimensions of each input.
        seen: the shapes of the samples, by input.
        alone: whether the batch is 1.
    """
    dynamic = {name: dims for name, dims in shapes.items() if any(not isinstance(d, int) for d in dims)}
    found = []
    for group in size_groups(shapes, seen) if dynamic else ():
        sizes = profile_sizes(shapes, group, alone)
        inputs = {}
        for name, dims in dynamic.items():
            extents = [(dim, dim, dim) if isinstance(dim, int) else sizes[_key(name, axis, dim)]
                       for axis, dim in enumerate(dims)]  # fmt: skip
            inputs[name] = {end: [extent[place] for extent in extents] for place, end in enumerate(_ENDS)}
        found.append(inputs)
    return found


def size_groups(shapes: Mapping[str, Dims], seen: Seen) -> list[Seen]:
    """The shapes of the samples, in two groups if there are no sizes between small and large ones; else in one.

    The gap between the groups is wider than the spread of either, and at least a factor of 4 in a sample's number of
    values. Each group has several samples. The batch does not count.
    """
    volumes = _volumes(shapes, seen)
    order = sorted(range(len(volumes)), key=volumes.__getitem__)
    ranked = [volumes[index] for index in order]
    steps = [high - low for low, high in pairwise(ranked)]
    cut = max(range(len(steps)), key=steps.__getitem__) + 1 if steps else 0
    spread = max(ranked[cut - 1] - ranked[0], ranked[-1] - ranked[cut]) if steps else 0.0
    least = max(_LEAST, _SHARE * len(order))
    if min(cut, len(order) - cut) < least or steps[cut - 1] <= spread or steps[cut - 1] < _APART - 1e-9:
        return [seen]
    parts = sorted(order[:cut]), sorted(order[cut:])
    return [{name: [found[index] for index in part] for name, found in seen.items()} for part in parts]


def _volumes(shapes: Mapping[str, Dims], seen: Seen) -> list[float]:
    """The logarithm of each sample's product of dynamic sizes, batch excluded; empty if samples lack an input."""
    axes = _joined(shapes, seen)
    if len({len(found) for found in seen.values()}) != 1 or any(
        len(one) != len(shapes.get(name, ())) for name, found in seen.items() for one in found
    ):
        return []
    keys = {
        _key(name, axis, dim): (name, axis)
        for name in seen for axis, dim in enumerate(shapes[name])
        if not isinstance(dim, int) and axes.get(name) != axis
    }  # fmt: skip
    count = len(next(iter(seen.values())))
    # an empty dimension, such as the past of a decoder's first step, counts as smaller than size 1
    return [sum(math.log(max(seen[n][index][axis], 0.5)) for n, axis in keys.values()) for index in range(count)]


def two_sizes(shapes: Mapping[str, Dims], seen: Seen) -> Finding | None:
    """A finding if sizes form two groups, with the dimensions that differ; None otherwise."""
    groups = size_groups(shapes, seen)
    if len(groups) == 1:
        return None
    axes = _joined(shapes, seen)
    small, large = (profile_sizes(shapes, group) for group in groups)
    own = {
        _key(name, axis, dim): dim if dim is not None else f"{name}[{axis}]"
        for name, dims in shapes.items() for axis, dim in enumerate(dims)
        if not isinstance(dim, int) and axes.get(name) != axis
    }  # fmt: skip
    differ = [key for key in own if small[key] != large[key]]
    return ReportCode.NEW_SIZES_APART(
        dimensions=[own[key] for key in differ], small=[small[key][::2] for key in differ],
        large=[large[key][::2] for key in differ], profiles=list(_GROUPS),
    )  # fmt: skip


def fixed_by_samples(shapes: Mapping[str, Dims], seen: Seen) -> Finding | None:
    """The dynamic dimensions that get a single size because all samples have it; None if there are none.

    The batch is not included: how many samples are stored together says nothing about it.
    """
    sizes, axes = profile_sizes(shapes, seen), _joined(shapes, seen)
    found: dict[str, int] = {}
    inputs: dict[str, None] = {}
    for name, dims in shapes.items():
        for axis, dim in enumerate(dims):
            if isinstance(dim, int) or axes.get(name) == axis or not seen.get(name):
                continue
            low, _, high = sizes[_key(name, axis, dim)]
            if low == high:
                found[dim if dim is not None else f"{name}[{axis}]"] = low
                inputs[name] = None
    if not found:
        return None
    return ReportCode.NEW_SIZES_FIXED(dimensions=list(found), sizes=list(found.values()), inputs=list(inputs))


def _joined(shapes: Mapping[str, Dims], seen: Seen) -> dict[str, int]:
    """The axes along which samples are joined; empty if a sample has different sizes there, so they are no batch."""
    axes = batch_axes(shapes)
    columns = [[one[axis] for one in seen.get(name, ()) if len(one) > axis] for name, axis in axes.items()]
    apart = any(len(set(row)) > 1 for row in zip(*columns)) and len(set(map(len, columns))) == 1
    return {} if apart else axes


def wrapped(text: str) -> list[str]:
    """A text as comment lines of a recipe."""
    return textwrap.wrap(text, 118, initial_indent="# ", subsequent_indent="# ")


def one_sample(shapes: Mapping[str, Dims], seen: Seen) -> dict[str, tuple[int, ...]]:
    """The shape of one sample, by input: the opt shape of the profile, with a batch of 1."""
    sizes, axes = profile_sizes(shapes, seen), _joined(shapes, seen)
    return {
        name: tuple(
            1 if axes.get(name) == axis else dim if isinstance(dim, int) else sizes[_key(name, axis, dim)][1]
            for axis, dim in enumerate(dims)
        )
        for name, dims in shapes.items()
    }


def profile_sizes(shapes: Mapping[str, Dims], seen: Seen, alone: bool = False) -> dict[SizeKey, Sizes]:
    """Min, opt and max of every dynamic dimension; dimensions with the same name, and all batch dimensions, share one.

    The opt sizes are those of one sample, since dimensions may depend on each other: TensorRT refuses a mask whose opt
    length is not the sum of the past and the new tokens. If names express such a sum, min and max are consistent too.
    """
    stands: dict[SizeKey, list[tuple[str, int]]] = {}
    for name, dims in shapes.items():
        for axis, dim in enumerate(dims):
            if not isinstance(dim, int):
                stands.setdefault(_key(name, axis, dim), []).append((name, axis))
    axes = _joined(shapes, seen)
    whole = len(axes) == sum(bool(len(dims)) for dims in shapes.values())
    found: dict[SizeKey, Sizes] = {}
    batch = [key for key, places in stands.items() if any(axes.get(name) == axis for name, axis in places)]
    for key, places in stands.items():
        # inputs whose first axes have different names, or none, are still joined along them
        members = [place for one in batch for place in stands[one]] if key in batch else places
        known = sorted(s[axis] for name, axis in members for s in seen.get(name, ()) if len(s) == len(shapes[name]))
        if key in batch and whole:
            found[key] = (1, 1, 1) if alone else _batch(known)
        elif known:
            found[key] = known[0], known[len(known) // 2], known[-1]
        elif key in batch:
            # if an input has no batch axis, there is no evidence that two samples can run at once
            found[key] = 1, 1, 1
        else:
            found[key] = _GUESS["image" if len(shapes[places[0][0]]) == 4 else "length"]
    own = {key: places for key, places in stands.items() if key not in batch}
    for key, size in _of_one_sample(found, own, shapes, seen).items():
        found[key] = found[key][0], size, found[key][2]
    return found | _derived(found, own, shapes, seen)


def _of_one_sample(
    found: Mapping[SizeKey, Sizes],
    own: Mapping[SizeKey, Sequence[tuple[str, int]]],
    shapes: Mapping[str, Dims],
    seen: Seen,
) -> dict[SizeKey, int]:
    """The sizes of the sample nearest to the opt sizes; empty if no sample has all of them."""
    known = {name for places in own.values() for name, _ in places}
    counts = {len(seen.get(name, ())) for name in known}
    if len(counts) != 1:
        return {}
    samples = [
        {key: seen[name][index][axis] for key, places in own.items() for name, axis in places[:1]}
        for index in range(counts.pop())
        if all(len(seen[name][index]) == len(shapes[name]) for name in known)
    ]
    return min(samples, key=lambda sizes: _distance(sizes, found), default={})


def _distance(sizes: Mapping[SizeKey, int], found: Mapping[SizeKey, Sizes]) -> float:
    return sum(abs(math.log((size + 1) / (found[key][1] + 1))) for key, size in sizes.items())


def _derived(
    found: Mapping[SizeKey, Sizes],
    own: Mapping[SizeKey, Sequence[tuple[str, int]]],
    shapes: Mapping[str, Dims],
    seen: Seen,
) -> dict[SizeKey, Sizes]:
    """The sizes derived from dimensions' names, unless they are out of order or exclude the size of a sample."""
    derived: dict[SizeKey, Sizes] = {}
    for name, one in derived_dimensions(shapes).items():
        if name not in own:
            continue
        sizes = [one.size({part: found[part][place] for part in one.parts}) for place in range(3)]
        low, mid, high = (-1 if size is None else size for size in sizes)
        least, _, most = found[name] if any(seen.get(where) for where, _ in own[name]) else (mid, mid, mid)
        if 0 <= low <= min(mid, least) and max(mid, most) <= high:
            derived[name] = low, mid, high
    return derived


def _batch(known: Sequence[int]) -> Sizes:
    low, mid, high = _GUESS["batch"]
    return low, mid, max([high, *known])


def _key(name: str, axis: int, dim: str | None) -> SizeKey:
    return dim if dim is not None else (name, axis)
