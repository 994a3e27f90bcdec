"""The builder configuration shared by TensorRT and TensorRT-RTX, as arguments of Polygraphy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from toolkit.backends.processes.channel import Channel
from toolkit.base.errors import BackendError, did_you_mean
from toolkit.base.text import literal_glob, toml_key


def check_profiles(inputs: Mapping[str, Sequence[int]], profiles: Sequence[Mapping[str, Any]]) -> None:
    """Check that every profile covers every dynamic input and agrees with fixed dimensions.

    Args:
        inputs: shape of every network input, -1 for dynamic dimensions.
        profiles: ``{"name": ..., "shapes": {input: {"min": [...], "opt": [...], "max": [...]}}}``.

    Raises:
        BackendError: an input is not covered, does not exist, or has another shape.
    """
    for profile in profiles or [{"name": "", "shapes": {}}]:
        where = f"profile '{profile['name']}'" if profile["name"] else "the recipe's profiles"
        for name, shape in inputs.items():
            given = profile["shapes"].get(name)
            if given is None:
                if -1 in shape:
                    raise BackendError(
                        f"input '{name}' has the dynamic shape {list(shape)} and no shapes are given for it",
                        where=where,
                        remedy=f"add shapes.{toml_key(name)} = {{ min = [..], opt = [..], max = [..] }} to the profile",
                    )
                continue
            for which in ("min", "opt", "max"):
                asked = given[which]
                fits = len(asked) == len(shape) and all(size in (-1, a) for size, a in zip(shape, asked))
                if not fits:
                    raise BackendError(
                        f"input '{name}' has shape {list(shape)} in the model and {which} {list(asked)}",
                        where=where,
                        remedy="give as many dimensions as the model has, and its own size where it is fixed",
                    )
        for name in profile["shapes"]:
            if name not in inputs:
                raise BackendError(
                    f"the model has no input '{name}'", where=where, remedy=did_you_mean(name, inputs.keys())
                )


def polygraphy_profiles(profiles: Sequence[Mapping[str, Any]], inputs: Mapping[str, Sequence[int]]) -> list[Any]:
    """A Polygraphy Profile for each profile; one without dynamic inputs if there are none.

    Args:
        profiles: as for ``check_profiles``, which has accepted them.
        inputs: shape of every network input.
    """
    from polygraphy.backend.trt import Profile

    made = []
    for profile in profiles or [{"shapes": {}}]:
        one = Profile()
        for name, extent in profile["shapes"].items():
            # Polygraphy interprets names as patterns
            one.add(literal_glob(name), min=tuple(extent["min"]), opt=tuple(extent["opt"]), max=tuple(extent["max"]))
        for name, shape in inputs.items():
            # the other inputs it adds itself, under their plain names, which as patterns may not match them
            if name not in profile["shapes"] and literal_glob(name) != name:
                one.add(literal_glob(name), tuple(shape), tuple(shape), tuple(shape))
        made.append(one)
    return made


def common_arguments(trt: Any, settings: Mapping[str, Any], talk: Channel) -> dict[str, Any]:
    """Keyword arguments for the settings that CreateConfig and CreateConfigRTX share.

    Raises:
        BackendError: this version does not support a setting.
    """
    arguments: dict[str, Any] = {"progress_monitor": _monitor(trt, talk)}
    if settings["workspace"] is not None:
        arguments["memory_pool_limits"] = {trt.MemoryPoolType.WORKSPACE: settings["workspace"]}
    if settings["timing_cache"]:
        arguments["load_timing_cache"] = settings["timing_cache"]
    if settings["optimization_level"] is not None:
        arguments["builder_optimization_level"] = settings["optimization_level"]
    if settings["tactic_sources"] is not None:
        known = trt.TacticSource.__members__
        for name in settings["tactic_sources"]:
            if name.upper() not in known:
                raise BackendError(
                    f"TensorRT {trt.__version__} has no tactic source '{name}'",
                    where="[engine] tactic_sources",
                    remedy=did_you_mean(name.upper(), known),
                )
        arguments["tactic_sources"] = [known[name.upper()] for name in settings["tactic_sources"]]
    if settings["hardware_compatible"]:
        _need(trt, hasattr(trt, "HardwareCompatibilityLevel"), "hardware_compatible")
        arguments["hardware_compatibility_level"] = trt.HardwareCompatibilityLevel.AMPERE_PLUS
    for setting, flag, argument in (
        ("refit", "REFIT", "refittable"),
        ("version_compatible", "VERSION_COMPATIBLE", "version_compatible"),
        ("sparse_weights", "SPARSE_WEIGHTS", "sparse_weights"),
    ):
        if settings[setting]:
            _need(trt, hasattr(trt.BuilderFlag, flag), setting)
            arguments[argument] = True
    return {name: value for name, value in arguments.items() if value is not None}


def with_timing(trt: Any, create: Any, settings: Mapping[str, Any]) -> Any:
    """The loader of a builder configuration, with kernel timing settings for which Polygraphy has no argument.

    Raises:
        BackendError: raised by the loader, if this version of TensorRT has no such setting.
    """
    from polygraphy.backend.trt import PostprocessConfig

    if settings["avg_timing_iterations"] is None:
        return create

    def set_iterations(builder: Any, network: Any, config: Any) -> None:
        _need(trt, hasattr(config, "avg_timing_iterations"), "avg_timing_iterations")
        config.avg_timing_iterations = settings["avg_timing_iterations"]

    return PostprocessConfig(create, set_iterations)


def _need(trt: Any, there: bool, setting: str) -> None:
    if not there:
        raise BackendError(
            f"TensorRT {trt.__version__} cannot do this",
            where=f"[engine] {setting}",
            remedy="leave the setting out, or use a version that has it",
        )


def _monitor(trt: Any, talk: Channel) -> Any:
    """A progress monitor that reports the outermost phases; None if this version has none."""
    if not hasattr(trt, "IProgressMonitor"):
        return None

    class Monitor(trt.IProgressMonitor):
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.steps: dict[str, int] = {}

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            if parent_phase is None:
                self.steps[phase_name] = num_steps
                talk.progress(phase_name, 0, num_steps)

        def step_complete(self, phase_name: str, step: int) -> bool:
            if phase_name in self.steps:
                talk.progress(phase_name, min(step + 1, self.steps[phase_name]), self.steps[phase_name])
            return True

        def phase_finish(self, phase_name: str) -> None:
            steps = self.steps.pop(phase_name, None)
            if steps is not None:
                talk.progress(phase_name, steps, steps)

    return Monitor()
