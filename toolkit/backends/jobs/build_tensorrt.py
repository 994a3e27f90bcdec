"""Parsing and building with TensorRT, inside the child process."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from toolkit.backends.building.build_config import check_profiles, common_arguments, polygraphy_profiles, with_timing
from toolkit.backends.building.calibrators import Calibration
from toolkit.backends.building.mark_tensors import mark_tensors
from toolkit.backends.building.messages import Messages
from toolkit.backends.building.weak_network import allowed_types, set_precisions, set_ranges
from toolkit.backends.processes.channel import Channel
from toolkit.base.attention_layers import make_decomposable
from toolkit.base.errors import BackendError


def parse(request: dict[str, Any], talk: Channel) -> dict[str, Any]:
    """Parse the model and check that the profiles fit it.

    Args:
        request: ``model`` (a path), ``profiles``, ``settings`` with ``typing``.
        talk: receives messages.

    Raises:
        BackendError: TensorRT rejected the model.
    """
    trt, messages = _module(Messages(talk, logged=False))
    from polygraphy.backend.trt import NetworkFromOnnxPath
    from polygraphy.exception import PolygraphyException

    model = request["model"]
    try:
        network = NetworkFromOnnxPath(model, strongly_typed=_strongly(trt, request["settings"]))()[1]
    except (PolygraphyException, RuntimeError, TypeError) as error:
        raise messages.error(f"TensorRT {trt.__version__} refused the model", model, str(error)) from error
    check_profiles(_input_shapes(network), request["profiles"])
    return {}


def build(request: dict[str, Any], talk: Channel) -> dict[str, Any]:
    """Parse the model, apply plan and ranges under weak typing, and build.

    Args:
        request: ``model`` (path), ``folder`` (where results are written), ``profiles``, ``settings``, ``plan`` (node to
            precision), ``amax`` (tensor to amax), ``batches`` (npz files), ``calibration_profile``,
            ``calibration_cache``, ``opened`` (inner tensors to mark).
        talk: receives messages and progress.

    Returns:
        ``version``, ``log``, ``started`` (by ``time.monotonic``), ``seconds``, ``unmarked`` (tensors to mark that are
        not in the network) and ``constraints`` (how strictly layer precisions were enforced); the engine is written to
        model.engine in ``folder``.

    Raises:
        BackendError: TensorRT rejected the model or the settings.
    """
    trt, messages = _module(Messages(talk))
    from polygraphy.backend.trt import EngineBytesFromNetwork
    from polygraphy.exception import PolygraphyException

    settings, version = request["settings"], str(trt.__version__)
    started = time.monotonic()
    talk.progress("parsing", 0, 1)
    unmarked: list[str] = []
    try:
        opened = _network_loader(trt, request, talk, unmarked)()
        talk.progress("parsing", 1, 1)
        talk.progress("building", 0, 1)
        network = opened[1]
        make_decomposable(trt, network)
        inputs = _input_shapes(network)
        check_profiles(inputs, request["profiles"])
        calibration = Calibration(trt, request, inputs) if request["batches"] else None
        held = constraints(network, settings)
        create = _config(trt, network, request, talk, calibration)
        cache = settings["timing_cache"]
        if cache:
            Path(cache).parent.mkdir(parents=True, exist_ok=True)
        engine = bytes(EngineBytesFromNetwork(opened, config=create, save_timing_cache=cache)())
    except (PolygraphyException, RuntimeError, TypeError) as error:
        raise messages.error(f"TensorRT {version} could not build", request["model"], str(error)) from error
    if calibration is not None:
        calibration.finish(talk)
    seconds = time.monotonic() - started
    talk.progress("building", 1, 1)
    (Path(request["folder"]) / "model.engine").write_bytes(engine)
    return {
        "version": version,
        "log": messages.lines(),
        "started": started,
        "seconds": seconds,
        "unmarked": unmarked,
        "constraints": held,
    }


def _network_loader(trt: Any, request: dict[str, Any], talk: Channel, unmarked: list[str]) -> Any:
    """Polygraphy's loader of the network with plan, ranges and marked tensors; adds missing tensors to ``unmarked``."""
    from polygraphy.backend.trt import NetworkFromOnnxPath, PostprocessNetwork

    settings = request["settings"]
    weak = settings["typing"] == "weak"
    loader = NetworkFromOnnxPath(request["model"], strongly_typed=_strongly(trt, settings))
    if weak:
        loader = PostprocessNetwork(loader, lambda network: _apply(trt, network, request, talk))
    if request["opened"]:
        half = weak and settings["rest"] == "fp16"
        loader = PostprocessNetwork(
            loader, lambda network: unmarked.extend(mark_tensors(trt, network, request["opened"], half))
        )
    return loader


def _module(messages: Messages) -> tuple[Any, Messages]:
    """The module ``tensorrt``, set up for Polygraphy, and the receiver of its messages."""
    from polygraphy import config as polygraphy_config

    polygraphy_config.USE_TENSORRT_RTX = False
    import tensorrt as trt
    from polygraphy.backend.trt import util
    from polygraphy.logger import G_LOGGER

    G_LOGGER.module_severity = G_LOGGER.CRITICAL
    # Polygraphy creates one logger per process and has no way to set another.
    util.TRT_LOGGER = messages.logger(trt)
    return trt, messages


def _strongly(trt: Any, settings: dict[str, Any]) -> bool:
    return settings["typing"] != "weak" and hasattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED")


def _input_shapes(network: Any) -> dict[str, list[int]]:
    inputs = [network.get_input(index) for index in range(network.num_inputs)]
    return {tensor.name: list(tensor.shape) for tensor in inputs}


def _apply(trt: Any, network: Any, request: dict[str, Any], talk: Channel) -> None:
    """Set plan and ranges in a weakly typed network."""
    settings = request["settings"]
    implicit = settings["quantization"] == "implicit"
    set_precisions(trt, network, request["plan"], settings["rest"], implicit)
    if implicit and settings["calibrator"] == "ranges":
        missing = set_ranges(trt, network, request["amax"])
        if missing:
            some = ", ".join(f"'{name}'" for name in missing[:3])
            talk.log(f"WARNING: {len(missing)} tensors have no range, layers on them stay in float: {some}")


def _config(trt: Any, network: Any, request: dict[str, Any], talk: Channel, calibration: Calibration | None) -> Any:
    """Polygraphy's loader of the builder configuration."""
    from polygraphy.backend.trt import CreateConfig, PostprocessConfig

    settings = request["settings"]
    arguments = common_arguments(trt, settings, talk)
    if settings["typing"] == "weak":
        arguments |= _flags(trt, network, request)
    if calibration is not None:
        arguments["calibrator"] = calibration.calibrator
    profiles = polygraphy_profiles(request["profiles"], _input_shapes(network))
    create = CreateConfig(profiles=profiles, tf32=settings["tf32"], **arguments)
    create = with_timing(trt, create, settings)
    return PostprocessConfig(create, calibration.choose_profile) if calibration is not None else create


def constraints(network: Any, settings: Mapping[str, Any]) -> str | None:
    """How strictly layer precisions are enforced: ``obey`` or ``prefer``; None under strong typing.

    ``auto`` is ``prefer`` if there are Q/DQ pairs. With ``obey``, TensorRT 8.6.0 cannot build an Add after an INT8
    convolution whose result no quantized layer reads, whether or not a precision is set on any layer («All of the
    candidates were removed, which points to the node being incorrectly marked as an int8 node»). With ``prefer``, it
    fuses the Add into the convolution, and layers set to float run in float (measured on an H200 with
    tests/benchmarks/bench_residual.py).
    """
    if settings["typing"] != "weak":
        return None
    if settings["constraints"] != "auto":
        return str(settings["constraints"])
    kinds = {network.get_layer(i).type.name for i in range(network.num_layers)}
    return "prefer" if kinds & {"QUANTIZE", "DEQUANTIZE"} else "obey"


def _flags(trt: Any, network: Any, request: dict[str, Any]) -> dict[str, Any]:
    """The types that a weakly typed builder may use: those requested, and the type of the rest."""
    settings = request["settings"]
    kinds = {network.get_layer(i).type.name for i in range(network.num_layers)}
    quantized = settings["quantization"] == "implicit" or bool(kinds & {"QUANTIZE", "DEQUANTIZE"})
    flags: dict[str, Any] = {"precision_constraints": constraints(network, settings)}
    for word in allowed_types(request["plan"], settings["rest"], quantized):
        if not hasattr(trt.BuilderFlag, word.upper()):
            raise BackendError(
                f"TensorRT {trt.__version__} has no {word.upper()}",
                where="the precision plan",
                remedy="request another precision, or use a newer TensorRT",
            )
        flags[word] = True
    return flags
