"""Messages on the choice of the backend and on the GPUs it builds for."""

from __future__ import annotations

from toolkit.backends.codes import EngineCode
from toolkit.base.text import count
from toolkit.report.findings.table import Table
from toolkit.report.findings.words import joined


def _refused(refused: tuple[str, ...], link: str) -> str:
    return f"{link}{joined(refused)}" if refused else ""


def _unsupported(capability: str, gpu: str, gpu_capability: str) -> str:
    return (
        f"TensorRT-RTX builds no engines for this machine's {gpu} ({gpu_capability}); {capability} (Ada) is the "
        "default, and the engine will not run here"
    )


BACKENDS: Table = {
    EngineCode.BACKEND_REQUESTED: "requested",
    EngineCode.NO_BACKEND_REQUESTED: "requested: the run stops at the ONNX model",
    EngineCode.BACKEND_CHOSEN: lambda gpu, refused: (
        "chosen automatically" + (f" for the {gpu}" if gpu else "") + _refused(refused, ", since ")
    ),
    EngineCode.BACKEND_REFUSES_MODEL: lambda backend, why, taken, remedy="": (
        f"'auto' falls back to {taken}, since {backend} cannot build the model: {why}"
    ),
    EngineCode.NO_BACKEND_USABLE: lambda refused: "nothing can build an engine here" + _refused(refused, ": "),
    EngineCode.CAPABILITY_REQUESTED: "requested in the recipe",
    EngineCode.CAPABILITY_COMPATIBLE: "hardware_compatible: every GPU from Ampere on",
    EngineCode.CAPABILITY_OF_GPU: "this machine's {gpu}",
    EngineCode.CAPABILITY_DEFAULT: "there is no GPU here, and none is requested: {capability} (Ada) is the default",
    EngineCode.CAPABILITY_UNSUPPORTED: _unsupported,
    EngineCode.TYPE_STATED: "the model states {precision} for it, which is kept where no pass requests another type",
    EngineCode.LOOP_CONDITIONS: lambda loops: (
        f"A condition that is true added to {count(loops, 'Loop')} that left it out."
    ),
    EngineCode.SIZES_OF_ALL_AXES: lambda resizes: (
        f"Sizes or scales of all axes given to {count(resizes, 'Resize')} of dynamic shape, as TensorRT's parser needs "
        "them."
    ),
    EngineCode.PARSER_LACKS_TYPE: "TensorRT's parser does not support {op} in {precision}",
    EngineCode.BUILDER_LACKS_TYPE: "this release of the backend fails to build {op} in {precision}",
    EngineCode.TYPE_NOT_ON_GPU: lambda precision, capabilities, since: (
        f"A GPU of compute capability {joined(capabilities)} does not compute in {precision.upper()}, which "
        f"requires {since}: TensorRT refuses the engine or uses another type."
    ),
}
