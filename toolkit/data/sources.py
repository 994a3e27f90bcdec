"""Opens any source of samples, and reads those that are not files of arrays: iterables and Polygraphy's inputs."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from toolkit.base.errors import DataError
from toolkit.base.given import is_given, names_code, taken
from toolkit.base.profiles import Profiles, Shape
from toolkit.base.reads import aside
from toolkit.base.types import Array
from toolkit.data.arrays import open_archive, open_array
from toolkit.data.files import Files
from toolkit.data.folders import open_folder
from toolkit.data.images import Images, holds_images
from toolkit.data.items import refuse_ambiguous, with_batch_axis, with_batch_dimension
from toolkit.data.loaders import BatchRows, as_array, each, length_of, mapping, repeatable
from toolkit.data.random_feeds import random_feeds
from toolkit.data.sample import InputsAndLabels, InputSpec, Keep, Specs, check_names
from toolkit.data.saved_inputs import read_saved_inputs


class Source(Protocol):
    """Samples in a fixed order."""

    @property
    def cut(self) -> int:
        """Rows left over because they do not fill a sample of a fixed batch; known after reading."""
        ...

    def __len__(self) -> int:
        """Number of samples; reads no more than necessary."""
        ...

    def read(self, keep: Keep) -> Iterator[tuple[int, str, InputsAndLabels]]:
        """Yield index, origin, and (inputs, labels) of each sample whose index ``keep`` accepts."""
        ...

    def shapes(self) -> Iterable[Mapping[str, Shape]]:
        """The shapes of each sample's inputs; empty if every sample has one row, or if values would have to be read."""
        ...


@dataclass(frozen=True)
class HeldSamples:
    """Samples that were already read.

    Attributes:
        name: name of their source in messages.
        feeds: the samples.
    """

    name: str
    feeds: Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class LoadedSamples:
    """Samples that code yields anew for each pass.

    Attributes:
        name: name of the samples in messages.
        loader: the object that yields them, see ``repeatable``.
        digests: of each sample when first read, see ``sample_digest``.
        shapes: of each sample's arrays when first read.
        limit: number of samples to read, if the loader yields more; None for all.
    """

    name: str
    loader: Any
    digests: Sequence[bytes]
    shapes: Sequence[Mapping[str, Shape]] = ()
    limit: int | None = None


class Feeds:
    """Samples as dictionaries of arrays, from anything that can be iterated repeatedly.

    Args:
        make: returns the samples from the start.
        where: name of the samples in messages.
        digests: of all samples if known; empty if not yet known and ``make`` might yield others each time. Every pass
            must yield the same samples, or held-out samples could have been used in calibration. None if the samples
            are in memory.
        shapes: of all samples' arrays, if known.
        limit: number of samples to read from the start; None for all.
    """

    def __init__(
        self,
        make: Callable[[], Iterable[Any]],
        specs: Specs,
        where: str,
        digests: Sequence[bytes] | None = None,
        shapes: Sequence[Mapping[str, Shape]] = (),
        limit: int | None = None,
    ) -> None:
        self._make, self._specs, self._where = make, specs, where
        self._limit = limit
        self._digests = list(digests) if digests is not None else None
        self._complete = bool(digests)
        self._count: int | None = None
        self._shapes = [with_batch_dimension(one, specs) for one in shapes]
        self.cut = 0

    def shapes(self) -> Iterable[Mapping[str, Shape]]:
        """See ``Source``."""
        if not self._shapes and self._digests is None:
            self._shapes = [
                {name: value.shape for name, value in self._arrays(feed, self._where).items()}
                for feed in each(self._make(), self._where)
            ]
        return self._shapes

    @property
    def shapes_unknown(self) -> bool:
        """Whether the shapes of all samples are unknown until all values are read once more."""
        return not self._shapes and self._digests is not None

    def __len__(self) -> int:
        """Number of samples: the iterable's length if it has one, else counted by iterating once."""
        if self._count is None and self._digests and self._complete:
            self._count = len(self._digests)
        if self._count is None:
            feeds = self._make()
            # a loader must be iterated: its sampler may leave out samples of the data set
            self._count = None if isinstance(feeds, BatchRows) else length_of(feeds, self._where)
            if self._count is None:
                self._count = sum(1 for _ in each(feeds, self._where))
        return self._count

    def read(self, keep: Keep) -> Iterator[tuple[int, str, InputsAndLabels]]:
        """See ``Source``."""
        index = -1
        feeds = self._make()
        for index, feed in enumerate(islice(each(feeds, self._where), self._limit)):
            where = f"{self._where}, sample {index}"
            wanted = keep(index)
            if not wanted and self._digests is None:
                continue
            feed = mapping(feed, where)
            if self._digests is not None:
                self._require_same(self._digests, index, feed, where)
            if not wanted:
                continue
            check_names(list(feed), self._specs, where)
            arrays = self._arrays(feed, where)
            inputs = {name: value for name, value in arrays.items() if name in self._specs}
            labels = {name: np.atleast_1d(value) for name, value in arrays.items() if name not in self._specs}
            yield index, where, (inputs, labels)
        self._count = index + 1
        if self._digests is not None and self._count < len(self._digests):
            raise _other_samples(f"it yields {self._count} samples, before {len(self._digests)}", self._where)
        self._complete = True

    def _require_same(self, known: list[bytes], index: int, feed: Mapping[str, Any], where: str) -> None:
        found = sample_digest({name: as_array(value, f"{where}, '{name}'") for name, value in feed.items()})
        if index == len(known) and self._complete:
            raise _other_samples(f"it yields more than the {len(known)} samples that it yielded before", where)
        if index == len(known):
            known.append(found)
        elif found != known[index]:
            how = f"it came as sample {known.index(found)} then" if found in known else "its values were not among them"
            raise _other_samples(f"it is not the sample yielded before at this place: {how}", where)

    def _arrays(self, feed: Any, where: str) -> dict[str, Array]:
        """Inputs and labels of a sample, with the batch axis added if it is missing."""
        arrays = {name: self._value(name, value, where) for name, value in mapping(feed, where).items()}
        made = with_batch_axis(arrays, self._specs)
        for name in made.keys() & self._specs.keys():
            if made[name] is not arrays[name]:
                refuse_ambiguous(arrays[name], self._specs[name], where)
        return made

    def _value(self, name: str, value: Any, where: str) -> Array:
        if type(value) in (bool, int, float) and name in self._specs:
            return _number(value, self._specs[name].dtype)
        return as_array(value, f"{where}, '{name}'")


def _other_samples(what: str, where: str) -> DataError:
    return DataError(
        f"{what}; a run reads its samples several times, and would mix held-out ones with those calibrated with",
        where=where,
        remedy="yield the same samples in the same order in every pass: do not shuffle, and seed random augmentation "
        "again at the start of each pass; or store the samples once with numpy.savez",
    )


def sample_digest(arrays: Mapping[str, Array]) -> bytes:
    """SHA-256 over the names, types, shapes and values of a sample; arrays of Python objects are left out."""
    digest = hashlib.sha256()
    for name, values in sorted(arrays.items()):
        if not values.dtype.hasobject:
            digest.update(f"{name}\0{values.dtype}\0{values.shape}\0".encode())
            digest.update(np.ascontiguousarray(values).tobytes())
    return digest.digest()


def _number(value: float, dtype: np.dtype[Any]) -> Array:
    """A Python number, which has no type, as the input's type if that can represent it."""
    given = np.asarray(value)
    with np.errstate(all="ignore"):
        cast = np.asarray(given.astype(dtype))
    rounded = isinstance(value, float) and dtype.kind in "fV"
    return cast if cast == given or (rounded and np.isfinite(cast)) else given


def open_source(
    source: Any,
    specs: Mapping[str, InputSpec],
    profiles: Profiles,
    base: Path,
    allow_code: bool,
    images: Mapping[str, Any] | None,
    random: Mapping[str, Any] | None,
) -> tuple[str, Source]:
    """The name and the source for what a recipe or caller specifies; see ``CalibrationData.open``, also for errors."""
    if random is not None:
        if source is not None:
            raise DataError("both a source and random data are given", remedy="keep one of them")
        return "random data", random_feeds(random, specs, profiles)
    if source is None:
        raise DataError("no source is given", remedy='set data = "path", or random = { seed = 0, samples = 32 }')
    if isinstance(source, HeldSamples):
        return source.name, Feeds(lambda: source.feeds, specs, source.name)
    if isinstance(source, LoadedSamples):
        return source.name, Feeds(
            repeatable(source.loader, source.name), specs, source.name, source.digests, source.shapes, source.limit
        )
    if isinstance(source, str) and is_given(source):
        source = taken(source)
    if isinstance(source, str) and names_code(source) and not (base / source).exists():
        from toolkit.base.code import load_object

        with aside():
            loader = load_object(source, allow_code, "data")
        return source, _given(loader, specs, source)
    if not isinstance(source, (str, Path)):
        return "the iterable", _given(source, specs, "the iterable")
    return str(base / source), _open_path(base / source, specs, images)


def _open_path(path: Path, specs: Specs, images: Mapping[str, Any] | None) -> Source:
    """The source in a file or folder, chosen by the file's suffix or the folder's content."""
    if not path.exists():
        raise DataError("no such file or folder", where=str(path), remedy="check the path of the data")
    if path.is_dir():
        if images is not None or holds_images(path):
            return Images(path, images or {}, specs)
        return open_folder(path, specs)
    ending = path.suffix.lower()
    if ending == ".json":
        feeds = read_saved_inputs(path)
        return Feeds(lambda: feeds, specs, str(path))
    if ending == ".npz":
        return Files([(str(path), path)], specs)
    if ending == ".npy" and len(specs) == 1:
        return Files([(str(path), {next(iter(specs)): path})], specs)
    raise _unsupported(path)


def require_headers(path: Path) -> None:
    """Refuse a file that holds no samples, as its ending and headers tell, before it is read as a whole.

    Raises:
        DataError: its ending is not one of samples; else see ``open_archive`` and ``open_array``.
    """
    if not path.is_file():
        return
    ending = path.suffix.lower()
    if ending == ".npz":
        open_archive(path)
    elif ending == ".npy":
        open_array(path)
    elif ending != ".json":
        raise _unsupported(path)


def _unsupported(path: Path) -> DataError:
    this = f"a '{path.suffix}' file" if path.suffix else "a file without an ending"
    return DataError(
        f"{this} is not supported: .npz, .npy (for a model with one input) and Polygraphy's .json are",
        where=str(path),
        remedy="save the samples with numpy.savez, or yield them from a function of yours: data = 'module:Name'",
    )


def _given(source: Any, specs: Specs, where: str) -> Feeds:
    """Samples supplied by code; those of a sequence or iterator are in memory, and the same in every pass."""
    digests = None if isinstance(source, (list, tuple, Iterator)) else ()
    return Feeds(repeatable(source, where), specs, where, digests)
