"""What code supplies as samples: lists, iterators, functions, data sets and loaders, read from the start each time."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from contextlib import contextmanager
from typing import Any

import numpy as np

from toolkit.base.code import failure_of
from toolkit.base.errors import FAILURES, DataError
from toolkit.base.reads import aside
from toolkit.base.types import Array

MOST_SAMPLES = 1_000_000
"""What is read of a source that does not say how many samples it has, before it counts as one that never ends."""
_END = object()
_SHOWN = 4


def each(feeds: Iterable[Any], where: str) -> Iterator[Any]:
    """The feeds one by one.

    Raises:
        DataError: the iterable failed, and the message names the sample; or it does not say how many samples it has and
            has not ended after ``MOST_SAMPLES``.
    """
    number = 0
    with as_supplier_failure(where, "at sample 0"):
        remaining = iter(feeds)
    while True:
        with as_supplier_failure(where, f"at sample {number}"):
            feed = next(remaining, _END)
        if feed is _END:
            return
        if number >= MOST_SAMPLES and number >= (length_of(feeds, where) or 0):
            raise endless(f"{number:,} samples", where)
        yield feed
        number += 1


def endless(read: str, where: str, instead: str = "") -> DataError:
    """The error for samples that do not end; ``read`` says how much has come, ``instead`` what else to do."""
    return DataError(
        f"it has not ended after {read}, and samples are read until there are no more",
        where=where,
        remedy=f"{instead}end it, as itertools.islice(samples, 512) does, or set samples in the recipe, which takes as "
        "many of its first ones",
    )


def length_of(feeds: Iterable[Any], where: str) -> int | None:
    """How many samples an iterable says it has; None where it does not say.

    A TypeError in ``len`` is Python's word for "it has none": torch's DataLoader of a stream raises it.
    """
    counted = getattr(feeds.loader, "dataset", None) if isinstance(feeds, BatchRows) else feeds
    with as_supplier_failure(where, "in len()"):
        try:
            return len(counted) if isinstance(counted, Sized) else None
        except TypeError:
            return None


def mapping(feed: Any, where: str) -> Mapping[str, Any]:
    """A sample as the dictionary that it has to be.

    Raises:
        DataError: it is none.
    """
    if not isinstance(feed, Mapping):
        raise DataError(
            f"a sample is of type {type(feed).__name__}",
            where=where,
            remedy="give dictionaries from input names to arrays"
            + (
                ", such as {'input': item[0], 'label': item[1]} of each item" if isinstance(feed, (tuple, list)) else ""
            ),
        )
    return feed


def as_array(value: Any, where: str) -> Array:
    """A value of a sample as an array.

    Raises:
        DataError: it cannot become one.
    """
    with as_supplier_failure(where, "to become an array"):
        return np.asarray(_on_host(value))


def _on_host(value: Any) -> Any:
    """A tensor of another library as numpy reads it: copied from a GPU, without its gradient, bfloat16 as float32."""
    if isinstance(value, (np.ndarray, np.generic, list, tuple, int, float, str)):
        return value
    if callable(getattr(value, "detach", None)) and callable(getattr(value, "cpu", None)):
        held = value.detach().cpu()
        return held.float() if str(getattr(held, "dtype", "")) == "torch.bfloat16" else held
    if hasattr(value, "__cuda_array_interface__") and callable(getattr(value, "get", None)):
        return value.get()
    if hasattr(value, "__dlpack__") and not hasattr(value, "__array__"):
        return np.from_dlpack(value)
    return value


@contextmanager
def as_supplier_failure(where: str, doing: str) -> Iterator[None]:
    """The block runs code of whoever supplies the samples: a failure in it is reported as theirs.

    Raises:
        DataError: something failed.
    """
    try:
        # what it reads is known by the samples that it yields
        with aside():
            yield
    except DataError:
        # what is wrong with the samples is reported already, see ``BatchRows``
        raise
    except FAILURES as error:
        raise DataError(
            f"{where} failed {doing}: {failure_of(error)}",
            remedy="fix the code that yields the samples; --debug shows the traceback",
        ) from error


def repeatable(source: Any, where: str) -> Callable[[], Iterable[Any]]:
    """A function that returns the samples from the start each time.

    A function or class is called each time; an iterator, which can be read only once, is read into memory, and so is
    what has ``get_next``, as onnxruntime's CalibrationDataReader. A loader
    that collates samples into batches of dictionaries, as torch's DataLoader does, yields their rows one by one, and a
    data set that is only indexed, as torch's are, its items, also where it is what a function returns.

    Raises:
        DataError: it cannot be iterated, or does not end.
    """
    if _collates(source):
        if type(getattr(source, "sampler", None)).__name__ == "RandomSampler":
            raise DataError(
                "the loader shuffles, so each pass over it yields different samples",
                where=where,
                remedy="set shuffle = False",
            )
        return lambda: BatchRows(source, where)
    if callable(source):
        return lambda: _called(source, where)
    source = _iterable(source, where)
    if isinstance(source, Iterator):
        held = list(_within_memory(source, where))
        return lambda: held
    return lambda: source


def _within_memory(feeds: Iterator[Any], where: str) -> Iterator[Any]:
    size, most = 0, most_held()
    for number, feed in enumerate(each(feeds, where), 1):
        if isinstance(feed, Mapping):
            size += sum(getattr(value, "nbytes", 0) for value in feed.values())
        if size > most:
            raise too_large(number, size, where)
        yield feed


def too_large(number: int, size: int, where: str) -> DataError:
    """The error for an iterator that fills the memory: ``number`` samples of ``size`` bytes have come from it."""
    read = f"{number:,} samples, which take {size / 1e9:.3g} GB of memory"
    return endless(read, where, "give a function that returns the iterator, so that nothing need be kept; or ")


def most_held() -> int:
    """Bytes that the samples of an iterator may take, since it can be read only once: half of the machine's memory."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2


def feeds_once(source: Any, where: str) -> Iterable[Any]:
    """The samples of ``source`` for one pass: as ``repeatable``, but of an iterator nothing is kept."""
    return source if isinstance(source, Iterator) else repeatable(source, where)()


def arrays_of(feeds: Iterable[Any], where: str) -> Iterator[dict[str, Array]]:
    """Every sample of an iterable as arrays, as ``Feeds`` reads them; names are not checked.

    Raises:
        DataError: it failed, a sample is no dictionary, or there is no end to them.
    """
    for index, feed in enumerate(each(feeds, where)):
        one = f"{where}, sample {index}"
        yield {name: as_array(value, f"{one}, '{name}'") for name, value in mapping(feed, one).items()}


class BatchRows:
    """The samples of collated batches: row i of every array, with an axis of length 1 before it.

    Args:
        loader: yields the batches.
        where: what messages call it.
    """

    def __init__(self, loader: Iterable[Any], where: str) -> None:
        self.loader, self._where = loader, where

    def __iter__(self) -> Iterator[dict[str, Array]]:
        where = self._where
        for batch in self.loader:
            if not isinstance(batch, Mapping):
                raise DataError(
                    f"a batch is of type {type(batch).__name__}",
                    where=where,
                    remedy="let the data set return dictionaries from input names to arrays",
                )
            arrays = {name: as_array(value, f"{where}, '{name}'") for name, value in batch.items()}
            # a number that is not collated is one for all samples
            lengths = {len(values) for values in arrays.values() if values.ndim}
            if len(lengths) != 1 or 0 in lengths:
                raise DataError(
                    f"the arrays of a batch have {sorted(lengths)} rows",
                    where=where,
                    remedy="collate samples along axis 0",
                )
            for row in range(lengths.pop()):
                yield {name: values[row : row + 1] if values.ndim else values for name, values in arrays.items()}


class IndexedSet:
    """The items of a data set that is indexed and not iterated, as torch's map-style data sets are.

    Such an item is one sample, mostly without the axis that samples are joined along.

    Args:
        items: has ``__getitem__`` and ``__len__``.
    """

    def __init__(self, items: Any) -> None:
        self._items = items

    def __len__(self) -> int:
        return len(self._items)

    def __iter__(self) -> Iterator[Any]:
        return (self._items[index] for index in range(len(self)))


def _called(make: Callable[[], Any], where: str) -> Iterable[Any]:
    with as_supplier_failure(where, "when called"):
        made = make()
    return BatchRows(made, where) if _collates(made) else _iterable(made, where)


def _collates(source: Any) -> bool:
    """Whether it is a loader whose items are batches of samples, as torch's DataLoader is; its class is not one yet."""
    held = (getattr(source, "dataset", None), getattr(source, "batch_size", None))
    return not isinstance(source, type) and all(value is not None for value in held)


def _iterable(value: Any, where: str) -> Iterable[Any]:
    if isinstance(value, Mapping):
        keys = ", ".join(f"'{key}'" for key in list(value)[:_SHOWN])
        raise DataError(
            f"the data are one dictionary ({keys}), not one for each sample",
            where=where,
            remedy="yield [dict(zip(arrays, row)) for row in zip(*arrays.values())] of such arrays, or store them with "
            "numpy.savez and give the file's path",
        )
    if isinstance(value, Iterable):
        return value
    if callable(get_next := getattr(value, "get_next", None)):
        return iter(get_next, None)
    if hasattr(value, "__getitem__") and isinstance(value, Sized):
        return IndexedSet(value)
    fault = "has __getitem__ but no __len__" if hasattr(value, "__getitem__") else "cannot be iterated"
    raise DataError(
        f"the data are of type {type(value).__name__}, which {fault}",
        where=where,
        remedy="give a list, a generator function, an object with __iter__, or one with __len__ and __getitem__",
    )
