"""Settings of a recipe that have no effect given its other settings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from toolkit.base.given import names_code
from toolkit.contract.installed import installed_passes
from toolkit.contract.registry import passes_with_role
from toolkit.contract.roles import Role
from toolkit.run.recipe.sections import CalibrationSection, EngineSection, EvaluationSection

_FILES = (".npz", ".npy", ".json")


def idle_settings(
    calibration: CalibrationSection,
    evaluation: EvaluationSection,
    engine: EngineSection,
    profiles: int,
    passes: Sequence[Mapping[str, Any]],
) -> Iterator[tuple[str, str, str]]:
    """The table, name and reason of each given setting that has no effect given the others.

    The settings of passes are not included: each pass checks its own.

    Args:
        calibration: ``[calibration]``.
        evaluation: ``[evaluation]``.
        engine: ``[engine]``.
        profiles: how many profiles the recipe has.
        passes: the settings of each ``[[pass]]``.
    """
    for table, section, idle in (
        ("calibration", calibration, _calibration(calibration, evaluation, profiles, passes)),
        ("evaluation", evaluation, _evaluation(evaluation)),
        ("engine", engine, _engine(engine)),
    ):
        given = section.model_fields_set
        yield from ((table, name, why) for name, why in idle if name in given)


def _calibration(
    section: CalibrationSection, evaluation: EvaluationSection, profiles: int, passes: Sequence[Mapping[str, Any]]
) -> Iterator[tuple[str, str]]:
    methods = (section.method, *section.methods.values())
    if "percentile" in section.model_fields_set and "percentile" not in methods and not _may_search(passes):
        yield "percentile", f"method is '{section.method}', no tensor has another in methods, and no pass tries others"
    if not any(_may_be_folder(data) for data in (section.data, evaluation.data)):
        yield "images", "it configures the preprocessing of image folders, but no data is a folder"
    if section.ranges is None:
        yield "ranges_use", "it applies to given ranges, and none are given"
    if section.collection is not None and section.device == "gpu":
        yield "device", "the collection is used instead of running the model"
    if profiles < 2:
        yield "unlike", "it compares profiles, and the recipe has fewer than two"
        yield "weights", "it weighs profiles, and the recipe has fewer than two"


def _evaluation(section: EvaluationSection) -> Iterator[tuple[str, str]]:
    if section.data is not None:
        yield "hold_out", "there is test data, so no calibration samples are held out"
    if section.metric != "wer":
        yield "space", f"metric wer reads it, and metric is {section.metric or 'not given'}"


def _engine(section: EngineSection) -> Iterator[tuple[str, str]]:
    if section.quantization == "explicit" and section.calibrator != "ranges":
        yield "calibrator", "Q/DQ pairs hold qtool's ranges, and TensorRT calibrates nothing"
    if section.calibrator == "ranges" and section.calibration_profile is not None:
        yield "calibration_profile", "none of TensorRT's own calibrators is used"
    if section.typing == "strong" and section.constraints != "auto":
        yield "constraints", "a strongly typed network has no layer precisions to constrain"
    if section.backend == "tensorrt" and section.compute_capabilities:
        yield "compute_capabilities", "the backend tensorrt builds for the local GPU"


def _may_search(passes: Sequence[Mapping[str, Any]]) -> bool:
    """Whether a pass may try the ranges of other methods: a search, or a pass that is not installed."""
    searches, known = {name for name, _ in passes_with_role(Role.SEARCH)}, installed_passes()
    return any(entry["use"] in searches or entry["use"] not in known for entry in passes)


def _may_be_folder(data: str | None) -> bool:
    return data is not None and not (names_code(data) or data.lower().endswith(_FILES))
