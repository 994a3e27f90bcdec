"""Building with TensorRT-RTX, inside the child process."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from toolkit.backends.building.build_config import check_profiles, common_arguments, polygraphy_profiles, with_timing
from toolkit.backends.building.messages import Messages
from toolkit.backends.building.record_network import walk_network
from toolkit.backends.processes.channel import Channel
from toolkit.base.attention_layers import make_decomposable
from toolkit.base.errors import BackendError, did_you_mean


def parse(request: dict[str, Any], talk: Channel) -> dict[str, Any]:
    """Parse the model and check that profiles and settings fit it.

    Args:
        request: ``model`` (a path), ``profiles``, ``settings``.
        talk: receives messages.

    Raises:
        BackendError: TensorRT-RTX rejected the model or the settings.
    """
    _opened(request, Messages(talk, logged=False))
    return {}


def build(request: dict[str, Any], talk: Channel) -> dict[str, Any]:
    """Parse the model, record its typed network, and build the engine.

    Args:
        request: ``model`` and ``engine`` (paths), ``profiles``, ``settings``.
        talk: receives messages and progress.

    Returns:
        ``version``, ``network``, ``log``, ``started`` (by ``time.monotonic``) and ``seconds``; the engine is written to
        the file ``engine``.

    Raises:
        BackendError: TensorRT-RTX rejected the model or the settings.
    """
    messages = Messages(talk)
    settings, model = request["settings"], request["model"]
    started = time.monotonic()
    talk.progress("parsing", 0, 1)
    trt, opened, walked, capabilities = _opened(request, messages)
    # Polygraphy decides at its first import, which has happened by now, which of the two modules it uses
    from polygraphy.backend.tensorrt_rtx import CreateConfigRTX
    from polygraphy.backend.trt import EngineBytesFromNetwork
    from polygraphy.exception import PolygraphyException

    talk.progress("parsing", 1, 1)
    talk.progress("building", 0, 1)
    cache = settings["timing_cache"]
    try:
        arguments = common_arguments(trt, settings, talk)
        create = CreateConfigRTX(
            profiles=polygraphy_profiles(request["profiles"], {t["name"]: t["shape"] for t in walked["inputs"]}),
            compute_capabilities=capabilities,
            **arguments,
        )
        engine = EngineBytesFromNetwork(opened, config=with_timing(trt, create, settings), save_timing_cache=cache)()
    except (PolygraphyException, RuntimeError) as error:
        stage, layers = f"TensorRT-RTX {trt.__version__} could not build", walked["layers"]
        raise messages.error(stage, model, str(error), layers) from error
    talk.progress("building", 1, 1)
    Path(request["engine"]).write_bytes(engine)
    return {
        "version": str(trt.__version__),
        "network": walked,
        "log": messages.lines(),
        "started": started,
        "seconds": time.monotonic() - started,
    }


def _opened(request: dict[str, Any], messages: Messages) -> tuple[Any, Any, dict[str, Any], list[tuple[int, int]]]:
    """The module, Polygraphy's parsed network, its record, and the compute capabilities to build for."""
    from polygraphy import config as polygraphy_config

    polygraphy_config.USE_TENSORRT_RTX = True
    import tensorrt_rtx as trt
    from polygraphy.backend.trt import NetworkFromOnnxPath, util
    from polygraphy.exception import PolygraphyException
    from polygraphy.logger import G_LOGGER

    G_LOGGER.module_severity = G_LOGGER.CRITICAL
    # Polygraphy creates one logger per process and has no way to set another.
    util.TRT_LOGGER = messages.logger(trt)
    model = request["model"]
    capabilities = _capabilities(trt, request["settings"]["compute_capabilities"])
    try:
        opened = NetworkFromOnnxPath(model, strongly_typed=True)()
    except (PolygraphyException, RuntimeError) as error:
        raise messages.error(f"TensorRT-RTX {trt.__version__} refused the model", model, str(error)) from error
    make_decomposable(trt, opened[1])
    walked = walk_network(opened[1])
    check_profiles({t["name"]: t["shape"] for t in walked["inputs"]}, request["profiles"])
    return trt, opened, walked, capabilities


def _capabilities(trt: Any, asked: list[str]) -> list[tuple[int, int]]:
    known = {
        f"{name[2:-1]}.{name[-1]}": (int(name[2:-1]), int(name[-1]))
        for name in trt.ComputeCapability.__members__
        if name.startswith("SM")
    }
    for capability in asked:
        if capability not in known:
            raise BackendError(
                f"TensorRT-RTX {trt.__version__} does not build for compute capability {capability}",
                where="[engine] compute_capabilities",
                remedy=did_you_mean(capability, known) or "choose one that it supports",
            )
    return [known[capability] for capability in asked]
