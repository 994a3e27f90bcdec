"""Samples supplied by code: lists, iterators, functions, data sets and loaders, re-read from the start each time."""

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
"""Most samples read from a source of unknown length before it is reported as endless."""
_END = object()
_SHOWN = 4


def each(feeds: Iterable[Any], where: str) -> Iterator[Any]:
    """Yield the feeds one by one.

    Raises:
        DataError: the iterable raised an error (the message names the sample), or its length is unknown and it has not
            ended after ``MOST_SAMPLES``.
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
    """The error for samples that do not end; ``read`` says how much was read, ``instead`` is a further remedy."""
    return DataError(
        f"it has not ended after {read}, and samples are read until there are no more",
        where=where,
        remedy=f"{instead}end it, as itertools.islice(samples, 512) does, or set samples in the recipe, which takes as "
        "many of its first ones",
    )


def length_of(feeds: Iterable[Any], where: str) -> int | None:
    """The number of samples that an iterable reports; None if it reports none.

    A TypeError in ``len`` means that there is no length: torch's DataLoader raises it for an iterable data set.
    """
    counted = getattr(feeds.loader, "dataset", None) if isinstance(feeds, BatchRows) else feeds
    with as_supplier_failure(where, "in len()"):
        try:
            return len(counted) if isinstance(counted, Sized) else None
        except TypeError:
            return None


def mapping(feed: Any, where: str) -> Mapping[str, Any]:
    """The sample, checked to be a dictionary.

    Raises:
        DataError: it is not a dictionary.
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
    """A value of a sample as a NumPy array.

    Raises:
        DataError: it cannot be converted.
    """
    with as_supplier_failure(where, "to become an array"):
        return np.asarray(_on_host(value))


def _on_host(value: Any) -> Any:
    """A tensor in a form that numpy can convert: copied from the GPU, detached from autograd, bfloat16 as float32."""
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
    """Report a failure in the block as one of the code that supplies the samples.

    Raises:
        DataError: the block raised an error.
    """
    try:
        # its reads need not be recorded: samples are identified by their content
        with aside():
            yield
    except DataError:
        # errors about the samples themselves are final, see ``BatchRows``
        raise
    except FAILURES as error:
        raise DataError(
            f"{where} failed {doing}: {failure_of(error)}",
            remedy="fix the code that yields the samples; --debug shows the traceback",
        ) from error


def repeatable(source: Any, where: str) -> Callable[[], Iterable[Any]]:
    """A function that returns the samples from the start at each call.

    A function or class is called each time. An iterator, which can be read only once, is read into memory, and so is an
    object with ``get_next``, such as onnxruntime's CalibrationDataReader. A loader that collates samples into batches
    of dictionaries, such as torch's DataLoader, yields their rows one by one. A data set that can only be indexed, such
    as torch's, yields its items. The same holds for the object that a function returns.

    Raises:
        DataError: it cannot be iterated, does not end, or shuffles.
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
    """The error for an iterator that exceeds memory: ``number`` samples of together ``size`` bytes were read."""
    read = f"{number:,} samples, which take {size / 1e9:.3g} GB of memory"
    return endless(read, where, "give a function that returns the iterator, so that nothing need be kept; or ")


def most_held() -> int:
    """Most bytes that the samples of an iterator may take in memory: half of the machine's memory."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2


def feeds_once(source: Any, where: str) -> Iterable[Any]:
    """The samples of ``source`` for one pass: like ``repeatable``, but an iterator's samples are not kept."""
    return source if isinstance(source, Iterator) else repeatable(source, where)()


def arrays_of(feeds: Iterable[Any], where: str) -> Iterator[dict[str, Array]]:
    """Yield every sample of an iterable as arrays, as ``Feeds`` reads them, without checking names.

    Raises:
        DataError: the iterable raised an error, a sample is not a dictionary, or there is no end to the samples.
    """
    for index, feed in enumerate(each(feeds, where)):
        one = f"{where}, sample {index}"
        yield {name: as_array(value, f"{one}, '{name}'") for name, value in mapping(feed, one).items()}


class BatchRows:
    """The samples of collated batches: row i of every array, as an array of length 1 along axis 0.

    Args:
        loader: yields the batches.
        where: name of the loader in messages.
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
            # a scalar that is not collated is shared by all samples
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
    """The items of a data set that is indexed rather than iterated, such as torch's map-style data sets.

    An item is one sample, usually without the batch axis.

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
    """Whether it is a loader that yields batches of samples: an instance of torch's DataLoader, but not the class."""
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
