"""Samples that come several at once, as a loader's batches do: taken apart where the model computes each by itself."""

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
"""Items that are read to decide."""
Apart = Callable[[Mapping[str, int], Sequence[Mapping[str, Array]]], bool]
"""Takes by input the axis of samples, and two samples of one row; see ``batch_probe.rows_are_independent``."""


def by_rows(source: Source, specs: Specs, apart: Apart, name: str) -> Source:
    """The source, with items of several rows taken apart where their rows are samples.

    The dimension has to be named after samples or not at all, and the model must compute the rows of an item that
    ``apart`` is shown as it computes them together; the rows of others are one sample. ``name`` is what messages call
    the source.
    """
    axes = axes_of(specs)
    called = [dims[axis] for name, axis in axes.items() if (dims := specs[name].dims)]
    if not axes or any(isinstance(one, int) for one in called):
        return source
    named = all(map(may_be_batch, called))
    asks = named and isinstance(source, Feeds) and source.shapes_unknown
    return RowsAsSamples(source, specs, axes, apart if named else lambda axes, samples: False, name, asks)


class RowsAsSamples:
    """Another source's samples, each row one where items hold several.

    The first item that can decide does so for all: one of several rows that differ. It is looked for among the first
    few; where these have one row each, or rows of one value, each counts as a sample, and a later one whose rows may be
    samples is refused: it is not known then what a sample is.

    Args:
        source: the source.
        specs: the model's inputs.
        axes: by input the axis along which samples are joined.
        apart: whether the model computes samples of one row as it computes them together.
        name: what messages call the source.
        asks: whether two items of one row show that they may not be joined, where nothing tells the shapes of those
            to come: the model computes them otherwise together.
    """

    def __init__(
        self, source: Source, specs: Specs, axes: Mapping[str, int], apart: Apart, name: str, asks: bool = False
    ) -> None:
        self._source, self._specs, self._axes, self._decide, self._name = source, specs, axes, apart, name
        self._asks = asks
        # up to two items of one row that differ
        self._unlike: list[dict[str, Array]] = []
        self._splits: bool | None = None
        # of the items that were looked at, how many have one row, where none decided
        self._undecided: int | None = None
        self._several = self._joint = self._searched = False
        # the first row of each item that has been read, and of the next one
        self._starts = [0]
        self._complete = False

    @property
    def cut(self) -> int:
        """See ``Source``."""
        return self._source.cut

    @property
    def together(self) -> bool:
        """Whether the rows of an item are one sample, as the nodes of a graph: an item of one row is one too then, and
        nothing that it could be joined with others to. So is one whose inputs have unequal extents along the axis, as
        of a past of several steps beside one token: the axis counts no samples. A few items are read to tell it, where
        they have not been, and where these have one row each, the shapes of all, as far as they are known without
        reading once more; else whether the model computes two of them together as it computes each.
        """
        self._settle()
        if self._undecided is not None and not self._joint and not self._searched:
            self._searched = True
            mixed = len(self._unlike) == 2 and not self._decide(self._axes, self._unlike)
            self._joint = self._later_together() or mixed
        return self._joint

    def _later_together(self) -> bool:
        """Whether the first item of several rows that can tell, after those that were looked at, is one sample.

        It is found by the shapes of all. An item whose rows may be samples is refused when it is read.
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
        """How many items of how many rows were taken apart, for which all are read once, or that this was undecided.

        None where no item has several rows, or the model shows that these are one sample.
        """
        rows = len(self)
        if self._splits:
            return DataCode.ROWS_APART(items=len(self._starts) - 1, rows=rows, data=self._name)
        several = self._undecided is not None and self._several
        return DataCode.ROWS_UNDECIDED(items=rows, data=self._name) if several else None

    def __len__(self) -> int:
        """How many samples there are; where items hold several, all are read for it once."""
        self._settle()
        if self._splits and not self._complete:
            # nothing is kept, and all is read
            next(self.read(lambda row: False), None)
        return self._starts[-1] if self._splits else len(self._source)

    def shapes(self) -> Iterable[Mapping[str, Shape]]:
        """See ``Source``; those of the other source's items, taken apart or not."""
        return self._source.shapes()

    def read(self, keep: Keep) -> Iterator[tuple[int, str, InputsAndLabels]]:
        """See ``Source``."""

        def wanted(item: int) -> bool:
            if self._splits is False:
                return keep(item)
            # how many an unread item holds is not known
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
        """The same items, of which the first that can decide has decided.

        Only those from one of several rows on are held for it: before it, items and rows have the same numbers.
        """
        held, singles = list[Item](), 0
        for one in islice(items, _LOOKED):
            _, origin, (inputs, labels) = one
            single = self._count(inputs, labels) == 1
            singles += single
            # a label says that they are one sample, or an axis counts something else
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
        """Keep an item of one row that is unlike the one that is kept, if any."""
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
        """Check that an item of several rows, after many that decided nothing, is one sample.

        Raises:
            DataError: the model computes its rows each by itself, so that they may be samples as those before were.
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
        """How many rows an item has, as the model takes it; 1 where its inputs do not agree, or lack the axis."""
        return self._count(inputs, {})

    def _count(self, inputs: Mapping[str, Array], labels: Mapping[str, Array]) -> int:
        """How many samples an item may hold: its rows, where all that has an axis of samples has as many; else 1."""
        return self._rows_in(self._shapes_of(inputs), map(len, labels.values()))

    def _shapes_of(self, inputs: Mapping[str, Array]) -> dict[str, Shape]:
        return {name: inputs[name].shape for name in self._axes}

    def _differ(self, shapes: Mapping[str, Shape]) -> bool:
        """Whether an item's inputs have unequal extents along what was taken for the axis of samples."""
        extents = {
            shape[axis]
            for name, axis in self._axes.items()
            if len(shape := shapes.get(name, ())) == len(self._specs[name].dims or ())
        }
        return len(extents) > 1

    def _rows_in(self, shapes: Mapping[str, Shape], labels: Iterable[int]) -> int:
        """``_count`` by the shapes of an item's inputs and the lengths of its labels."""
        ranks = {name: len(self._specs[name].dims or ()) for name in self._axes}
        if any(len(shapes.get(name, ())) != rank for name, rank in ranks.items()):
            return 1
        found = {shapes[name][axis] for name, axis in self._axes.items()} | set(labels)
        return max(1, *found) if len(found) == 1 else 1

    def _row(self, inputs: dict[str, Array], labels: dict[str, Array], row: int) -> InputsAndLabels:
        one = slice(row, row + 1)
        return rows_of(inputs, self._axes, one), {name: value[one] for name, value in labels.items()}

    def _two(self, inputs: Mapping[str, Array], origin: str) -> list[dict[str, Array]]:
        """Two rows of an item that differ, as the model takes them; of equal rows one with its values moved.

        Empty where they are still equal then: a single repeated value does not show how the model mixes rows.
        """
        whole = fit_to_specs(inputs, self._specs, origin)
        first, *others = (rows_of(whole, self._axes, slice(i, i + 1)) for i in range(self._count(whole, {})))
        for other in (*others, moved(first, self._axes, 1)):
            if any(not np.array_equal(first[name], other[name]) for name in self._axes):
                return [first, other]
        return []


def moved(sample: Mapping[str, Array], axes: Mapping[str, int], steps: int) -> dict[str, Array]:
    """Another sample of the same shapes and values, each moved by so many places; what serves all samples stays."""
    return {
        name: np.roll(value.reshape(-1), steps).reshape(value.shape) if name in axes else value
        for name, value in sample.items()
    }
