"""Running a built engine on the GPU, each batch in a profile that fits its shapes."""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Mapping
from types import TracebackType
from typing import Any

import ml_dtypes
import numpy as np

from toolkit.backends.execution.open_engine import load_plugins
from toolkit.base.errors import BackendError, no_value
from toolkit.base.gpu import find_gpu
from toolkit.base.profiles import Profiles
from toolkit.base.text import on_one_line
from toolkit.base.types import Array

TYPES: dict[str, Any] = {
    "FLOAT": np.float32, "HALF": np.float16, "BF16": ml_dtypes.bfloat16, "FP8": ml_dtypes.float8_e4m3fn,
    "INT8": np.int8, "UINT8": np.uint8, "INT32": np.int32, "INT64": np.int64, "BOOL": np.bool_,
}  # fmt: skip
"""NumPy types by the names of TensorRT's data types."""


class EngineRunner:
    """An engine on this machine's GPU, deserialized on entering the context or on the first run.

    Args:
        engine: the serialized engine.
        backend: the backend that built it: tensorrt or tensorrt_rtx.
        profiles: the profiles that it was built with, in order.

    Example:
        >>> with EngineRunner(build.engine, build.backend, profiles) as runner:   # doctest: +SKIP
        ...     outputs = runner.run({"image": images})

    Raises:
        BackendError: there is no GPU, the engine was built for another GPU or version, or memory is insufficient.
    """

    def __init__(self, engine: bytes, backend: str, profiles: Profiles) -> None:
        self._bytes, self._backend, self._profiles = engine, backend, profiles
        self._engine: Any = None
        self._runners: dict[int, Any] = {}

    def __enter__(self) -> EngineRunner:
        if self._engine is None:
            self._open()
        return self

    def _open(self) -> None:
        """Deserialize the engine on this machine's GPU.

        Raises:
            BackendError: there is no GPU, or TensorRT rejects the engine.
        """
        if find_gpu() is None:
            what = "this machine has no GPU to run the engine"
            raise BackendError(what, remedy="run on the machine that the engine is for")
        from polygraphy import config as polygraphy_config

        polygraphy_config.USE_TENSORRT_RTX = self._backend == "tensorrt_rtx"
        from polygraphy.backend.trt import EngineFromBytes, util
        from polygraphy.exception import PolygraphyException
        from polygraphy.logger import G_LOGGER

        G_LOGGER.module_severity = G_LOGGER.CRITICAL
        load_plugins(importlib.import_module(self._backend), util.get_trt_logger())
        try:
            self._engine = EngineFromBytes(self._bytes)()
        except (PolygraphyException, RuntimeError) as error:
            raise BackendError(
                f"the engine cannot be opened: {on_one_line(str(error), 300)}",
                remedy="build it again on this machine: engines belong to one GPU and one version of TensorRT",
            ) from error

    def run(self, feeds: Mapping[str, Array], profile: str | None = None) -> dict[str, Array]:
        """The outputs for one batch of inputs.

        Inputs are cast to the types of the engine's inputs: the recipe may have changed them, and 8.6 uses int32 for
        ONNX's int64.

        Args:
            feeds: one array per input of the engine; further arrays are ignored.
            profile: the profile to run in; None for the tightest that fits the shapes.

        Raises:
            BackendError: no profile (or not the named one) fits the inputs' shapes, an input is missing, its values do
                not fit the engine's type, or TensorRT failed.
        """
        from polygraphy.common import FormattedArray
        from polygraphy.exception import PolygraphyException

        if self._engine is None:
            self._open()
        runner = self._runner(feeds, profile)
        types = self._types(inputs=True)
        cast = {name: _cast(name, feeds, kind, types) for name, kind in types.items()}
        # numpy has no bfloat16, and Polygraphy does not support ml_dtypes: such tensors are passed as bytes with a
        # shape.
        feed = {
            name: values if name not in self._beyond_numpy(types)
            else FormattedArray(np.atleast_1d(values).view(np.uint8).reshape(-1), shape=values.shape)
            for name, values in cast.items()
        }  # fmt: skip
        made = self._types(inputs=False)
        raw = bool(self._beyond_numpy(made))
        try:
            if raw or self._beyond_numpy(types):
                outputs = runner.infer(feed_dict=feed, check_inputs=False, return_raw_buffers=raw)
            else:
                outputs = runner.infer(feed_dict=feed)
        except (PolygraphyException, RuntimeError) as error:
            raise BackendError(
                f"the engine failed: {on_one_line(str(error), 300)}", remedy="check the inputs' types and shapes"
            ) from error
        if raw:
            return {
                name: np.array(one.array, copy=True).view(made[name]).reshape(tuple(one.shape))
                for name, one in outputs.items()
            }
        # Polygraphy returns its own buffers, and overwrites them with the next batch.
        return {name: np.array(values, copy=True) for name, values in outputs.items()}

    def _types(self, inputs: bool) -> dict[str, np.dtype[Any]]:
        """The types of the engine's inputs or outputs, by name.

        Raises:
            BackendError: a tensor's type is smaller than a byte.
        """
        found = {}
        for position in range(self._engine.num_io_tensors):
            name = self._engine.get_tensor_name(position)
            if (self._engine.get_tensor_mode(name).name == "INPUT") is not inputs:
                continue
            kind = self._engine.get_tensor_dtype(name).name
            if kind not in TYPES:
                raise BackendError(
                    f"'{name}' has the type {kind}, which arrays on the host cannot have",
                    remedy="give the model inputs and outputs of another type",
                )
            found[name] = np.dtype(TYPES[kind])
        return found

    @staticmethod
    def _beyond_numpy(types: Mapping[str, np.dtype[Any]]) -> list[str]:
        return [name for name, kind in types.items() if kind.kind == "V"]

    def _runner(self, feeds: Mapping[str, Array], profile: str | None) -> Any:
        """The execution context for feeds of these shapes, created once per profile.

        Raises:
            BackendError: no profile fits the shapes, or the context cannot be created.
        """
        from polygraphy.backend.trt import TrtRunner
        from polygraphy.exception import PolygraphyException

        shapes = {name: values.shape for name, values in feeds.items()}
        fitting = [one.name for one in self._profiles.fits(shapes) if profile is None or one.name == profile]
        if len(self._profiles) and not fitting:
            holder = "no profile holds" if profile is None else f"profile '{profile}' does not hold"
            raise BackendError(
                f"{holder} inputs of shapes { {name: list(shape) for name, shape in shapes.items()} }",
                remedy="use shapes within a profile, or add one to the recipe",
            )
        index = self._profiles.names.index(fitting[0]) if fitting else 0
        if index not in self._runners:
            runner = TrtRunner(self._engine, optimization_profile=index)
            try:
                runner.activate()
            except (PolygraphyException, RuntimeError) as error:
                raise BackendError(
                    f"TensorRT could not make an execution context: {on_one_line(str(error), 300)}",
                    where=f"profile '{fitting[0]}'" if fitting else "",
                    remedy="the GPU may be short of memory: close other programs or use smaller profile maxima",
                ) from error
            self._runners[index] = runner
        return self._runners[index]

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Free the GPU memory."""
        for runner in self._runners.values():
            runner.deactivate()
        self._runners.clear()
        self._engine = None


def _cast(name: str, feeds: Mapping[str, Array], kind: np.dtype[Any], known: Iterable[str]) -> Array:
    """One input in the engine's type, contiguous.

    Raises:
        BackendError: the input is missing, or an integer does not fit the type.
    """
    if name not in feeds:
        what, remedy = no_value(name, known, feeds)
        raise BackendError(f"the engine: {what}", remedy=remedy)
    values = np.ascontiguousarray(feeds[name]).reshape(feeds[name].shape)
    if values.dtype == kind:
        return values
    if values.dtype.kind in "iu" and kind.kind in "iu" and values.size:
        limits = np.iinfo(kind)
        if int(values.min()) < limits.min or int(values.max()) > limits.max:
            raise BackendError(
                f"input '{name}' holds {int(values.max())}, and the engine takes {kind}",
                remedy="use samples whose values fit that type",
            )
    return values.astype(kind)
