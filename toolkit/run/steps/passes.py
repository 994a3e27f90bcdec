"""The step "passes": applies the recipe's passes, including the calibration that they request."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import PrivateAttr

from toolkit.base.array_files import write_arrays
from toolkit.base.collection import grown_memory, return_free_blocks
from toolkit.base.errors import QtoolError
from toolkit.base.reading import OWN
from toolkit.base.versions import code_fingerprint, versions
from toolkit.contract.findings import Code
from toolkit.contract.journal import Journal
from toolkit.contract.plan import PrecisionPlan
from toolkit.run.folder.record_fields import JournalField, PlanField
from toolkit.run.folder.run_folder import PREPARED
from toolkit.run.inputs.graph_passes import AppliedPasses
from toolkit.run.inputs.inputs import Inputs
from toolkit.run.keys.keys import hashes
from toolkit.run.keys.step import GraphRecord, Step, relative
from toolkit.run.keys.user_code import passes_use_own_code
from toolkit.run.recipe.passes import passes_of
from toolkit.run.steps.context import context_for
from toolkit.run.steps.pass_keys import passes_key
from toolkit.run.task.task import TaskRecord

if TYPE_CHECKING:
    from toolkit.contract.context import Context
    from toolkit.contract.passes import Pass
    from toolkit.contract.ranges import Ranges
    from toolkit.graph.model import Model

EXACT = ".qtool/exact.npz"
_RANGES, _SEARCH = "ranges.json", "search.json"


class PassesRecord(GraphRecord):
    """The graph after all passes: float32 with its Q/DQ pairs.

    Attributes:
        plan: the requested precision of each node.
        journal: the passes' events, and findings about the model, the samples and the ranges.
        exact: names of the constants that were rounded or corrected for quantized layers, in the order of
            ``exact.npz``, which has their float values.
    """

    model_file = PREPARED
    plan: PlanField
    journal: JournalField
    exact: tuple[str, ...] = ()
    _float_form: Model | None = PrivateAttr(None)
    _ranges: Ranges | None = PrivateAttr(None)

    def float_form(self, source: Model | None = None) -> Model:
        """The graph without Q/DQ pairs and rounding, computed once; copy it before changing it.

        Its weights may differ from the source's, since a helper pass may have rescaled them before rounding. If graph
        and weights are the same, ``source`` itself is returned, so that a large graph is not in memory twice.
        """
        from toolkit.data.arrays import open_archive
        from toolkit.graph.layers.constants import with_values
        from toolkit.graph.surgery.assemble import dismantle
        from toolkit.placement.only_pairs import differs_only_in_pairs
        from toolkit.placement.qdq import without_pairs

        file = self.path(EXACT)
        if self._float_form is None and source is not None and file is None:
            self._float_form = source if differs_only_in_pairs(self.model(), source) else None
        if self._float_form is None:
            made = without_pairs(self.model())
            if file is not None:
                kept = open_archive(file, OWN)
                with_values(made, {name: kept[f"arr_{number}"].whole() for number, name in enumerate(self.exact)})
            self._float_form = made.settle()
            if source is not None and source is not made and made.fingerprint() == source.fingerprint():
                dismantle(made.graph)
                self._float_form = source
        return self._float_form

    def ranges(self) -> Ranges | None:
        """The calibrated ranges, read once; None if nothing was calibrated. They must not be changed."""
        from toolkit.contract.ranges import Ranges

        path = self.path(_RANGES)
        if self._ranges is None and path is not None:
            self._ranges = Ranges.load(path)
        return self._ranges

    def ranges_key(self) -> dict[str, str]:
        """Digest of the ranges' file."""
        return hashes(self._folder / _RANGES)

    @property
    def search_file(self) -> Path | None:
        """The file of a precision search; None if the recipe has no search."""
        return self.path(_SEARCH)


class PassesStep(Step[PassesRecord]):
    """Applies the recipe's passes to the float model."""

    name = "passes"
    kind = PassesRecord
    leaves = (_RANGES, _SEARCH, "faster.json")

    def __init__(self, inputs: Inputs, task: TaskRecord) -> None:
        super().__init__(inputs)
        self.task = task

    def key(self) -> Mapping[str, Any]:
        """Model, passes, calibration, and the other inputs that passes may read."""
        recipe, prints = self.recipe, self.inputs.prints
        settings = recipe.calibration.as_key()
        method = {k: settings.pop(k) for k in ("method", "percentile", "methods", "manual", "weights", "unlike")}
        return {
            "model": prints.of_model(),
            **passes_key(self.inputs, self.task),
            "profiles": repr(self.job.profiles),
            "calibration method": method,
            "calibration settings": settings,
            "calibration data": prints.of_data(recipe.calibration.data),
            "given ranges": prints.of_ranges(),
            "given collection": prints.of_collection(),
            "held out": [recipe.evaluation.data is None, recipe.evaluation.hold_out],
            "rest": recipe.engine.rest,
            "code": code_fingerprint(),
        }

    def calls_users_code(self) -> bool:
        """True if a pass, or the metric that a pass measures with, is user code."""
        return passes_use_own_code(self.job)

    def run(self) -> PassesRecord:
        """Apply the passes; writes the graph to .qtool/prepared.onnx and the ranges to ranges.json.

        Raises:
            QtoolError: a pass failed or refused the model; the message names it.
        """
        from toolkit.backends.attribution.kept_pairs import expect_kept_pairs
        from toolkit.placement.shared_weights import shared_unlike

        passes = passes_of(self.recipe, self.job.allow_code)
        journal = Journal()
        journal.by = "load"
        source = self.inputs.source(journal)
        context = context_for(self.inputs, source, journal, task=self.task)
        model = self._applied(passes, source, context)
        if unlike := shared_unlike(source, model, context.plan, context.rest):
            journal.by = self.name
            journal.noted(unlike)
        expect_kept_pairs(model, source, context.plan)
        self._clear_checkpoints()
        if any(step.runs_models() for step in passes):
            # a search holds several copies of the model and its activations
            grown_memory.give_back()
        return_free_blocks()
        model.source = None
        model.settle(checked=True)
        ranges = self._observed(context)
        if ranges is not None:
            self._diagnose(ranges, journal, model)
        return self._record(model, context, ranges)

    def _applied(self, passes: list[Pass], source: Model, context: Context) -> Model:
        """The model after all passes, starting from the rehearsal's result if there is one.

        Raises:
            QtoolError: a pass failed or refused the model; the message names it and the recipe.
        """
        from toolkit.contract.passes import Sequence as PassSequence

        # the rehearsal's result is released here, since the passes change it
        applied = self.inputs.graph_passes or AppliedPasses(0, source.copy(), PrecisionPlan(), ())
        self.inputs.graph_passes = None
        context.plan = applied.plan
        context.journal.events += applied.events
        try:
            PassSequence(passes=passes, begin=applied.count)(applied.model, context)
        except QtoolError as error:
            if not error.where:
                raise type(error)(error.what, where=str(self.recipe.path or ""), remedy=error.remedy) from error
            raise
        return applied.model

    def _clear_checkpoints(self) -> None:
        """Remove checkpoints, which only an interrupted run needs: they are as large as the weights."""
        from toolkit.calibration.provider import KEPT_OF_PART
        from toolkit.simulation.rounding_checkpoint import PATTERN

        for file in chain.from_iterable(map(self.folder.hidden.glob, (PATTERN, KEPT_OF_PART))):
            file.unlink()

    def _record(self, model: Model, context: Context, ranges: Ranges | None) -> PassesRecord:
        """Write the graph, the ranges and the float values of derived constants, and record what was written."""
        from toolkit.graph.files.header import model_files

        root = self.folder.path
        model.save(root / PREPARED)
        written = model_files(root / PREPARED)
        if ranges is not None:
            ranges.save(root / _RANGES)
            written.append(root / _RANGES)
        left = {tensor.name for node, _ in model.walk() for tensor in node.inputs} if context.exact else ()
        exact = {name: values for name, values in context.exact.items() if name in left}
        if exact:
            # names are kept in the record, since they may not be valid file names
            write_arrays(root / EXACT, {f"arr_{place}": values for place, values in enumerate(exact.values())})
            written.append(root / EXACT)
        files = relative(self.folder, *written, *context.files)
        return PassesRecord(plan=context.plan, journal=context.journal, exact=tuple(exact), files=files).holding(model)

    def _observed(self, context: Context) -> Ranges | None:
        """The ranges that the passes requested, with observed values of every tensor for float16's limits."""
        ranges = context.known_ranges
        missing = ranges is None or (context.can_calibrate and not ranges.observed)
        if missing and context.provider is not None:
            ranges = context.ranges(self.inputs.source())
        if ranges is not None:
            ranges.made_from = {
                "model": self.inputs.prints.of(self.job.model_path),
                "data": self.inputs.prints.of_data(self.recipe.calibration.data),
                "settings": self.recipe.calibration.as_key(),
                "versions": versions(),
            }
        return ranges

    def _diagnose(self, ranges: Ranges, journal: Journal, model: Model) -> None:
        """Note quantized tensors whose ranges differ between profiles, and profiles with too few samples."""
        from toolkit.calibration.diagnosis import unlike_profiles
        from toolkit.placement.existing import quantized_tensors

        journal.by = "calibration"
        all_count = self.recipe.engine.quantization == "implicit"
        quantized = quantized_tensors(model)
        for one in unlike_profiles(ranges, self.recipe.calibration.unlike):
            if all_count or one.tensor in quantized:
                found = Code.UNLIKE_PROFILES(tensor=one.tensor, high=one.high, low=one.low, ratio=one.ratio)
                journal.noted(found)
        for scarce in self.inputs.scarce(ranges.samples):
            journal.noted(scarce)
