"""The inputs of a recipe's run: the model and the samples."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from toolkit.base.errors import DataError, QtoolError, RecipeError
from toolkit.base.files import sha256_json
from toolkit.base.profiles import Extent, Profiles, ShapeProfile
from toolkit.base.reading import reading
from toolkit.base.text import count
from toolkit.contract.findings import Code, Finding
from toolkit.contract.journal import Journal
from toolkit.data.codes import DataCode
from toolkit.graph.layers.constants import is_random
from toolkit.graph.ort_forms.random_seeds import is_deterministic
from toolkit.placement.quantized import quantized_nodes, quantized_source
from toolkit.run.inputs.fingerprints import Fingerprints
from toolkit.run.inputs.partitions import partitions_note
from toolkit.run.inputs.plugins import plugin_note
from toolkit.run.job import Job
from toolkit.run.recipe.passes import stripping_passes
from toolkit.run.recipe.profile_check import check
from toolkit.run.recipe.sections import RandomSection

if TYPE_CHECKING:
    from toolkit.data.dataset import CalibrationData
    from toolkit.data.sources import HeldSamples, LoadedSamples
    from toolkit.graph.model import Model
    from toolkit.run.inputs.graph_passes import AppliedPasses


def random_nodes(model: Model) -> tuple[list[str], list[str]]:
    """Names of the nodes that draw random numbers, and of those whose numbers also differ between onnxruntime runs."""
    drawing = [node for node, _ in model.walk() if is_random(node)]
    kinds = model.facts().types if drawing else {}
    return [node.name for node in drawing], [n.name for n in drawing if not is_deterministic(n, model.opset, kinds)]


class Inputs:
    """Opens the model and data of a job; the model is loaded once.

    Args:
        source: the model as ``load_source`` returns it, if already loaded.

    Attributes:
        prints: fingerprints of the inputs.
        looked: how to interpret the model's outputs, once ``task.look`` has found it.
        graph_passes: the rehearsal's result, from which the run continues; None without a rehearsal.
    """

    def __init__(self, job: Job, source: Model | None = None) -> None:
        self.job, self.prints = job, Fingerprints(job)
        self._source = source.settle() if source is not None else None
        self._reference: Model | None = None
        self._source_notes: Sequence[Finding] = ()
        self._left: Sequence[Finding] | None = None
        self.looked: Any = None
        self.graph_passes: AppliedPasses | None = None

    def source(self, journal: Journal | None = None) -> Model:
        """The model as loaded from its file, loaded once. ``journal`` receives findings about it."""
        from toolkit.graph.files.onnx_file import ONNX

        if self._source is None:
            with reading(self.job.model_path, ONNX):
                self._load()
        assert self._source is not None
        if journal is not None:
            for known in (*self._source_notes, *self._quantized_notes()):
                journal.noted(known)
        return self._source

    def _load(self) -> None:
        from toolkit.placement.spellings import load_source

        said = Journal()
        source = load_source(self.job.model_path)
        for what, number in source.changed.items():
            said.noted(Code.LOADED(what=what, number=number))
        plugins = plugin_note(source)
        if plugins is not None:
            said.noted(plugins)
        drawing, unlike = random_nodes(source)
        if drawing:
            train = [node.name for node, _ in source.walk() if node.op == "Dropout" and node.name in drawing]
            said.noted(Code.RANDOM_SOURCE(nodes=drawing, unlike=unlike, train=train))
        for one in check(self.job.profiles, source, self.job.recipe):
            said.noted(one)
        cut = partitions_note(source)
        if cut is not None:
            said.noted(cut)
        self._source = source.settle()
        self._source_notes = [event.why for event in said]

    def reference(self) -> Model:
        """The model that results are compared with: the source without the Q/DQ pairs that the recipe strips.

        Clamps that the pairs stood for are found from the calibration samples, as in the recipe's stripping passes.
        Pairs that a pass names by the result of an earlier pass stay.
        """
        if self._reference is None:
            source = self.source()
            self._reference = self._stripped(source).settle() if quantized_nodes(source) else source
        return self._reference

    def _quantized_notes(self) -> Sequence[Finding]:
        """Findings about Q/DQ pairs that the recipe leaves in the model."""
        if self._left is None:
            source = self.source()
            stripping = bool(self.job.stripping_passes)
            left = self._stripped(source, dry_run=True) if quantized_nodes(source) else source
            found = quantized_source(left, stripping)
            self._left = [found] if found is not None else []
        return self._left

    def _stripped(self, model: Model, dry_run: bool = False) -> Model:
        """The model without Q/DQ pairs; a dry run measures nothing, so clamps that only samples reveal are missing."""
        from toolkit.calibration.provider import Calibrator
        from toolkit.contract.context import Context

        steps = stripping_passes(self.job.recipe, self.job.allow_code)
        # a dry run too reads a rank from samples that no shape tells
        data = self.calibration_data(model) if steps else None
        for step in steps:
            stripped = model.copy()
            with suppress(RecipeError):
                context = Context(dry_run=dry_run, provider=Calibrator(data) if data is not None else None)
                step(stripped, context)
                model = stripped
        return model

    def calibration_data(
        self, model: Model, journal: Journal | None = None, profiles: Profiles | None = None
    ) -> CalibrationData | None:
        """The calibration samples, without those held out for evaluation if the recipe has no evaluation data.

        ``profiles`` replaces the recipe's profiles, for samples that must fit other shapes.
        """
        section = self.job.recipe.calibration
        if section.data is None and section.random is None:
            return None
        data = self._samples(section.data, model, profiles, journal=journal, random=section.random)
        if self.job.recipe.evaluation.data is None and len(data) > 1:
            data = data.split(self.job.recipe.evaluation.hold_out, together=self._together())[0]
        if section.samples is not None and section.samples < len(data):
            kept = data.spread(section.samples, self._together(), noted=True)
            if journal is not None:
                journal.noted(Code.LIMITED(left_out=len(data) - len(kept), total=len(data), limit=section.samples))
            data = kept
        return data

    def scarce(self, samples: Mapping[str, int]) -> list[Finding]:
        """Findings for profiles with too few calibration samples.

        Args:
            samples: by profile, how many samples the model was given; a sample with several rows, which the model
                computes at once, counts once per row.
        """
        from toolkit.calibration.diagnosis import sparse_profiles
        from toolkit.evaluation.observation.fixed_rows import rows_at_once

        model = self.source()
        data = self.calibration_data(model) if sparse_profiles(samples) else None
        first = next(data.samples(), None) if data is not None else None
        each = rows_at_once(model, first.inputs) if first is not None else 1
        whole = {profile: number * each for profile, number in samples.items()}
        return [Code.FEW_SAMPLES(profile=name, samples=number) for name, number in sparse_profiles(whole).items()]

    def evaluation_data(self, model: Model) -> tuple[CalibrationData | None, bool]:
        """The samples to measure on, at most as many as the recipe allows, and whether calibration did not use them."""
        section, calibration = self.job.recipe.evaluation, self.job.recipe.calibration
        labels = section.metric is not None
        if section.data is not None:
            data = self._limited(self._samples(section.data, model, labels=labels))
            return data, not self.prints.same_samples(section.data, calibration.data)
        if calibration.data is None and calibration.random is None:
            return None, True
        data = self._samples(calibration.data, model, labels=labels, random=calibration.random)
        if len(data) < 2:
            return data, False
        return self._limited(data.split(section.hold_out, together=self._together())[1]), True

    def _limited(self, data: CalibrationData) -> CalibrationData:
        """At most as many evaluation samples as the recipe allows, evenly spread."""
        most = self.job.recipe.evaluation.samples
        return data if most is None else data.spread(most, self._together(), noted=True)

    def _together(self) -> int:
        """The number of consecutive samples that share a label of the evaluation data."""
        from toolkit.evaluation.metrics.table import together

        return together(self.job.recipe.evaluation.metric)

    def _samples(
        self,
        data: str | None,
        model: Model,
        profiles: Profiles | None = None,
        *,
        journal: Journal | None = None,
        labels: bool = False,
        random: RandomSection | None = None,
    ) -> CalibrationData:
        from toolkit.data.dataset import CalibrationData

        section = self.job.recipe.calibration
        try:
            return CalibrationData.open(
                self._opened(data),
                model,
                self.job.profiles if profiles is None else profiles,
                outside=section.outside,
                labels=labels,
                base=self.job.recipe.folder,
                journal=journal,
                allow_code=self.job.allow_code,
                mask=section.mask,
                images=section.images.model_dump() if section.images is not None else None,
                random=random.model_dump() if random is not None else None,
            )
        except QtoolError as error:
            if error.value is not None:
                error.at(self.job.recipe.locate_value(error.value, "calibration"))
            raise

    def _opened(self, data: str | None) -> str | HeldSamples | LoadedSamples | None:
        if data is None:
            return None
        return self.prints.given(data) if self.job.names_code(data) else str(self.job.recipe.resolve(data))

    def calibrator_print(self) -> str:
        """A fingerprint of the batches of ``calibrator_batches``; empty if there are none."""
        recipe = self.job.recipe
        if recipe.engine.quantization != "implicit" or recipe.engine.calibrator == "ranges":
            return ""
        held_out = recipe.evaluation.hold_out if recipe.evaluation.data is None else None
        settings = recipe.calibration.as_key()
        return sha256_json([self.prints.of_data(recipe.calibration.data), settings, held_out, repr(self.job.profiles)])

    def calibrator_batches(self) -> Iterator[dict[str, Any]]:
        """Batches for TensorRT's own calibrators, in which every sample fits the calibration profile's opt shape.

        Empty if the ranges are qtool's own. Samples that do not fill a batch are left out, see ``calibrator_left_out``.

        Raises:
            DataError: the samples do not fill a single batch.
        """
        batches = self._calibrator_data()
        if batches is None:
            return
        data, size = batches
        left, whole = 0, False
        for batch in data.batches(size):
            if batch.count == size or not data.can_batch:
                whole = True
                yield dict(batch.inputs)
            else:
                left += batch.count
        if left and not whole:
            raise DataError(
                f"TensorRT's {self.job.recipe.engine.calibrator} calibrator takes whole batches of {size}, the opt "
                f"batch of the calibration profile, and {count(left, 'calibration sample')} of one shape fill none",
                where=self.job.recipe.locate("engine", "calibrator"),
                remedy="give more samples, or a calibration_profile with a smaller opt batch",
            )

    def calibrator_left_out(self) -> list[Finding]:
        """A finding if samples that do not fill a batch are left out of TensorRT's own calibration."""
        batches = self._calibrator_data()
        if batches is None or not batches[0].can_batch:
            return []
        data, size = batches
        counts = [batch.count for batch in data.batches(size)]
        left = sum(one for one in counts if one < size)
        calibrator = self.job.recipe.engine.calibrator
        found = DataCode.CALIBRATOR_LEFT_OUT(calibrator=calibrator, left_out=left, samples=sum(counts), batch=size)
        return [found] if left else []

    def _calibrator_data(self) -> tuple[CalibrationData, int] | None:
        """Data for TensorRT's own calibrators at the calibration profile's opt shape, and the batch size."""
        section = self.job.recipe.engine
        if section.quantization != "implicit" or section.calibrator == "ranges":
            return None
        model = self.source()
        fixed = Profiles()
        if len(self.job.profiles):
            chosen = self.job.profiles[section.calibration_profile or self.job.profiles.names[0]]
            shapes = {name: Extent(extent.opt, extent.opt, extent.opt) for name, extent in chosen.shapes.items()}
            fixed = Profiles((ShapeProfile(chosen.name, shapes),))
        data = self.calibration_data(model, profiles=fixed)
        if data is None:
            return None
        opt = [e.opt[data.axes[name]] for p in fixed for name, e in p.shapes.items() if name in data.axes]
        return data, min(opt, default=1)
