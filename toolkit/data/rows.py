"""Samples that arrive in batches, as from a loader: split into rows if the model computes each row independently."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain, islice

import numpy as np

from toolkit.base.errors import DataError
from toolkit.base.profiles import Shape
from toolkit.base.types import Array
from toolkit.contract.findings import Finding
from toolkit.data.codes import DataCode
from toolkit.data.sample import InputsAndLabels, Keep, Specs, axes_of, fit_to_specs, rows_of
from toolkit.data.sources import Feeds, Source
from toolkit.graph.shape_inference.dimensions import may_be_batch

Item = tuple[int, str, InputsAndLabels]
_LOOKED = 16
"""Number of items that are read to decide."""
Apart = Callable[[Mapping[str, int], Sequence[Mapping[str, Array]]], bool]
"""Takes the batch axis per input, and two samples of one row; see ``batch_probe.rows_are_independent``."""


def by_rows(source: Source, specs: Specs, apart: Apart, name: str) -> Source:
    """The source, with items of several rows split if their rows are samples.

    The axis must be named as a batch axis or unnamed, and ``apart`` must find that the model computes two rows of an
    item independently; otherwise the rows of an item are one sample. ``name`` is the source's name in messages.
    """
    axes = axes_of(specs)
    called = [dims[axis] for name, axis in axes.items() if (dims := specs[name].dims)]
    if not axes or any(isinstance(one, int) for one in called):
        return source
    named = all(map(may_be_batch, called))
    asks = named and isinstance(source, Feeds) and source.shapes_unknown
    return RowsAsSamples(source, specs, axes, apart if named else lambda axes, samples: False, name, asks)


class RowsAsSamples:
    """Samples of another source, with each row of an item as one sample.

    The first item with several, differing rows decides for all items. It is searched among the first few. If each of
    these has one row or identical rows, every item counts as one sample, and a later item whose rows may be samples is
    refused, since it is then unknown what a sample is.

    Args:
        axes: per input, the axis along which samples are joined.
        apart: whether the model computes samples of one row independently when they are joined.
        name: name of the source in messages.
        asks: whether two items of one row may decide that samples must not be joined, because the shapes of later items
            are unknown: they must not if the model computes different results for the joined items.
    """

    def __init__(
        self, source: Source, specs: Specs, axes: Mapping[str, int], apart: Apart, name: str, asks: bool = False
    ) -> None:
        self._source, self._specs, self._axes, self._decide, self._name = source, specs, axes, apart, name
        self._asks = asks
        # up to two items of one row whose values differ
        self._unlike: list[dict[str, Array]] = []
        self._splits: bool | None = None
        # if none of the items read could decide: how many of them have one row
        self._undecided: int | None = None
        self._several = self._joint = self._searched = False
        # index of the first row of each item read so far, and of the next item
        self._starts = [0]
        self._complete = False

    @property
    def cut(self) -> int:
        """See ``Source``."""
        return self._source.cut

    @property
    def together(self) -> bool:
        """Whether the rows of an item belong together as one sample, such as the nodes of a graph.

        If so, an item of one row is also a whole sample, which must not be joined with others. The same holds for an
        item whose inputs have unequal sizes along the axis, such as a past of several steps and one token: the axis is
        then not a batch axis. A few items are read to decide. If each of these has one row, the shapes of all items
        decide, if they are known without reading all values; else whether the model computes the same for two items
        when they are joined.
        """
        self._settle()
        if self._undecided is not None and not self._joint and not self._searched:
            self._searched = True
            mixed = len(self._unlike) == 2 and not self._decide(self._axes, self._unlike)
            self._joint = self._later_together() or mixed
        return self._joint

    def _later_together(self) -> bool:
        """Whether the first item of several rows that can decide, after those already read, is one sample.

        It is found by the shapes of all items. An item whose rows may be samples is refused when it is read.
        """
        for index, shapes in enumerate(self._source.shapes()):
            if index >= _LOOKED and self._differ(shapes):
                return True
            if index < _LOOKED or self._rows_in(shapes, []) == 1:
                continue
            _, origin, (inputs, labels) = next(self._source.read(index.__eq__))
            if self._count(inputs, labels) == 1:
                return True
            if two := self._two(inputs, origin):
                return not self._decide(self._axes, two)
        return False

    def apart(self) -> Finding | None:
        """The finding that items were split into rows (reads all items once), or that this could not be decided.

        None if no item has several rows, or the model shows that the rows of an item are one sample.
        """
        rows = len(self)
        if self._splits:
            return DataCode.ROWS_APART(items=len(self._starts) - 1, rows=rows, data=self._name)
        several = self._undecided is not None and self._several
        return DataCode.ROWS_UNDECIDED(items=rows, data=self._name) if several else None

    def __len__(self) -> int:
        """Number of samples; if items hold several, all items are read once to count them."""
        self._settle()
        if self._splits and not self._complete:
            # reads everything and keeps nothing
            next(self.read(lambda row: False), None)
        return self._starts[-1] if self._splits else len(self._source)

    def shapes(self) -> Iterable[Mapping[str, Shape]]:
        """See ``Source``; shapes of the other source's items, whether or not they are split."""
        return self._source.shapes()

    def read(self, keep: Keep) -> Iterator[tuple[int, str, InputsAndLabels]]:
        """See ``Source``."""

        def wanted(item: int) -> bool:
            if self._splits is False:
                return keep(item)
            # the number of rows of an unread item is unknown
            known = item + 1 < len(self._starts)
            return not known or any(map(keep, range(self._starts[item], self._starts[item + 1])))

        items = self._source.read(wanted)
        for item, origin, (inputs, labels) in self._settled(items) if self._splits is None else items:
            count = self._count(inputs, labels)
            if self._splits is not False and item + 1 == len(self._starts):
                self._starts.append(self._starts[item] + count)
            if not self._splits:
                self._several |= count > 1
                if count > 1 and self._undecided is not None:
                    self._require_together(inputs, origin, count, self._undecided)
                if keep(item):
                    yield item, origin, (inputs, labels)
                continue
            for row, index in enumerate(range(self._starts[item], self._starts[item + 1])):
                if keep(index):
                    yield index, origin, (inputs, labels) if count == 1 else self._row(inputs, labels, row)
        self._complete = bool(self._splits)

    def _settle(self) -> None:
        if self._splits is None:
            next((one for one in self._settled(self._source.read(lambda item: True)) if self._splits is not None), None)

    def _settled(self, items: Iterator[Item]) -> Iterator[Item]:
        """Yield the same items, after the first item that can decide has done so.

        Items are held back only from the first one of several rows: before it, items and rows have the same indices.
        """
        held, singles = list[Item](), 0
        for one in islice(items, _LOOKED):
            _, origin, (inputs, labels) = one
            single = self._count(inputs, labels) == 1
            singles += single
            # one sample of several rows: its label has length 1, or its inputs have unequal sizes along the axis
            self._joint |= single and (self._rows(inputs) > 1 or self._differ(self._shapes_of(inputs)))
            if single and self._asks and len(self._unlike) < 2:
                self._remember(inputs, origin)
            if single and not held:
                yield one
                continue
            held.append(one)
            if not single and (two := self._two(inputs, origin)):
                self._splits = self._decide(self._axes, two)
                self._joint = not self._splits
                break
        if self._splits is None:
            self._splits, self._undecided = False, singles
        yield from chain(held, items)

    def _remember(self, inputs: Mapping[str, Array], origin: str) -> None:
        """Keep up to two items of one row that differ."""
        whole = fit_to_specs(inputs, self._specs, origin)
        if not self._unlike:
            self._unlike.append(whole)
            return
        first = self._unlike[0]
        same = {name for name in whole if np.array_equal(whole[name], first[name])}
        alike = all(whole[name].shape == first[name].shape for name in whole)
        if alike and not self._axes.keys() <= same and whole.keys() - self._axes.keys() <= same:
            self._unlike.append(whole)

    def _require_together(self, inputs: Mapping[str, Array], origin: str, count: int, singles: int) -> None:
        """Check that an item of several rows, after items that could not decide, is one sample.

        Raises:
            DataError: the model computes its rows independently, so each may be a sample like the items before.
        """
        if not (two := self._two(inputs, origin)):
            return
        if self._decide(self._axes, two):
            before = "one" if singles >= _LOOKED else "one, or identical rows, which show nothing"
            raise DataError(
                f"it holds {count} rows, and each of the first {_LOOKED} items {before}: each row may be a sample, or "
                "all",
                where=origin,
                remedy="give every sample separately, or a batch of several rows that differ first",
            )
        self._undecided, self._joint = None, True

    def _rows(self, inputs: Mapping[str, Array]) -> int:
        """Number of rows of an item along the batch axis; 1 if its inputs disagree or lack the axis."""
        return self._count(inputs, {})

    def _count(self, inputs: Mapping[str, Array], labels: Mapping[str, Array]) -> int:
        """Number of samples that an item may hold: its rows if all inputs and labels agree on them, else 1."""
        return self._rows_in(self._shapes_of(inputs), map(len, labels.values()))

    def _shapes_of(self, inputs: Mapping[str, Array]) -> dict[str, Shape]:
        return {name: inputs[name].shape for name in self._axes}

    def _differ(self, shapes: Mapping[str, Shape]) -> bool:
        """Whether an item's inputs have unequal sizes along the assumed batch axis."""
        extents = {
            shape[axis]
            for name, axis in self._axes.items()
            if len(shape := shapes.get(name, ())) == len(self._specs[name].dims or ())
        }
        return len(extents) > 1

    def _rows_in(self, shapes: Mapping[str, Shape], labels: Iterable[int]) -> int:
        """Like ``_count``, from the shapes of an item's inputs and the lengths of its labels."""
        ranks = {name: len(self._specs[name].dims or ()) for name in self._axes}
        if any(len(shapes.get(name, ())) != rank for name, rank in ranks.items()):
            return 1
        found = {shapes[name][axis] for name, axis in self._axes.items()} | set(labels)
        return max(1, *found) if len(found) == 1 else 1

    def _row(self, inputs: dict[str, Array], labels: dict[str, Array], row: int) -> InputsAndLabels:
        one = slice(row, row + 1)
        return rows_of(inputs, self._axes, one), {name: value[one] for name, value in labels.items()}

    def _two(self, inputs: Mapping[str, Array], origin: str) -> list[dict[str, Array]]:
        """Two differing rows of an item, with the model's dtypes; if all rows are equal, one row and a rolled copy of
        it.

        Empty if even these are equal: a single repeated value cannot show whether the model mixes rows.
        """
        whole = fit_to_specs(inputs, self._specs, origin)
        first, *others = (rows_of(whole, self._axes, slice(i, i + 1)) for i in range(self._count(whole, {})))
        for other in (*others, moved(first, self._axes, 1)):
            if any(not np.array_equal(first[name], other[name]) for name in self._axes):
                return [first, other]
        return []


def moved(sample: Mapping[str, Array], axes: Mapping[str, int], steps: int) -> dict[str, Array]:
    """A copy of a sample whose values are rolled by ``steps`` positions; inputs without a batch axis stay unchanged."""
    return {
        name: np.roll(value.reshape(-1), steps).reshape(value.shape) if name in axes else value
        for name, value in sample.items()
    }
