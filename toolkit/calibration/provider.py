"""Calibration on demand: provides a pass with the ranges of the model it is working on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from toolkit.base.errors import QtoolError, RangesError, did_you_mean
from toolkit.base.files import sha256_json
from toolkit.base.precision import Precision
from toolkit.base.profiles import Profiles
from toolkit.base.progress import Progress
from toolkit.calibration.amax import DEFAULT
from toolkit.calibration.codes import RangeCode
from toolkit.calibration.reshaped import contradictions, with_reshaped
from toolkit.calibration.same_values import SameValues, joined
from toolkit.contract.findings import Code, Finding
from toolkit.contract.journal import Journal
from toolkit.contract.machines import machine_notes
from toolkit.contract.ranges import BY_HAND, Range, Ranges
from toolkit.graph.interface.used_inputs import used_inputs
from toolkit.graph.layers.forms import Forms
from toolkit.graph.model import Model
from toolkit.graph.sessions.runnable import not_run
from toolkit.placement.ops import ACTIVATIONS, DEQUANTIZE, FOLDED, MOVERS, QUANTIZE
from toolkit.placement.pairs import release_placer
from toolkit.placement.place import place

if TYPE_CHECKING:
    from toolkit.calibration.collection import Collection
    from toolkit.data.dataset import CalibrationData

_PARTS, _LEAST_PART = 4, 16
"""Fewer are not enough: ranges from 13 of 52 samples clipped the others so much that a helper seemed to lose 11 dB,
where it gains 6."""

_Known = TypeVar("_Known")
_OF_PART = "-part"
KEPT_OF_PART = f"*{_OF_PART}.npz"
"""The pattern of file names for collections from a part of the samples."""


@dataclass
class Calibrator:
    """Collects statistics once and makes ranges from them by any method; use it as a Context's ``provider``.

    Example:
        >>> context = Context(provider=Calibrator(CalibrationData.open("digits.npz", model)))  # doctest: +SKIP
        >>> InsertQDQ()(model, context)                                                        # doctest: +SKIP

    Attributes:
        data: the samples; None if ``collected`` replaces them, or if all ranges are given.
        method: minmax, entropy, percentile or mse.
        percentile: the percentile of that method, in percent.
        methods: another method for some tensors, by glob over their names.
        weights: the weight of each profile in the histograms; 1 by default.
        batch: the most samples to run at once.
        memory: most bytes of tapped tensors in memory.
        manual: amax set by hand; overrides everything, including calibrated ranges of the same values in another shape.
        given: ranges from a file; where they override calibrated ones, they do so in other shapes too.
        given_use: whether these ``override`` calibration or ``fill`` its gaps.
        journal: receives notes; None for none.
        progress: called with the number of batches done; None for no call.
        keep: returns the file of a model's finished collection; None keeps collections in memory. An unfinished one is
            stored beside it, so that a killed calibration resumes.
        device: cpu, or gpu: a float32 TensorRT engine, with statistics computed on the GPU.
        tactic_sources: the kernel libraries that this engine may use; None for TensorRT's default.
        collected: statistics collected earlier, used instead of running the model.
        profiles: the shape profiles, if there is no ``data`` to give them.
        extremes: whether to collect the extremes of tensors without a histogram too, to check float16's limits.
        reuses: whether to skip a tensor with the same values as in another form of the model whose statistics were
            collected. Ranges may then differ in the last bits.
        watches: whether to keep the forms whose statistics are collected, so that ``reuses`` can be set later.
    """

    data: CalibrationData | None
    method: str = DEFAULT
    percentile: float = 99.99
    methods: Mapping[str, str] = field(default_factory=dict)
    weights: Mapping[str, float] = field(default_factory=dict)
    batch: int = 8
    memory: int | None = None
    manual: Mapping[str, float] = field(default_factory=dict)
    given: Ranges | None = None
    given_use: str = "override"
    journal: Journal | None = None
    progress: Progress | None = None
    keep: Callable[[Model, list[str], list[str]], Path | None] | None = None
    collected: Collection | None = None
    device: str = "cpu"
    tactic_sources: Sequence[str] | None = None
    profiles: Profiles | None = None
    extremes: bool = True
    reuses: bool = False
    watches: bool = False
    _same: SameValues = field(default_factory=SameValues)
    _made: dict[str, Collection] = field(default_factory=dict)
    _served: bool = False
    _told: set[Finding] = field(default_factory=set)

    @property
    def calibrates(self) -> bool:
        """Whether every tensor can get a range: there are samples, or statistics collected earlier."""
        return self.data is not None or self.collected is not None

    def __call__(self, model: Model, tensors: Sequence[str] | None, dtype: Precision = Precision.INT8) -> Ranges:
        """Ranges for ``dtype`` of every tensor that placement could need, and of ``tensors``.

        Without calibration data, the given ranges, for any type. Tensors that onnxruntime cannot compute, or that had
        no value in any sample, have no range unless it is given.

        Raises:
            DataError: a sample does not fit.
            RangesError: a tensor with a manual range does not exist, or the model can use none of the given ranges.
        """
        with model.settled():
            return self._ranges(model, tensors, dtype)

    def _ranges(self, model: Model, tensors: Sequence[str] | None, dtype: Precision) -> Ranges:
        from toolkit.calibration.given import given_ranges

        self.refuse(model, tensors)
        ranges = self._calibrated(model, tensors, dtype) if self.calibrates else Ranges()
        if self.given is not None:
            known = model.graph.tensors()
            found, said = given_ranges(self.given, known, dtype if self.calibrates else None)
            for one in said:
                self._note(one)
            override = self.given_use == "override"
            told = self._in_other_shapes(model, found) if override or not self.calibrates else found
            ranges.tensors |= {name: one for name, one in told.items() if override or name not in ranges.tensors}
            ranges.observed = ranges.observed or dict(self.given.observed)
        for name, amax in self._by_hand(model).items():
            ranges.tensors[name] = Range(float(amax), BY_HAND)
        if not self.calibrates:
            self._note_parts(model, [name for name in tensors or () if name in ranges.tensors])
        left = not_run(model)
        for name in tensors or ():
            if name not in ranges.tensors:
                by = left.tensors.get(name)
                ranges.missing[name] = (
                    Code.NO_VALUES() if by is None else Code.BEHIND_PLUGIN(plugin=by, op=left.plugins[by])
                )
        return ranges

    def on_subset(self) -> Calibrator:
        """The same calibration on a quarter of the samples, evenly spread, for trials.

        Its collections are stored beside the others, in files that match ``KEPT_OF_PART``, and are useful only to
        resume an interrupted run. Returns itself if there are few samples, or a profile might be left without any.
        """
        data, profiles = self.data, self.profiles
        several = profiles is not None and len(profiles) > 1
        if data is None or self.collected is not None or several or len(data) < _PARTS * _LEAST_PART:
            return self

        def keep(model: Model, taps: list[str], scalars: list[str]) -> Path | None:
            path = self.keep(model, taps, scalars) if self.keep is not None else None
            return path.with_name(f"{path.stem}{_OF_PART}{path.suffix}") if path is not None else None

        return replace(
            self, data=data.split(1 - 1 / _PARTS)[0], keep=keep, journal=None, progress=None, extremes=False,
            reuses=False, watches=False, _made={}, _same=SameValues(), _told=set(),
        )  # fmt: skip

    def refuse(self, model: Model, tensors: Sequence[str] | None = None) -> None:
        """Refuse settings that do not fit the model, before it is run.

        Raises:
            RangesError: a tensor with a manual range, or with its own method, does not exist, or the model can use none
                of the given ranges.
        """
        from toolkit.calibration.given import refuse_given, unused_ranges
        from toolkit.calibration.methods import check_methods

        known = model.graph.tensors() if self.manual or self.given is not None else {}
        if self.given is not None:
            refuse_given(self.given, known)
            for one in unused_ranges(self.given, known):
                self._note(one)
        for name in self.manual:
            if name not in known:
                raise RangesError(
                    f"a range is set by hand for '{name}', but no tensor has that name",
                    remedy=did_you_mean(name, known),
                    value=name,
                )
        if self.methods and self.calibrates and self.collected is None:
            check_methods(self.taps(model, tensors)[0], self.method, self.methods)
        if self.manual and self.calibrates and tensors is not None:
            self._note_by_hand(model, tensors)

    def _by_hand(self, model: Model) -> Mapping[str, float]:
        """The ranges set by hand, also of the same values in other shapes."""
        return self._in_other_shapes(model, self.manual)

    def _in_other_shapes(self, model: Model, known: Mapping[str, _Known]) -> dict[str, _Known]:
        """Extended to the same values in other shapes; if nothing is calibrated, to parts of these tensors too."""
        return with_reshaped(model, known, parts=not self.calibrates)

    def _note_by_hand(self, model: Model, tensors: Sequence[str]) -> None:
        """Note the ranges set by hand that no Q/DQ pair of the model could use, and unequal ones of the same values."""
        if unlike := contradictions(model, self.manual):
            self._note(RangeCode.BY_HAND_UNLIKE(tensors=unlike, amax=[self.manual[name] for name in unlike]))
        used = {*self.taps(model, tensors)[0], *tensors}
        used |= {node.inputs[0].name for node in model.nodes if node.op == QUANTIZE}
        told = with_reshaped(model, dict.fromkeys(used, True))
        unused = [name for name in self.manual if name not in told]
        if unused:
            self._note(RangeCode.BY_HAND_UNUSED(tensors=unused))

    def _note_parts(self, model: Model, tensors: Sequence[str]) -> None:
        """Note the tensors that have no range of their own but that of a tensor of which they are a part."""
        known = [*(self.given.tensors if self.given is not None else ()), *self.manual]
        own, told = (with_reshaped(model, {name: name for name in known}, parts=parts) for parts in (False, True))
        parts = [name for name in tensors if name not in own and name in told]
        if parts:
            self._note(RangeCode.OF_THE_WHOLE(tensors=parts, wholes=[told[name] for name in parts]))

    def _calibrated(self, model: Model, tensors: Sequence[str] | None, dtype: Precision) -> Ranges:
        from toolkit.calibration.diagnosis import unvaried_inputs
        from toolkit.calibration.methods import make_ranges

        collection = self.collect(model, tensors)
        facts = model.facts()
        floats = {tensor.name for tensor in model.graph.inputs if facts.is_float(tensor.name)}
        first = next(self.data.samples(), None) if self.data is not None and any(collection.same.values()) else None
        # avoids a walk over the graph in the usual case
        used = used_inputs(model) if first is not None or unvaried_inputs(collection, floats) else None
        for unvaried in unvaried_inputs(collection, floats, first, used):
            self._note(unvaried)
        return make_ranges(
            collection,
            method=self.method,
            percentile=self.percentile,
            precision=dtype,
            by_pattern=dict(self.methods) or None,
            profile_weights=dict(self.weights) or None,
        )

    def collect(self, model: Model, tensors: Sequence[str] | None = None) -> Collection:
        """The statistics of this model's tensors, collected now or loaded.

        Raises:
            DataError: a sample does not fit.
            RangesError: ``collected`` belongs to another model, or lacks a tensor.
        """
        taps, scalars = self.taps(model, tensors)
        own = self.collected is not None and self.collected.made_from.get("model") == model.fingerprint()
        if self.collected is not None and not own and self._served:
            # a pass that changed the model needs statistics that were not collected
            self._note(Code.OTHER_COLLECTION())
        elif self.collected is not None:
            self.refuse_collected(model, tensors)
            self._served = True
            return self.collected
        if self.data is None:
            raise RangesError(
                "statistics are needed for a model that a pass has changed, and there are no samples",
                remedy='add [calibration] data = "..." to the recipe',
            )
        key = model.fingerprint() + repr(taps)
        if key in self._made:
            return self._made[key]
        path = self.keep(model, taps, scalars) if self.keep is not None else None
        self._made[key] = made = self._kept(path) or self._collected(model, taps, scalars, self.data, path)
        if self.watches or self.reuses:
            self._same.learn(model, [*taps, *scalars], self.data, made)
        return made

    def refuse_collected(self, model: Model, tensors: Sequence[str] | None = None) -> None:
        """Refuse statistics collected earlier that do not fit the model.

        Raises:
            RangesError: ``collected`` belongs to another model, or lacks a tensor.
        """
        if self.collected is None:
            return
        self.collected.require(model=model.fingerprint())
        known = set(self.collected.tensors)
        missing = next((name for name in self.taps(model, tensors)[0] if name not in known), None)
        if missing is not None:
            raise RangesError(
                f"the collection has no statistics of tensor '{missing}'",
                remedy="collect again with qtool calibrate and this recipe",
            )

    @staticmethod
    def _kept(path: Path | None) -> Collection | None:
        """A collection that an earlier run finished; None if it is missing or damaged, to be collected again."""
        from toolkit.calibration.collection import Collection

        if path is not None and path.exists():
            with suppress(QtoolError):
                return Collection.load(path)
        return None

    def _collected(
        self, model: Model, taps: list[str], scalars: list[str], data: CalibrationData, path: Path | None
    ) -> Collection:
        """Statistics of tensors whose values differ from all earlier forms of the model, joined with the known ones."""
        from toolkit.calibration.collect import collect, tensors_digest

        known = self._same.known(model, taps, scalars, self.memory) if self.reuses else {}
        if known and path is not None:
            # without reuse, a collection joined from other forms must not be loaded: its last bits differ
            sources = sha256_json(sorted((name, one.made_from["model"]) for name, one in known.items()))
            path = path.with_name(f"{path.stem}-{sources[:20]}{path.suffix}")
            kept = self._kept(path)
            if kept is not None:
                return kept
        own, others = ([name for name in some if name not in known] for some in (taps, scalars))
        made = None
        if own or others or not known:
            made = (
                self._on_gpu(model, [*own, *others], data)
                if self.device == "gpu"
                else collect(
                    model,
                    own,
                    data,
                    data.profiles,
                    scalars=others,
                    batch=self.batch,
                    memory=self.memory,
                    progress=self.progress,
                    # the memory limit affects how statistics are collected, not the result
                    checkpoint=path.with_name(f"{path.stem}-{self.memory or 0}.part") if path is not None else None,
                )
            )
            for note in machine_notes():
                self._note(note)
        if known:
            made = joined(made, known, taps)
            made.made_from |= {"model": model.fingerprint(), "tensors": tensors_digest(taps, scalars)}
        assert made is not None
        if path is not None:
            made.save(path)
        return made

    def _on_gpu(self, model: Model, tensors: list[str], data: CalibrationData) -> Collection:
        """Histograms of all tensors; these include the extremes."""
        from toolkit.calibration.gpu import collect_on_gpu

        return collect_on_gpu(
            model, tensors, data, batch=self.batch, tactic_sources=self.tactic_sources, progress=self.progress
        )

    def _note(self, what: Finding) -> None:
        if self.journal is not None and what not in self._told:
            self._told.add(what)
            self.journal.noted(what)

    def taps(self, model: Model, tensors: Sequence[str] | None = None) -> tuple[list[str], list[str]]:
        """Tensors that need a histogram, and tensors that need only extremes (to check float16's limits)."""
        facts = model.facts(self.data.profiles if self.data is not None else self.profiles)
        left = not_run(model)
        placement = place(model, facts, activation_matmul=True)
        release_placer(placement)
        wanted = set(placement.activations) | set(tensors or ())
        made = [t.name for t in model.graph.inputs]
        made += [t.name for node in model.nodes for t in node.outputs if t.name not in left.tensors]
        taps = [name for name in made if name in wanted]
        scalars = []
        forms = Forms(model, facts)
        for node in model.nodes if self.extremes else ():
            if node.op in (QUANTIZE, DEQUANTIZE, "Constant") or node.op in MOVERS:
                continue
            for tensor in node.outputs:
                readers = forms.readers(tensor)
                fused = len(readers) == 1 and forms.op(readers[0]) in FOLDED | ACTIVATIONS
                computed = facts.is_float(tensor.name) and tensor.name not in left.tensors
                if computed and tensor.name not in wanted and not (fused and _linear(node.op)):
                    scalars.append(tensor.name)
        return taps, scalars


def _linear(op: str) -> bool:
    """Whether TensorRT fuses this operator with the following activation, so that its result is not stored."""
    return op in ("Conv", "ConvTranspose") or op in FOLDED
