"""The step "open": opaque blocks rebuilt with their inner tensors marked, to see which types they run in.

If there is a GPU, that engine is also run: tensor values may reveal types that the inspector does not show.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pydantic import Field

from toolkit.backends.layers.layer import Actual, Build
from toolkit.base.errors import BackendError, QtoolError
from toolkit.base.files import write_json
from toolkit.contract.findings import Code, Finding
from toolkit.contract.journal import Journal
from toolkit.run.folder.record_fields import JournalField
from toolkit.run.inputs.engine_settings import engine_settings, extras_for
from toolkit.run.inputs.inputs import Inputs
from toolkit.run.keys.keys import evaluation_key
from toolkit.run.keys.step import Record, Step
from toolkit.run.keys.user_code import measuring_uses_own_code
from toolkit.run.steps.engine import EngineRecord, EngineStep
from toolkit.run.steps.lowering import LoweringRecord
from toolkit.run.steps.open_values import opened_values
from toolkit.run.steps.passes import PassesRecord

if TYPE_CHECKING:
    from toolkit.backends.attribution.opaque_blocks import Marks
    from toolkit.graph.model import Model

_LAYERS = ".qtool/opened_layers.json"


class OpenRecord(Record):
    """The results of the opened engine.

    Attributes:
        actuals: the opaque nodes with the precisions found.
        journal: tensors that were marked, left out, or remain unknown.
        failed: whether running the opened engine failed; it is tried again next time, since the cause may be temporary,
            such as another program using the GPU's memory.
    """

    actuals: dict[str, Actual] = Field(default_factory=dict)
    journal: JournalField
    failed: bool = False

    @property
    def final(self) -> bool:
        """False if running the opened engine failed."""
        return not self.failed


class OpenStep(Step[OpenRecord]):
    """Builds and runs the opened engine. If that fails, its nodes stay opaque; the run's own engine is not affected."""

    name = "open"
    kind = OpenRecord

    def __init__(
        self,
        inputs: Inputs,
        passes: PassesRecord,
        lowering: LoweringRecord,
        engine: EngineRecord,
        not_on_device: Finding | None,
    ) -> None:
        super().__init__(inputs)
        self.passes, self.lowering, self.engine, self.not_on_device = passes, lowering, engine, not_on_device

    def key(self) -> Mapping[str, Any]:
        """The engine whose opaque blocks are opened, and the inputs of its run on the GPU."""
        return {
            **EngineStep(self.inputs, self.passes, self.lowering).key(),
            **evaluation_key(self.inputs),
            "float": self.inputs.prints.of_model(),
            "prepared": self.passes.model_key(),
            "not on the GPU": self.not_on_device.to_json() if self.not_on_device is not None else "",
            "built": self.engine.key(),
        }

    def calls_users_code(self) -> bool:
        """True if the metric is user code, or a pass that strips pairs from the reference model."""
        return measuring_uses_own_code(self.job)

    def run(self) -> OpenRecord:
        """Mark tensors, build, run, and compare."""
        from toolkit.backends.attribution.opaque_blocks import MOST_TENSORS, marks

        journal = Journal()
        journal.by = self.name
        opaque = sum(actual.status == "opaque" for actual in self.engine.actuals.values())
        model = self.lowering.model()
        chosen = marks(model, self.engine.actuals, self.lowering.plan)
        if not opaque:
            journal.noted(Code.NOTHING_OPAQUE() if self.engine.engine_bytes else Code.NOTHING_BUILT())
            return OpenRecord(journal=journal)
        if not chosen.tensors:
            journal.noted(Code.NOTHING_TO_CUT(nodes=opaque))
            return OpenRecord(journal=journal)
        try:
            build = self._built(chosen)
        except BackendError as error:
            journal.noted(Code.OPENING_FAILED(tensors=len(chosen.tensors), error=str(error)))
            return OpenRecord(journal=journal)
        actuals, failed = self._found(model, build, chosen, opaque, journal)
        if chosen.left_out:
            journal.noted(Code.OPENED_LEFT_OUT(nodes=chosen.left_out, most=MOST_TENSORS))
        if build.unmarked:
            journal.noted(Code.TENSORS_NOT_FOUND(tensors=build.unmarked))
        write_json(self.folder.path / _LAYERS, build.raw)
        return OpenRecord(actuals=actuals, journal=journal, failed=failed, files=[_LAYERS])

    def _built(self, chosen: Marks) -> Build:
        from toolkit.backends.choose import choose

        backend, _ = choose(self.job.backend)
        extras = extras_for(self.inputs, self.lowering.plan, self.passes.ranges())
        return backend.build(
            self.lowering.model_path,
            self.job.profiles,
            engine_settings(self.recipe, self.folder.hidden),
            progress=self.job.progress,
            extras=replace(extras, opened=chosen.tensors),
        )

    def _found(
        self, model: Model, build: Build, chosen: Marks, opaque: int, journal: Journal
    ) -> tuple[dict[str, Actual], bool]:
        """The precisions of the opaque nodes according to the opened engine, and whether running it failed."""
        from toolkit.backends.attribution.nodes import attribute
        from toolkit.backends.attribution.opaque_blocks import with_evidence, with_values

        plan = self.lowering.plan
        found, told = with_evidence(self.engine.actuals, attribute(model, build, plan), build)
        journal.noted(Code.OPENED_AT(nodes=opaque, tensors=len(chosen.tensors), shown=told))
        if build.engine is None:
            return found, False
        values: dict[str, dict[str, Any]] = {}
        failed = False
        if self.not_on_device:
            journal.noted(Code.OPENED_NOT_RUN(why=self.not_on_device))
        else:
            try:
                values = opened_values(self.inputs, self.passes, build.engine, build.backend, chosen.by_weight, journal)
            except QtoolError as error:
                failed = True
                journal.noted(Code.OPENED_RUN_FAILED(error=str(error)))
        return with_values(found, chosen, plan, values), failed
