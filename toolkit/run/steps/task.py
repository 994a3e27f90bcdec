"""The step "task": determines the model's task, and checks the float model against the labels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from toolkit.base.versions import code_fingerprint
from toolkit.run.keys.keys import evaluation_key
from toolkit.run.keys.step import Step
from toolkit.run.keys.user_code import reference_uses_own_code
from toolkit.run.task.task import TaskRecord, task_of


class TaskStep(Step[TaskRecord]):
    """Determines the task before anything is quantized."""

    name = "task"
    kind = TaskRecord

    def key(self) -> Mapping[str, Any]:
        """The float model, the samples, and the inputs of measuring."""
        prints, calibration = self.inputs.prints, self.job.recipe.calibration
        return {
            "float": prints.of_model(),
            "calibration data": prints.of_data(calibration.data),
            "code": code_fingerprint(),
            **evaluation_key(self.inputs),
        }

    def calls_users_code(self) -> bool:
        """True if a user-defined pass strips pairs from the reference model; a user's metric is not called here."""
        return reference_uses_own_code(self.job)

    def run(self) -> TaskRecord:
        """Run the float model on the first samples."""
        return task_of(self.inputs)
