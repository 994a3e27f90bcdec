"""Calibration and evaluation data: where samples come from, which profile each belongs to, and how they are batched."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from toolkit.base.errors import DataError
from toolkit.base.profiles import Profiles, Shape
from toolkit.base.types import Array
from toolkit.contract.findings import Code, Finding
from toolkit.contract.journal import Journal
from toolkit.data.batch import Batch, Labels, joined
from toolkit.data.codes import DataCode
from toolkit.data.counts import Counts
from toolkit.data.faults import no_samples, refuse_none
from toolkit.data.finite import FiniteValues
from toolkit.data.fitter import Fitter
from toolkit.data.mask import MaskPadder
from toolkit.data.rows import RowsAsSamples, by_rows
from toolkit.data.sample import (
    EVERYTHING,
    InputSpec,
    Keep,
    Sample,
    SampleFingerprint,
    axes_of,
    check_shared_dims,
    fit_to_specs,
    input_specs,
)
from toolkit.data.sources import Source, open_source
from toolkit.graph.interface.batch_probe import rows_are_independent
from toolkit.graph.model import Model

OUTSIDE = ("error", "skip", "pad", "crop")
_WINDOW_BYTES = 64 << 20
_WINDOW_SAMPLES = 1024
BatchSize = int | Callable[[Mapping[str, Shape]], int]


class CalibrationData:
    """Samples for a model. Create it with ``open``; it can be read repeatedly and keeps only one file in memory.

    Example:
        >>> data = CalibrationData.open("digits.npz", model, profiles)        # doctest: +SKIP
        >>> for batch in data.batches(8):                                     # doctest: +SKIP
        ...     session.run(batch.inputs)
    """

    def __init__(
        self,
        source: Source,
        specs: Mapping[str, InputSpec],
        profiles: Profiles,
        *,
        outside: str = "error",
        labels: bool = False,
        mask: str | None = None,
        journal: Journal | None = None,
        random: bool = False,
        name: str = "data",
        finite: FiniteValues | None = None,
    ) -> None:
        self.specs, self.profiles, self.name = dict(specs), profiles, name
        self.random = random
        self.labels = labels
        self.mask = mask
        self.outside = outside
        self.axes, self._finite = axes_of(specs), finite or FiniteValues()
        self._source, self._journal = source, journal
        self._fitter = Fitter(profiles, self.axes, outside)
        self._padder = MaskPadder(mask, specs, profiles) if mask is not None else None
        self._keep: tuple[Keep, ...] = ()
        self._counts: Counts | None = None
        self._fingerprint = ""

    @classmethod
    def open(
        cls,
        source: Any,
        model: Model,
        profiles: Profiles | None = None,
        *,
        outside: str = "error",
        labels: bool = False,
        base: str | Path = ".",
        journal: Journal | None = None,
        allow_code: bool = False,
        images: Mapping[str, Any] | None = None,
        random: Mapping[str, Any] | None = None,
        mask: str | None = None,
    ) -> CalibrationData:
        """Open a source of samples. Only file headers are checked; values are read when needed.

        Args:
            source: path of an .npz file, of a folder of .npz, .npy or image files, or of inputs saved by Polygraphy
                (.json); an iterable of dictionaries from input names to arrays, or a function that returns one;
                ``module:Name`` of such an object; None with ``random``.
            model: the model, whose inputs the samples must fit.
            profiles: the recipe's profiles; without any, every sample counts for ``default``.
            outside: what to do with a sample that fits no profile: ``error``, ``skip``, ``pad`` (with zeros at the end,
                up to the nearest profile's min) or ``crop`` (to the nearest profile's max).
            labels: whether labels are needed (keys ``label`` or ``labels``).
            base: the folder that relative paths refer to.
            journal: receives a finding about samples that were skipped, changed or cut.
            allow_code: whether ``module:Name`` may be imported.
            images: settings for a folder of images, see ``toolkit.data.images.Images``.
            random: ``{"seed": int, "samples": int}`` for seeded random samples instead of a source.
            mask: name of the mask input, if samples may be padded to equal shapes to share batches.

        Raises:
            DataError: the source does not exist, or its samples do not fit the model.
            NotAllowedError: ``module:Name`` is given without ``allow_code``.
        """
        profiles = profiles if profiles is not None else Profiles()
        specs = input_specs(model)
        if outside not in OUTSIDE:
            raise DataError(f"outside is '{outside}'", remedy="one of " + ", ".join(OUTSIDE))
        if not specs:
            raise DataError("the model has no inputs, so there is nothing to calibrate", where=str(model.source or ""))
        name, opened = open_source(source, specs, profiles, Path(base), allow_code, images, random)
        if random is None:
            opened = by_rows(opened, specs, partial(rows_are_independent, model), name)
        elif journal is not None:
            journal.noted(Code.RANDOM_DATA(seed=random["seed"]))
        return cls(
            opened, specs, profiles, outside=outside, labels=labels, mask=mask, journal=journal,
            random=random is not None, name=name, finite=FiniteValues(model),
        )  # fmt: skip

    @property
    def can_batch(self) -> bool:
        """Whether samples may be joined; False if the rows of a sample belong together, like the nodes of a graph."""
        return bool(self.axes) and not (isinstance(self._source, RowsAsSamples) and self._source.together)

    # ---------------------------------------------------------------- reading

    def samples(self, keep: Keep | None = None, tally: SampleFingerprint | None = None) -> Iterator[Sample]:
        """Yield every sample in the source's order, checked, with its profiles.

        Args:
            keep: takes a sample's index; samples for which it returns False are skipped without being read.
            tally: receives every sample as the source yields it, including those that fit no profile.

        Raises:
            DataError: a sample does not fit the model or any profile; the message names file, sample, input, value.
        """
        counts = Counts(per_profile=dict.fromkeys(self.profiles.names or [EVERYTHING], 0))
        for given in self.all_samples(keep):
            if tally is not None:
                tally.add(given)
            sample = self._fitter.fit(given)
            if sample is None:
                counts.skipped += 1
                continue
            counts.samples += 1
            counts.padded += sample.change == "padded"
            counts.cropped += sample.change == "cropped"
            for profile in sample.profiles:
                counts.per_profile[profile] += 1
            yield sample if self._padder is None else self._padder.pad(sample)
        if keep is None:
            counts.cut = self._source.cut
            self._note(counts)

    def batches(
        self, size: BatchSize = 8, keep: Keep | None = None, tally: SampleFingerprint | None = None
    ) -> Iterator[Batch]:
        """Yield samples joined into batches of equal shapes, in a deterministic order that depends on ``size``.

        A sample waits for others of its shape within a window of bounded size.

        Args:
            size: the most samples per batch, or a function that returns it for the input shapes of one sample; in any
                case limited by the largest batch of the sample's profiles.
            keep: see ``samples``.
            tally: see ``samples``.

        Raises:
            DataError: a sample does not fit, or ``size`` is less than 1.
        """
        if not callable(size):
            refuse_none(size)
        waiting: dict[Any, list[Sample]] = {}
        held_bytes = held = 0
        for sample in self.samples(keep, tally):
            limit = size(sample.shapes) if callable(size) else size
            limit = min(limit, self._largest(sample.profiles))
            if limit <= 1 or not self._joins(sample):
                yield self._join([sample])
                continue
            key = (
                sample.profiles,
                *sorted(sample.shapes.items()),
                *((n, v.shape) for n, v in sample.labels.items()),
                *(sample.inputs[n].tobytes() for n, spec in self.specs.items() if spec.shared),
            )
            group = waiting.setdefault(key, [])
            group.append(sample)
            held, held_bytes = held + 1, held_bytes + sample.nbytes
            while len(group) >= limit or held > _WINDOW_SAMPLES or held_bytes > _WINDOW_BYTES:
                fullest = key if len(group) >= limit else max(waiting, key=lambda k: len(waiting[k]))
                ready = waiting.pop(fullest)
                held, held_bytes = held - len(ready), held_bytes - sum(one.nbytes for one in ready)
                yield self._join(ready)
                group = waiting.get(key, [])
        for ready in waiting.values():
            yield self._join(ready)

    def _joins(self, sample: Sample) -> bool:
        return self.can_batch and all(sample.inputs[name].shape[axis] == 1 for name, axis in self.axes.items())

    def _largest(self, profiles: tuple[str, ...]) -> int:
        """The largest batch size that any of these profiles allows."""
        largest = 0
        for profile in self.profiles:
            if profile.name in profiles:
                sizes = [e.max[self.axes[name]] for name, e in profile.shapes.items() if name in self.axes]
                largest = max(largest, min(sizes, default=1 << 30))
        return largest or 1 << 30

    def _join(self, group: list[Sample]) -> Batch:
        first = group[0]
        inputs = {
            name: joined([sample.inputs[name] for sample in group], self.axes[name]) if name in self.axes else value
            for name, value in first.inputs.items()
        }
        labels = Labels({name: joined([sample.labels[name] for sample in group]) for name in first.labels})
        labels.indices = tuple(sample.index for sample in group)
        origins = [sample.origin for sample in group]
        known = labels if self.labels else None
        return Batch(inputs, len(group), first.profiles, origins, labels.indices, known, self.axes)

    def _checked(self, index: int, origin: str, inputs: Mapping[str, Any], labels: dict[str, Array]) -> Sample:
        if self.labels and not labels:
            raise DataError("there are no labels", where=origin, remedy="add a 'label' array with a row per sample")
        fitted = fit_to_specs(inputs, self.specs, origin)
        self._finite.check(fitted, origin)
        sample = Sample(fitted, index, origin, (), labels if self.labels else {})
        check_shared_dims(sample, self.specs)
        return sample

    def _accepts(self, keep: Keep | None) -> Keep:
        tests = self._keep if keep is None else (*self._keep, keep)
        return lambda index: all(test(index) for test in tests)

    def _indices(self) -> list[int]:
        return list(filter(self._accepts(None), range(len(self._source))))

    def shard(self, part: int, of: int) -> Keep:
        """Accepts the index of every ``of``-th of these samples, starting with the ``part``-th, counted from 1."""
        return frozenset(self._indices()[part - 1 :: of]).__contains__

    # ---------------------------------------------------------------- counts and findings

    def __len__(self) -> int:
        """Number of samples in the source, before any is skipped."""
        return self.count()

    @property
    def counts(self) -> Counts:
        """How the samples were used; reads all of them once if that has not been done."""
        if self._counts is None:
            for _ in self.samples():
                pass
        assert self._counts is not None
        return self._counts

    def changed(self) -> list[Finding]:
        """Findings about samples that were skipped, padded, cropped or cut; reads all samples if any may have been."""
        # rows cut from the whole data are not reported for a part of it
        cut = 0 if self._keep else self._source.cut
        counts = Counts(cut=cut) if self.outside == "error" else replace(self.counts, cut=cut)
        return counts.changed(self.name)

    def no_samples_error(self) -> DataError:
        """The error for data without a usable sample: there are none, or none fits a profile."""
        return no_samples(self.name, self._counts.skipped if self._counts is not None else 0)

    def rows_as_samples(self) -> Finding | None:
        """The finding that the rows of the source's items count as samples; None if each item is one sample."""
        return self._source.apart() if isinstance(self._source, RowsAsSamples) else None

    def count(self, keep: Keep | None = None) -> int:
        """Number of samples that ``keep`` accepts, before any is skipped."""
        if keep is None and not self._keep:
            return len(self._source)
        return sum(map(self._accepts(keep), range(len(self._source))))

    def labels_of_some(self, most: int | None = None) -> Finding | None:
        """The finding that only some samples have labels, or None; reads the first ``most`` samples (None: all)."""
        having: dict[bool, list[str]] = {True: [], False: []}
        for _, origin, (_, labels) in islice(self._source.read(self._accepts(None)), most):
            having[bool(labels)].append(origin)
        if not all(having.values()):
            return None
        labelled, samples = len(having[True]), sum(map(len, having.values()))
        return DataCode.LABELS_OF_SOME(
            labelled=labelled, samples=samples, labelled_at=having[True][0], without_at=having[False][0]
        )

    def all_samples(self, keep: Keep | None = None) -> Iterator[Sample]:
        """Yield every sample as the source yields it, checked, including samples that fit no profile."""
        for index, origin, (inputs, labels) in self._source.read(self._accepts(keep)):
            yield self._checked(index, origin, inputs, labels)

    def fingerprint(self) -> str:
        """SHA-256 of the content of all samples; independent of their order, file names and times."""
        if not self._fingerprint:
            tally = SampleFingerprint()
            for sample in self.all_samples():
                tally.add(sample)
            self._fingerprint = tally.fingerprint()
        return self._fingerprint

    def _note(self, counts: Counts) -> None:
        first, self._counts = self._counts is None, counts
        if not first or self._journal is None:
            return
        note = self._journal.noted
        for changed in counts.changed(self.name):
            note(changed)
        if apart := self.rows_as_samples():
            note(apart)
        for profile, number in counts.per_profile.items():
            if not number:
                note(Code.EMPTY_PROFILE(profile=profile, data=self.name))

    # ---------------------------------------------------------------- subsets

    def part(self, keep: Keep, name: str, journal: Journal | None = None) -> CalibrationData:
        """The samples whose index ``keep`` accepts, as a data set of its own."""
        twin = CalibrationData(
            self._source, self.specs, self.profiles, outside=self.outside, labels=self.labels, mask=self.mask,
            journal=journal, random=self.random, name=name, finite=self._finite,
        )  # fmt: skip
        twin._keep = (*self._keep, keep)
        return twin

    def first(self, count: int) -> CalibrationData:
        """The first ``count`` samples, at least 1; all samples if there are no more."""
        refuse_none(count)
        if count >= len(self):
            return self
        last = self._indices()[count - 1]
        return self.part(lambda index: index <= last, self.name, self._journal)

    def spread(self, count: int, together: int = 1, noted: bool = False) -> CalibrationData:
        """At most ``count`` samples, spread evenly over the data; all samples if there are no more.

        Args:
            count: the most samples.
            together: size of groups of consecutive samples, of which only whole ones are taken, but at least one.
            noted: whether the journal is told of these samples what it would be told of all.

        Raises:
            DataError: ``count`` is less than 1.
        """
        refuse_none(count)
        kept = self._indices()
        if count >= len(kept):
            return self
        groups, most = list(dict.fromkeys(index // together for index in kept)), max(1, count // together)
        chosen = frozenset(groups[number * len(groups) // most] for number in range(min(most, len(groups))))
        return self.part(lambda index: index // together in chosen, self.name, self._journal if noted else None)

    def split(self, fraction: float, seed: int = 0, together: int = 1) -> tuple[CalibrationData, CalibrationData]:
        """Split the data into a part for calibration and a held-out part, disjoint and both spread evenly.

        If there are at least two groups of ``together`` samples, at least one is held out.

        Args:
            fraction: the share to hold out, between 0 and 1.
            seed: shifts the first sample that is held out.
            together: size of groups of consecutive samples that stay in the same part.

        Raises:
            DataError: the fraction is not between 0 and 1.
        """
        if not 0 < fraction < 1:
            raise DataError(f"the share held out is {fraction}", remedy="give a number between 0 and 1")
        # a golden-ratio step moves the start differently for every seed
        start, count = (seed * 0.6180339887498949) % 1.0, -(-len(self) // together)
        last = count - 1 if count > 1 and int(count * fraction + start) == int(start) else None

        def held(index: int) -> bool:
            index //= together
            return index == last or int((index + 1) * fraction + start) > int(index * fraction + start)

        calibration = self.part(lambda index: not held(index), self.name, self._journal)
        return calibration, self.part(held, f"{self.name}, held out", self._journal)


__all__ = ["Array", "Batch", "CalibrationData", "Counts", "Keep", "Sample", "SampleFingerprint"]
