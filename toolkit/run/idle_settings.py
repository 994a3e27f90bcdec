"""Settings of a recipe that change nothing beside its others."""

from __future__ import annotations

from collections.abc import Iterator

from toolkit.run.sections import CalibrationSection, EngineSection, EvaluationSection


def idle_settings(
    calibration: CalibrationSection, evaluation: EvaluationSection, engine: EngineSection, profiles: int
) -> Iterator[tuple[str, str, str]]:
    """The table, the name and the reason of each setting that is given and has no effect; passes know their own.

    Args:
        calibration: ``[calibration]``.
        evaluation: ``[evaluation]``.
        engine: ``[engine]``.
        profiles: how many profiles the recipe has.
    """
    for table, section, idle in (
        ("calibration", calibration, _calibration(calibration, profiles)),
        ("evaluation", evaluation, _evaluation(evaluation)),
        ("engine", engine, _engine(engine)),
    ):
        yield from ((table, name, why) for name, why in idle if name in section.model_fields_set)


def _calibration(section: CalibrationSection, profiles: int) -> Iterator[tuple[str, str]]:
    if section.ranges is None:
        yield "ranges_use", "it is said of ranges, and none are given"
    if section.collection is not None and section.device == "gpu":
        yield "device", "the collection is taken in place of running the model"
    if profiles < 2:
        yield "unlike", "it compares profiles, and the recipe has fewer than two"


def _evaluation(section: EvaluationSection) -> Iterator[tuple[str, str]]:
    if section.data is not None:
        yield "hold_out", "there is test data, so that no calibration samples are held back"
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
        yield "compute_capabilities", "the backend tensorrt builds for the GPU that is here"
