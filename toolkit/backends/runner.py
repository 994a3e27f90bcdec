"""Running a built engine on the GPU, each batch in the profile that holds its shapes."""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import Any

import numpy as np

from toolkit.backends.gpu import find_gpu
from toolkit.errors import BackendError
from toolkit.profiles import Profiles

Array = np.ndarray[Any, Any]


class EngineRunner:
    """An engine on this machine's GPU.

    Args:
        engine: the serialized engine.
        backend: what built it: tensorrt or tensorrt_rtx.
        profiles: the profiles it was built with, in their order.

    Example:
        >>> with EngineRunner(build.engine, build.backend, profiles) as runner:   # doctest: +SKIP
        ...     outputs = runner.run({"image": images})

    Raises:
        BackendError: no GPU is here, the engine was built for another GPU or version, or memory is short.
    """

    def __init__(self, engine: bytes, backend: str, profiles: Profiles) -> None:
        self._bytes, self._backend, self._profiles = engine, backend, profiles
        self._engine: Any = None
        self._runners: dict[int, Any] = {}

    def __enter__(self) -> EngineRunner:
        if find_gpu() is None:
            raise BackendError("no GPU is here to run the engine", remedy="run on the machine that the engine is for")
        from polygraphy import config as polygraphy_config

        polygraphy_config.USE_TENSORRT_RTX = self._backend == "tensorrt_rtx"
        from polygraphy.backend.trt import EngineFromBytes
        from polygraphy.exception import PolygraphyException
        from polygraphy.logger import G_LOGGER

        G_LOGGER.module_severity = G_LOGGER.CRITICAL
        try:
            self._engine = EngineFromBytes(self._bytes)()
        except (PolygraphyException, RuntimeError) as error:
            raise BackendError(
                f"the engine cannot be opened: {' '.join(str(error).split())[:300]}",
                remedy="build it again on this machine: engines belong to one GPU and one version of TensorRT",
            ) from error
        return self

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """The outputs for one batch of inputs.

        Raises:
            BackendError: no profile holds the inputs' shapes, or TensorRT failed.
        """
        from polygraphy.exception import PolygraphyException

        runner = self._runner(feeds)
        try:
            outputs = runner.infer(feed_dict=dict(feeds))
        except (PolygraphyException, RuntimeError) as error:
            raise BackendError(
                f"the engine failed: {' '.join(str(error).split())[:300]}", remedy="check the inputs' types and shapes"
            ) from error
        # Polygraphy hands out its own buffers and writes the next batch into them.
        return {name: np.array(values, copy=True) for name, values in outputs.items()}

    def _runner(self, feeds: Mapping[str, Array]) -> Any:
        from polygraphy.backend.trt import TrtRunner

        shapes = {name: values.shape for name, values in feeds.items()}
        fitting = self._profiles.fits(shapes)
        if len(self._profiles) and not fitting:
            raise BackendError(
                f"no profile holds inputs of shapes { {name: list(shape) for name, shape in shapes.items()} }",
                remedy="use shapes within a profile, or add one to the recipe",
            )
        index = self._profiles.names.index(fitting[0].name) if fitting else 0
        if index not in self._runners:
            runner = TrtRunner(self._engine, optimization_profile=index)
            runner.activate()
            self._runners[index] = runner
        return self._runners[index]

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for runner in self._runners.values():
            runner.deactivate()
        self._runners.clear()
        self._engine = None
