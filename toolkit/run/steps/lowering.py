"""The step "lowering": the graph rewritten for the backend according to the plan."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from toolkit.base.precision import Precision
from toolkit.contract.journal import Journal
from toolkit.run.folder.record_fields import JournalField, PlanField
from toolkit.run.inputs.engine_settings import engine_settings
from toolkit.run.inputs.inputs import Inputs
from toolkit.run.keys.keys import engine_key
from toolkit.run.keys.step import GraphRecord, Step, relative
from toolkit.run.steps.passes import PassesRecord

_MODEL = "model.onnx"


class LoweringRecord(GraphRecord):
    """The final graph.

    Attributes:
        plan: the requested precision of each node of the final graph.
        journal: requests that lowering could not fulfil.
    """

    model_file = _MODEL
    plan: PlanField
    journal: JournalField


class LoweringStep(Step[LoweringRecord]):
    """Writes model.onnx."""

    name = "lowering"
    kind = LoweringRecord

    def __init__(self, inputs: Inputs, passes: PassesRecord) -> None:
        super().__init__(inputs)
        self.passes = passes

    def key(self) -> Mapping[str, Any]:
        """The passes' graph, plan and ranges, and the engine's settings."""
        return {
            **engine_key(self.job),
            "prepared": self.passes.model_key(),
            "plan": self.passes.plan.to_json(),
            **self.passes.ranges_key(),
        }

    def run(self) -> LoweringRecord:
        """Lower the graph for the backend."""
        from toolkit.backends.choose import choose
        from toolkit.backends.lowering.prepare import lower_for, save_for
        from toolkit.graph.files.header import model_files
        from toolkit.graph.kept_messages import forget_messages
        from toolkit.report.findings import sentence

        journal = Journal()
        backend, _ = choose(self.job.backend)
        settings, ranges = engine_settings(self.recipe), self.passes.ranges()
        lowered = lower_for(
            backend,
            settings,
            self.passes.model(),
            self.passes.plan,
            rest=self.recipe.rest,
            observed=ranges.observed if ranges else None,
            io={name: Precision(value) for name, value in self.recipe.engine.io.items()},
            journal=journal,
        )
        # the passes' graph is not changed after this, so its cached messages are not needed
        forget_messages(self.passes.model())
        path = self.folder.path / _MODEL
        lowered.say(sentence)
        save_for(backend, settings, lowered.model.settle(checked=True), path)
        files = relative(self.folder, *model_files(path))
        return LoweringRecord(plan=lowered.plan, journal=journal, files=files).holding(lowered.model)
