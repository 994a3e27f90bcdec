"""The key of every step: the content of all that goes into it, so that no result is found again where it is wrong."""

from __future__ import annotations

from typing import Any

from toolkit.base.versions import code_fingerprint, versions
from toolkit.run.inputs import Inputs
from toolkit.run.keys import engine_key, evaluation_key, gpu_here, hashes, model_hash
from toolkit.run.pass_keys import passes_key


class StepKeys:
    """What each step of a recipe's run depends on.

    Attributes:
        not_on_device: why the engine is not run on a GPU in this run; empty where it is.
    """

    not_on_device = ""

    def __init__(self, inputs: Inputs) -> None:
        self.inputs, self.job = inputs, inputs.job

    def samples_key(self) -> dict[str, Any]:
        """The look at the evaluation's first samples."""
        return {"model": self.inputs.prints.of_model(), "code": code_fingerprint(), **evaluation_key(self.inputs)}

    def prepare_key(self) -> dict[str, Any]:
        """The passes and the calibration."""
        recipe, prints = self.job.recipe, self.inputs.prints
        settings = recipe.calibration.model_dump(mode="json")
        method = {k: settings.pop(k) for k in ("method", "percentile", "methods", "manual", "weights", "unlike")}
        return {
            "model": prints.of_model(),
            **passes_key(self.inputs),
            "profiles": repr(self.job.profiles),
            "calibration method": method,
            "calibration settings": settings,
            "calibration data": prints.of_data(recipe.calibration.data),
            "given ranges": prints.of_file(recipe.calibration.ranges),
            "given collection": prints.of_file(recipe.calibration.collection),
            "held out": [recipe.evaluation.data is None, recipe.evaluation.hold_out],
            "rest": recipe.engine.rest,
            "code": code_fingerprint(),
        }

    def lower_key(self) -> dict[str, Any]:
        """The lowering."""
        return {
            **engine_key(self.job),
            "prepared": model_hash(self.job.folder.hidden / "prepared.onnx"),
            **hashes(self.job.folder.hidden / "plan.json", self.job.folder.path / "ranges.json"),
        }

    def build_key(self) -> dict[str, Any]:
        """The engine."""
        return {
            **engine_key(self.job),
            "model": model_hash(self.job.folder.path / "model.onnx"),
            # weak typing takes the precisions from the plan, implicit quantization the ranges
            **hashes(self.job.folder.hidden / "lowered_plan.json", self.job.folder.path / "ranges.json"),
            "profiles": repr(self.job.profiles),
            "gpu": gpu_here(),
        }

    def open_key(self) -> dict[str, Any]:
        """The engine whose opaque blocks are opened, and its run on the GPU."""
        return {
            **self.build_key(),
            **evaluation_key(self.inputs),
            "float": self.inputs.prints.of_model(),
            "prepared": model_hash(self.job.folder.hidden / "prepared.onnx"),
            "not on the GPU": self.not_on_device,
            **hashes(self.job.folder.hidden / "build.json"),
        }

    def compare_key(self) -> dict[str, Any]:
        """The engines of the plain model, for comparison."""
        return {
            **engine_key(self.job),
            "compare": self.job.recipe.engine.compare,
            "model": self.inputs.prints.of_model(),
            **hashes(self.job.folder.path / "ranges.json"),
            "profiles": repr(self.job.profiles),
            "gpu": gpu_here(),
        }

    def latencies_key(self) -> dict[str, Any]:
        """The latencies of all engines, measured in turn."""
        return {
            "compare": self.job.recipe.engine.compare,
            **hashes(
                self.job.folder.path / "model.engine",
                self.job.folder.hidden / "compare.json",
                *(self.job.folder.hidden / f"compare_{name}.engine" for name in self.job.recipe.engine.compare),
            ),
            "profiles": repr(self.job.profiles),
            "gpu": gpu_here(),
            "versions": versions(),
            "code": code_fingerprint(),
        }

    def evaluate_key(self) -> dict[str, Any]:
        """The evaluation."""
        return {
            "float": self.inputs.prints.of_model(),
            "model": model_hash(self.job.folder.path / "model.onnx"),
            # evaluated instead where onnxruntime cannot run the lowered model
            "prepared": model_hash(self.job.folder.hidden / "prepared.onnx"),
            "code": code_fingerprint(),
            **evaluation_key(self.inputs),
        }

    def device_key(self) -> dict[str, Any]:
        """The engine's run on the GPU."""
        return {
            "float": self.inputs.prints.of_model(),
            **hashes(self.job.folder.path / "model.engine"),
            "gpu": gpu_here(),
            "versions": versions(),
            "code": code_fingerprint(),
            **evaluation_key(self.inputs),
        }

    def report_key(self) -> dict[str, Any]:
        """The report."""
        hidden, path = self.job.folder.hidden, self.job.folder.path
        return {
            "recipe": [
                self.job.recipe.name,
                str(self.job.recipe.path or ""),
                self.job.recipe.model_dump(mode="json", by_alias=True),
            ],
            **hashes(
                hidden / "build.json",
                hidden / "opened.json",
                hidden / "opened.jsonl",
                hidden / "compare.json",
                hidden / "in_turn.json",
                hidden / "evaluation.json",
                hidden / "device.json",
                hidden / "plan.json",
                hidden / "lowered_plan.json",
                hidden / "passes.jsonl",
                hidden / "lowering.jsonl",
                path / "ranges.json",
                path / "layers.json",
                path / "search.json",
            ),
            "model": [self.inputs.prints.of_model(), model_hash(path / "model.onnx")],
            "not on the GPU": self.not_on_device,
            "calibration data": self.inputs.prints.of_data(self.job.recipe.calibration.data),
            "evaluation data": self.inputs.prints.of_data(self.job.recipe.evaluation.data),
            "given ranges": self.inputs.prints.of_file(self.job.recipe.calibration.ranges),
            "given collection": self.inputs.prints.of_file(self.job.recipe.calibration.collection),
            "profiles": repr(self.job.profiles),
            "versions": versions(),
            "code": code_fingerprint(),
        }
