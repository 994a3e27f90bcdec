"""Samples in .npz and .npy files: stacked or one array per sample, read lazily and never unpickled."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from toolkit.base.errors import DataError
from toolkit.base.profiles import Shape
from toolkit.base.types import Array
from toolkit.data.arrays import Stored, open_archive, open_array
from toolkit.data.items import refuse_ambiguous, with_batch_axis, with_batch_dimension
from toolkit.data.sample import LABELS, InputsAndLabels, InputSpec, Keep, Specs, check_names

_NUMBER = re.compile(r"[0-9]{1,18}")


class Stack:
    """The samples in a set of named arrays: stacked, or one array per sample (``name/00000``, ``name/00001``...).

    Samples are stacked along the input's batch axis if the model declares one (24 samples of a state of shape [layers,
    N, hidden] are [layers, 24, hidden]), else along axis 0. Arrays of single samples get a batch axis if all inputs of
    the sample lack it.
    """

    def __init__(self, keys: Iterable[str], specs: Specs, where: str) -> None:
        self.where, self._specs = where, specs
        self._ragged: dict[str, list[str]] = {}
        stacked: list[str] = []
        numbered: dict[str, dict[int, str]] = {}
        for key in keys:
            base, _, number = key.rpartition("/")
            if key not in specs and _NUMBER.fullmatch(number) and (base in specs or base in LABELS):
                members = numbered.setdefault(base, {})
                if int(number) in members:
                    raise DataError(
                        f"'{key}' and '{members[int(number)]}' are the same sample",
                        where=where,
                        remedy="give each sample a number of its own",
                    )
                members[int(number)] = key
            else:
                stacked.append(key)
        for base, members in numbered.items():
            if base in stacked:
                raise DataError(
                    f"there are both '{base}' and '{base}/...'", where=where, remedy="keep one of the two forms"
                )
            self._ragged[base] = [members[number] for number in sorted(members)]
        check_names([*stacked, *self._ragged], specs, where)
        self._stacked = stacked
        sets = {base: sorted(members) for base, members in numbered.items()}
        first = next((name for name in specs if name in sets), None)
        for base, numbers in sets.items():
            if first is not None and numbers != sets[first]:
                odd = sorted(set(numbers) ^ set(sets[first]))[0]
                lacking = base if odd not in numbers else first
                raise DataError(
                    f"'{lacking}/{odd:05d}' is missing, which '{first if lacking == base else base}' has",
                    where=where,
                    remedy="give every input (and label) the same numbers",
                )

    def samples(self, arrays: Callable[[str], Stored]) -> tuple[int, int, Callable[[int], InputsAndLabels]]:
        """The number of samples, the number of rows left over, and a function that returns the i-th sample.

        Args:
            arrays: returns the array of a key.
        """
        stacked = {name: arrays(name) for name in self._stacked}
        shapes = {name: array.shape for name, array in stacked.items()}
        counts: dict[str, int] = {name: len(keys) for name, keys in self._ragged.items()}
        cut, chunk = 0, 1
        single = {name for name, found in shapes.items() if name in self._specs and self._given_once(name, found)}
        single |= self._of_one_sample(shapes)
        for name, found in shapes.items():
            if name in self._specs and name not in single:
                counts[name], left, rows = self._count(found, self._specs[name])
                cut, chunk = max(cut, left), max(chunk, rows)
        for name in LABELS:
            if name in shapes:
                counts[name] = shapes[name][0] // chunk if shapes[name] else 1
        self._require_equal(counts)
        apart = self._apart(shapes)
        lacking = {name for name in self._ragged if name not in self._specs and self._lacks_axis(name, arrays)}
        count = next(iter(counts.values()), 1 if single else 0)
        if not count:
            raise DataError("there are no samples", where=self.where, remedy="give at least one sample")

        def pick(index: int) -> InputsAndLabels:
            inputs: dict[str, Array] = {}
            labels: dict[str, Array] = {}
            for name, array in stacked.items():
                if name in single:
                    inputs[name] = array.whole().reshape(array.shape)
                elif name in self._specs:
                    inputs[name] = self._row(array, self._specs[name], index)
                else:
                    labels[name] = array.rows(index * chunk, (index + 1) * chunk) if array.shape else array.whole()
            for name, keys in self._ragged.items():
                if name in self._specs:
                    ragged = arrays(keys[index])
                    inputs[name] = ragged.whole().reshape(ragged.shape)
                else:
                    labels[name] = arrays(keys[index]).whole()
            return self._joined(inputs, labels, lacking, index) if apart else (inputs, labels)

        return count, cut, pick

    def _require_equal(self, counts: Mapping[str, int]) -> None:
        """Refuse inputs and labels whose numbers of samples differ.

        Raises:
            DataError: they differ; the message lists the numbers.
        """
        if len(set(counts.values())) <= 1:
            return
        listed = ", ".join(f"'{name}' {count}" for name, count in counts.items())
        remedy = "every input (and label) needs as many; an input without an axis of samples may be given once"
        inputs = [name for name in counts if name in self._specs]
        if len({counts[name] for name in inputs}) > 1:
            remedy += f"; where a sample holds several rows of '{inputs[-1]}', store each sample by itself: "
            remedy += ", ".join(f"'{name}/00000'" for name in inputs) + " and so on"
        raise DataError(f"the numbers of samples differ: {listed}", where=self.where, remedy=remedy)

    def shapes(self, arrays: Callable[[str], Stored]) -> Iterator[dict[str, Shape]]:
        """Yield the shapes of each sample's inputs, taken from the file headers; see ``samples``."""
        count, _, _ = self.samples(arrays)
        stored = {name: arrays(name).shape for name in self._stacked}
        whole = self._of_one_sample(stored)
        stacked = {
            n: s if n in whole else self._shape(s, self._specs[n]) for n, s in stored.items() if n in self._specs
        }
        ragged = {name: keys for name, keys in self._ragged.items() if name in self._specs}
        apart = self._apart(stored)
        for index in range(count):
            found = {**stacked, **{name: arrays(keys[index]).shape for name, keys in ragged.items()}}
            yield with_batch_dimension(found, self._specs) if apart else found

    def _apart(self, stacked: Mapping[str, Shape]) -> bool:
        """Whether every sample is stored in arrays of its own: only inputs shared by all samples are stacked."""
        return all(self._given_once(name, shape) for name, shape in stacked.items() if name in self._specs)

    def _lacks_axis(self, label: str, arrays: Callable[[str], Stored]) -> bool:
        """Whether labels stored per sample lack the batch axis: labels of one-row samples do not have length 1."""
        inputs = {name: keys for name, keys in self._ragged.items() if name in self._specs}
        return any(
            self._rows({name: arrays(keys[index]).shape for name, keys in inputs.items()}) == {1}
            for index, key in enumerate(self._ragged[label])
            if arrays(key).shape[:1] != (1,)
        )

    def _rows(self, shapes: Mapping[str, Shape]) -> set[int]:
        """The numbers of rows in the inputs of one separately stored sample, for inputs that have the batch axis."""
        axes = {name: self._specs[name].batch_axis for name in shapes}
        whole = {name for name, shape in shapes.items() if len(shape) == len(self._specs[name].dims or ())}
        return {shapes[name][axis] for name, axis in axes.items() if axis is not None and name in whole}

    def _joined(
        self, inputs: dict[str, Array], labels: dict[str, Array], lacking: set[str], index: int
    ) -> InputsAndLabels:
        """A separately stored sample, with a batch axis added if all its inputs, or its labels, lack it.

        Args:
            inputs: as stored.
            labels: as stored.
            lacking: the labels that lack the batch axis.
            index: index of the sample.
        """
        ragged = {name: labels[name] for name in labels if name in self._ragged}
        whole = with_batch_axis({**inputs, **ragged}, self._specs)
        for name, value in inputs.items():
            if whole[name] is not value:
                refuse_ambiguous(value, self._specs[name], f"{self.where}, sample {index}")
        single = self._rows({name: value.shape for name, value in inputs.items()}) == {1}
        whole |= {name: ragged[name][None] for name in lacking if single and whole[name] is ragged[name]}
        return {name: whole[name] for name in inputs}, {name: whole.get(name, labels[name]) for name in labels}

    def _shape(self, shape: Shape, spec: InputSpec) -> Shape:
        """The shape of one sample of a stacked array."""
        if self._given_once(spec.name, shape):
            return shape
        if spec.dims is not None and len(shape) == len(spec.dims) + 1:
            return shape[1:]
        axis = _inner_axis(shape, spec) or 0
        return (*shape[:axis], spec.chunk if axis == 0 else 1, *shape[axis + 1 :])

    def _given_once(self, name: str, shape: tuple[int, ...]) -> bool:
        """Whether an array holds one value for all samples of the set.

        This is a scalar for a scalar input, or an array for an input without a batch axis if other inputs have one.
        """
        dims = self._specs[name].dims
        if not shape or not dims:
            return not shape and not dims
        batched = any(spec.batch_axis is not None for spec in self._specs.values())
        fits = all(size == dim or not isinstance(dim, int) for size, dim in zip(shape, dims))
        return batched and self._specs[name].batch_axis is None and len(shape) == len(dims) and fits

    def _of_one_sample(self, shapes: Mapping[str, Shape]) -> set[str]:
        """The inputs that belong as a whole to the one sample that a set of stacked arrays holds.

        In a model without a batch axis, an input whose first axis has a fixed extent shows that there is one sample.
        The rows of an input whose first axis is dynamic are then of this sample, such as the boxes of one image.
        """
        specs = self._specs
        if any(spec.batch_axis is not None for spec in specs.values()) or not specs.keys().isdisjoint(self._ragged):
            return set()
        ranked = [n for n, s in shapes.items() if n in specs and specs[n].dims and len(s) == len(specs[n].dims or ())]
        fixed = [name for name in ranked if isinstance((specs[name].dims or ())[0], int)]
        one = all(shapes[name][0] == specs[name].chunk for name in fixed)
        return set(ranked) - set(fixed) if fixed and one else set()

    def _count(self, shape: tuple[int, ...], spec: InputSpec) -> tuple[int, int, int]:
        """Number of samples in a stacked array, rows left over, and rows per sample (1 if each row is a sample).

        Raises:
            DataError: the array's rank is neither that of the input nor one more.
        """
        rank = len(spec.dims) if spec.dims is not None else len(shape)
        if len(shape) == rank + 1:
            return shape[0], 0, 1
        axis = _inner_axis(shape, spec)
        if axis is not None:
            return shape[axis], 0, 1
        if len(shape) != rank:
            declared = [dim if dim is not None else "?" for dim in spec.dims or ()]
            alone = f"a sample by itself needs a batch dimension of 1 in front, {[1, *shape]}, as array[None] has it; "
            if spec.one_channel and shape and shape[0] > 1:
                alone = f"{shape[0]} samples of one channel need that dimension, {[shape[0], 1, *shape[1:]]}, as "
                alone += "array[:, None] has it; "
            raise DataError(
                f"shape {list(shape)} has rank {len(shape)}, the model declares {declared}",
                where=f"{self.where}, input '{spec.name}'",
                remedy=(alone if len(shape) == rank - 1 else "")
                + "stack the samples along axis 0, or store each with its batch dimension as "
                f"'{spec.name}/00000', '{spec.name}/00001' and so on, or in a file of a folder",
            )
        return shape[0] // spec.chunk, shape[0] % spec.chunk, spec.chunk

    @staticmethod
    def _row(array: Stored, spec: InputSpec, index: int) -> Array:
        """One sample of a stacked array, at the rank that the model declares."""
        rank = len(spec.dims) if spec.dims is not None else len(array.shape)
        if len(array.shape) == rank + 1:
            return array.rows(index, index + 1)[0]
        axis = _inner_axis(array.shape, spec)
        if axis is not None:
            return array.rows(0, array.shape[0]).take([index], axis)
        return array.rows(index * spec.chunk, (index + 1) * spec.chunk)


def _inner_axis(shape: tuple[int, ...], spec: InputSpec) -> int | None:
    """The axis along which the samples of a stacked array are joined, if it is not the first; else None."""
    axis = spec.batch_axis
    if not axis or spec.dims is None or len(shape) != len(spec.dims):
        return None
    before = zip(shape[:axis], spec.dims[:axis])
    return axis if all(size == dim or not isinstance(dim, int) for size, dim in before) else None


class Files:
    """Sets of arrays in files, one set per .npz file or group of .npy files; only one set is in memory at a time."""

    def __init__(self, sets: list[tuple[str, Any]], specs: Specs) -> None:
        self._sets, self._specs = sets, specs
        self._counts: list[int] | None = None
        self.cut = 0

    def __len__(self) -> int:
        """Number of samples; reads the file headers once."""
        if self._counts is None:
            counts, cut = [], 0
            for number in range(len(self._sets)):
                count, left, _ = self._open(number)
                counts.append(count)
                cut += left
            self._counts, self.cut = counts, cut
        return sum(self._counts)

    def read(self, keep: Keep) -> Iterator[tuple[int, str, InputsAndLabels]]:
        """See ``Source``."""
        start, cut = 0, 0
        counts: list[int] = []
        for number, (where, _) in enumerate(self._sets):
            known = self._counts[number] if self._counts is not None else None
            if known is not None and not any(keep(start + i) for i in range(known)):
                start += known
                continue
            count, left, pick = self._open(number)
            counts.append(count)
            cut += left
            for i in range(count):
                if keep(start + i):
                    yield start + i, f"{where}, sample {i}", pick(i)
            start += count
        if self._counts is None:
            self._counts, self.cut = counts, cut

    def shapes(self) -> Iterator[dict[str, Shape]]:
        """See ``Source``; reads only headers."""
        for where, members in self._sets:
            arrays = _arrays(members)
            yield from Stack(arrays, self._specs, where).shapes(arrays.__getitem__)

    def _open(self, number: int) -> tuple[int, int, Callable[[int], InputsAndLabels]]:
        where, members = self._sets[number]
        arrays = _arrays(members)
        return Stack(arrays, self._specs, where).samples(arrays.__getitem__)


def _arrays(members: Any) -> Mapping[str, Stored]:
    """The arrays of a set by name, from an archive or from one file per array."""
    return open_archive(members) if isinstance(members, Path) else {k: open_array(p) for k, p in members.items()}
