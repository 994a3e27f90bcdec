"""The step "evaluation": accuracy of the final graph compared with the float model, in onnxruntime."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from toolkit.base.errors import DataError
from toolkit.base.files import sha256_json
from toolkit.base.versions import code_fingerprint
from toolkit.evaluation.comparison.outputs import EvaluationResult
from toolkit.run.inputs.inputs import Inputs
from toolkit.run.keys.keys import evaluation_key
from toolkit.run.keys.step import Record, Step
from toolkit.run.keys.user_code import measuring_uses_own_code
from toolkit.run.steps.lowering import LoweringRecord
from toolkit.run.steps.passes import PassesRecord
from toolkit.run.task.task import TaskRecord, metric_options


class EvaluationRecord(Record):
    """The result of the evaluation.

    Attributes:
        found: the figures; None if there is no data to measure on.
        held_out: whether the samples were not used for calibration.
        random: whether the samples are random.
    """

    found: EvaluationResult | None = None
    held_out: bool = True
    random: bool = False


class EvaluationStep(Step[EvaluationRecord]):
    """Evaluates the final graph."""

    name = "evaluation"
    kind = EvaluationRecord

    def __init__(self, inputs: Inputs, task: TaskRecord, passes: PassesRecord, lowering: LoweringRecord) -> None:
        super().__init__(inputs)
        self.task = task
        self.passes, self.lowering = passes, lowering

    def key(self) -> Mapping[str, Any]:
        """The float model, the final graph, and the inputs of measuring."""
        return {
            "float": self.inputs.prints.of_model(),
            "model": self.lowering.model_key(),
            # evaluated instead if onnxruntime cannot run the lowered model
            "prepared": self.passes.model_key(),
            "task": self.task.content(),
            "code": code_fingerprint(),
            **evaluation_key(self.inputs),
        }

    def calls_users_code(self) -> bool:
        """True if the metric is user code, or a pass that strips pairs from the reference model."""
        return measuring_uses_own_code(self.job)

    def run(self) -> EvaluationRecord:
        """Run both models on the samples.

        Raises:
            DataError: the recipe's data has no samples.
        """
        from toolkit.evaluation.evaluate import evaluate
        from toolkit.evaluation.node_errors.checkpoint import EvaluationCheckpoint

        source = self.inputs.reference()
        data, held_out = self.inputs.evaluation_data(source)
        section = self.recipe.evaluation
        if data is None:
            return EvaluationRecord()
        if len(data) == 0:
            raise DataError(
                "there is no sample to measure on",
                where=self.recipe.locate("evaluation"),
                remedy="add [evaluation] data",
            )
        found = evaluate(
            source,
            self.lowering.model(),
            data,
            metric=section.metric,
            output=section.output,
            batch=section.batch,
            samples=section.samples,
            layer_samples=section.layer_samples,
            progress=self.job.progress,
            allow_code=self.job.allow_code,
            # float32 with Q/DQ pairs: onnxruntime has no bfloat16 kernels on the CPU
            prepared=self.passes.model,
            float_form=partial(self.passes.float_form, source),
            answers=self.task.answers,
            options=metric_options(section, self.task),
            kept=EvaluationCheckpoint(self.folder.hidden, sha256_json(self.key())[:20]),
        )
        # constructed without validation, which takes seconds for models with very many nodes
        return EvaluationRecord.model_construct(found=found, held_out=held_out, random=data.random)
