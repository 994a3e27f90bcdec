"""The step "task": what the model is for, and whether the float model is right by the labels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from toolkit.base.versions import code_fingerprint
from toolkit.run.keys import evaluation_key
from toolkit.run.step import Step
from toolkit.run.task import TaskRecord, task_of


class TaskStep(Step[TaskRecord]):
    """Tells the task, before anything is quantized."""

    name = "task"
    kind = TaskRecord

    def key(self) -> Mapping[str, Any]:
        """The float model, the samples, and what measuring depends on."""
        return {"float": self.inputs.prints.of_model(), "code": code_fingerprint(), **evaluation_key(self.inputs)}

    def run(self) -> TaskRecord:
        """Run the float model on the first samples."""
        return task_of(self.inputs)
