"""The kernels that an engine runs, with their times: also those of what TensorRT shows as one layer, as a transformer.

On the GPU host, for an engine with one profile of one shape; needs CUPTI, which comes with CUDA and with PyTorch:
python3.10 -m tests.benchmarks.kernels ENGINE OUT.json
The kernels come in the order in which they run; a row has the mean microseconds and the name.
"""

from __future__ import annotations

import ctypes
import json
import statistics
import sys
from pathlib import Path
from typing import Any

from toolkit.backends.execution.inspection import context_at
from toolkit.backends.execution.measure import run_once

RUNS, _WARM_UP = 20, 10
_CONCURRENT_KERNEL = 10
"""CUPTI_ACTIVITY_KIND_CONCURRENT_KERNEL."""
_START, _END, _NAME = 16, 24, 104
"""Where CUpti_ActivityKernel has these fields, in all versions from 3 to 13 (cupti_activity.h)."""
_BUFFER = 8 << 20
_Request = ctypes.CFUNCTYPE(
    None, ctypes.POINTER(ctypes.c_void_p), ctypes.POINTER(ctypes.c_size_t), ctypes.POINTER(ctypes.c_size_t)
)
_Complete = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_uint32, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t)


def cupti() -> ctypes.CDLL:
    """The library, wherever CUDA or PyTorch have put it.

    Raises:
        OSError: it is not here.
    """
    for root in ("/usr/local", "/opt", "/usr/lib"):
        for file in sorted(Path(root).rglob("libcupti.so.1*")):
            return ctypes.CDLL(str(file))
    raise OSError("libcupti.so is not here")


class Recorder:
    """Records kernels: (start, end) in nanoseconds and the name, in the order in which they ran."""

    def __init__(self) -> None:
        self.library = cupti()
        self.found: list[tuple[int, int, str]] = []
        self._held: dict[int, Any] = {}
        # both must live as long as the library may call them
        self._calls = _Request(self._request), _Complete(self._complete)
        self._check(self.library.cuptiActivityRegisterCallbacks(*self._calls))

    def __enter__(self) -> Recorder:
        self._check(self.library.cuptiActivityEnable(_CONCURRENT_KERNEL))
        return self

    def __exit__(self, *error: object) -> None:
        self._check(self.library.cuptiActivityFlushAll(1))
        self._check(self.library.cuptiActivityDisable(_CONCURRENT_KERNEL))
        self.found.sort()

    def _check(self, status: int) -> None:
        if status:
            raise OSError(f"CUPTI answers {status}")

    def _request(self, buffer: Any, size: Any, most: Any) -> None:
        made = ctypes.create_string_buffer(_BUFFER + 8)
        address = (ctypes.addressof(made) + 7) & ~7
        self._held[address] = made
        buffer[0], size[0], most[0] = address, _BUFFER, 0

    def _complete(self, context: Any, stream: int, buffer: int, size: int, valid: int) -> None:
        record = ctypes.c_void_p()
        while not self.library.cuptiActivityGetNextRecord(
            ctypes.c_void_p(buffer), ctypes.c_size_t(valid), ctypes.byref(record)
        ):
            at = record.value or 0
            if ctypes.c_uint32.from_address(at).value == _CONCURRENT_KERNEL:
                start, end, name = (ctypes.c_uint64.from_address(at + offset).value for offset in (_START, _END, _NAME))
                self.found.append((start, end, ctypes.string_at(name).decode() if name else ""))
        self._held.pop(buffer, None)


def kernels_of(file: Path) -> list[tuple[float, str]]:
    """Mean microseconds and name of each kernel of one inference."""
    import tensorrt as trt

    recorder = Recorder()
    runtime = trt.Runtime(trt.Logger(trt.Logger.ERROR))
    engine = runtime.deserialize_cuda_engine(file.read_bytes())
    shapes = {}
    for name in map(engine.get_tensor_name, range(engine.num_io_tensors)):
        if engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT:
            fixed = tuple(engine.get_tensor_shape(name))
            shapes[name] = fixed if -1 not in fixed else tuple(engine.get_tensor_profile_shape(name, 0)[1])
    context = context_at(engine, 0, {}, 0)
    for _ in range(_WARM_UP):
        run_once(trt, engine, context, shapes)
    with recorder:
        for _ in range(RUNS):
            run_once(trt, engine, context, shapes)
    count = len(recorder.found) // RUNS
    turns = [recorder.found[i * count : (i + 1) * count] for i in range(RUNS)]
    means = [statistics.fmean(end - start for start, end, _ in same) / 1e3 for same in zip(*turns)]
    return [(round(mean, 2), name) for mean, (_, _, name) in zip(means, turns[0])]


def main() -> None:
    """Write the kernels of an engine."""
    found = kernels_of(Path(sys.argv[1]))
    Path(sys.argv[2]).write_text(json.dumps(found, indent=0))
    print(f"   {len(found)} kernels, {sum(mean for mean, _ in found):.1f} us: {sys.argv[1]}")


if __name__ == "__main__":
    main()
