"""The key of every step: the content of all that goes into it, so that no result is found again where it is wrong."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from toolkit.base.versions import code_fingerprint, module_fingerprint, path_fingerprint, versions
from toolkit.run.inputs import RunInputs

NOT_EVALUATING = frozenset(
    {"fold_constants", "fold_batchnorm", "strip_qdq", "insert_qdq", "keep_precision", "guard_fp16"}
)
"""qtool's own passes that look at neither the evaluation's settings nor its data; of any other nobody knows."""


class RunKeys(RunInputs):
    """What each step of a recipe's run depends on.

    Attributes:
        not_on_device: why the engine is not run on a GPU in this run; empty where it is.
    """

    not_on_device = ""

    def samples_key(self) -> dict[str, Any]:
        """The look at the evaluation's first samples."""
        return {"model": self._model_key(), "code": code_fingerprint(), **self._evaluation_key()}

    def prepare_key(self) -> dict[str, Any]:
        """The passes and the calibration."""
        settings = self.recipe.calibration.model_dump(mode="json")
        method = {k: settings.pop(k) for k in ("method", "percentile", "methods", "manual", "weights", "unlike")}
        passes = [self._pass_key(entry["use"]) for entry in self.recipe.passes]
        # a pass that is not qtool's own may measure by default
        measures = any("code" in key for key in passes) or any(map(_measures, self.recipe.passes))
        return {
            "model": self._model_key(),
            "passes": self.recipe.passes,
            "pass code": passes,
            "profiles": repr(self.profiles),
            "calibration method": method,
            "calibration settings": settings,
            "calibration data": self.data_print(self.recipe.calibration.data),
            "given ranges": self.file_print(self.recipe.calibration.ranges),
            "given collection": self.file_print(self.recipe.calibration.collection),
            "measured times": {what: self.print_of(path) for what, path in self.times_files().items()},
            "held out": [self.recipe.evaluation.data is None, self.recipe.evaluation.hold_out],
            "rest": self.recipe.engine.rest,
            "measured on": [self._engine_key()["engine"], _gpu()] if measures else [],
            "predicted for": _gpu() if any(_predicts(entry) for entry in self.recipe.passes) else "",
            "services": self._evaluation_key() if any(entry["may evaluate"] for entry in passes) else [],
            "code": code_fingerprint(),
        }

    def lower_key(self) -> dict[str, Any]:
        """The lowering."""
        return {
            **self._engine_key(),
            "prepared": self._model_hash(self.folder.hidden / "prepared.onnx"),
            **self._hashes(self.folder.hidden / "plan.json", self.folder.path / "ranges.json"),
        }

    def build_key(self) -> dict[str, Any]:
        """The engine."""
        return {
            **self._engine_key(),
            "model": self._model_hash(self.folder.path / "model.onnx"),
            # weak typing takes the precisions from the plan, implicit quantization the ranges
            **self._hashes(self.folder.hidden / "lowered_plan.json", self.folder.path / "ranges.json"),
            "profiles": repr(self.profiles),
            "gpu": _gpu(),
        }

    def open_key(self) -> dict[str, Any]:
        """The engine whose opaque blocks are opened, and its run on the GPU."""
        return {
            **self.build_key(),
            **self._evaluation_key(),
            "float": self._model_key(),
            "prepared": self._model_hash(self.folder.hidden / "prepared.onnx"),
            "not on the GPU": self.not_on_device,
            **self._hashes(self.folder.hidden / "build.json"),
        }

    def compare_key(self) -> dict[str, Any]:
        """The engines of the plain model, for comparison."""
        return {
            **self._engine_key(),
            "compare": self.recipe.engine.compare,
            "model": self._model_key(),
            **self._hashes(self.folder.path / "ranges.json"),
            "profiles": repr(self.profiles),
            "gpu": _gpu(),
        }

    def latencies_key(self) -> dict[str, Any]:
        """The latencies of all engines, measured in turn."""
        return {
            "compare": self.recipe.engine.compare,
            **self._hashes(
                self.folder.path / "model.engine",
                self.folder.hidden / "compare.json",
                *(self.folder.hidden / f"compare_{name}.engine" for name in self.recipe.engine.compare),
            ),
            "profiles": repr(self.profiles),
            "gpu": _gpu(),
            "versions": versions(),
            "code": code_fingerprint(),
        }

    def evaluate_key(self) -> dict[str, Any]:
        """The evaluation."""
        return {
            "float": self._model_key(),
            "model": self._model_hash(self.folder.path / "model.onnx"),
            # evaluated instead where onnxruntime cannot run the lowered model
            "prepared": self._model_hash(self.folder.hidden / "prepared.onnx"),
            "code": code_fingerprint(),
            **self._evaluation_key(),
        }

    def device_key(self) -> dict[str, Any]:
        """The engine's run on the GPU."""
        return {
            "float": self._model_key(),
            **self._hashes(self.folder.path / "model.engine"),
            "gpu": _gpu(),
            "versions": versions(),
            "code": code_fingerprint(),
            **self._evaluation_key(),
        }

    def report_key(self) -> dict[str, Any]:
        """The report."""
        hidden, path = self.folder.hidden, self.folder.path
        return {
            "recipe": [
                self.recipe.name,
                str(self.recipe.path or ""),
                self.recipe.model_dump(mode="json", by_alias=True),
            ],
            **self._hashes(
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
            "model": [self._model_key(), self._model_hash(path / "model.onnx")],
            "not on the GPU": self.not_on_device,
            "calibration data": self.data_print(self.recipe.calibration.data),
            "evaluation data": self.data_print(self.recipe.evaluation.data),
            "given ranges": self.file_print(self.recipe.calibration.ranges),
            "given collection": self.file_print(self.recipe.calibration.collection),
            "profiles": repr(self.profiles),
            "versions": versions(),
            "code": code_fingerprint(),
        }

    # ---------------------------------------------------------------- parts of keys

    def _model_key(self) -> list[str]:
        """The float model: its file and the files of its weights."""
        external = self.header.external if self.header is not None else ()
        return [self.print_of(self.model_path), *(self.print_of(path) for path in external)]

    def _model_hash(self, path: Path) -> list[str]:
        """A model of the run folder with the file of its weights, hashed anew each time."""
        from toolkit.graph.header import model_files

        return [path_fingerprint(file) for file in model_files(path)] if path.is_file() else []

    def _hashes(self, *paths: Path) -> dict[str, str]:
        return {path.name: path_fingerprint(path) if path.is_file() else "" for path in paths}

    def _pass_key(self, use: str) -> dict[str, Any]:
        """The code of a pass: by qtool's own fingerprint, or by its module's where it is anybody else's."""
        from toolkit.contract.passes import installed

        if ":" in use:
            return {"code": module_fingerprint(use.partition(":")[0]), "may evaluate": True}
        entry = installed().get(use)
        if entry is None:
            return {"may evaluate": False}
        if entry.dist is not None and entry.dist.name == "qtool":
            return {"may evaluate": use not in NOT_EVALUATING}
        return {
            "distribution": [entry.dist.name, entry.dist.version] if entry.dist is not None else [],
            "entry point": entry.value,
            "code": module_fingerprint(entry.module),
            "may evaluate": True,
        }

    def _engine_key(self) -> dict[str, Any]:
        return {
            "engine": self.recipe.engine.model_dump(mode="json", exclude={"compare", "open"}),
            "versions": versions(),
            "code": code_fingerprint(),
        }

    def _evaluation_key(self) -> dict[str, Any]:
        """What measuring depends on besides the models."""
        evaluation, calibration = self.recipe.evaluation, self.recipe.calibration
        metric = evaluation.metric or ""
        return {
            "evaluation settings": evaluation.model_dump(mode="json"),
            "metric code": module_fingerprint(metric.partition(":")[0]) if ":" in metric else "",
            "evaluation data": self.data_print(evaluation.data),
            "held out of": self.data_print(calibration.data) if evaluation.data is None else "",
            "seen by calibration": evaluation.data is not None
            and self._same_samples(evaluation.data, calibration.data),
            "stripped": [step.model_dump(mode="json") for step in self._strips()],
            "how data is read": calibration.model_dump(mode="json", include={"outside", "mask", "images", "random"}),
            "profiles": repr(self.profiles),
        }


def _measures(entry: Mapping[str, Any]) -> bool:
    """Whether a pass of the recipe measures engines, where there is a GPU."""
    searches = entry["use"] == "search_precision" and entry.get("measure", True) and not entry.get("times")
    return bool(entry.get("only_if_faster")) or (searches and bool(_gpu()))


def _predicts(entry: Mapping[str, Any]) -> bool:
    """Whether a pass predicts times for the GPU that is here."""
    return entry["use"] == "search_precision" and not entry.get("gpu")


def _gpu() -> str:
    from toolkit.base.gpu import find_gpu

    gpu = find_gpu()
    return repr(gpu) if gpu is not None else ""
