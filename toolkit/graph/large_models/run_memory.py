"""Memory for runs of onnxruntime's sessions: one pool per process, which sessions use in turn."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from typing import Any

from onnx import TensorProto, helper

USE_POOL = "session.use_env_allocators", "1"
"""The option for a session that allocates from the pool."""
_SHRINK = "memory.enable_memory_arena_shrinkage", "cpu:0"
_DOUBLING = 0
"""Each block is at least as large as the one before. Blocks of exactly the requested size would accumulate if sizes
rise,
since no block fits the next tensor: for inputs growing to 32 MB they added up to 1,071 MB with onnxruntime 1.32."""


class RunPool:
    """Memory blocks that the process keeps between runs, for any session to reuse.

    With separate arenas every session would keep the memory of its largest run. Without arenas onnxruntime requests
    every large tensor from the system, which clears its pages: on EfficientNet-Lite with all Q/DQ pairs this took 52 ms
    of processor time per sample, compared with 29 ms with a pool.
    """

    def __init__(self) -> None:
        self._lock, self._open = threading.Lock(), False

    def use(self, options: Any) -> None:
        """Make a session with these options allocate from the pool."""
        import onnxruntime as ort

        with self._lock:
            if not self._open:
                self._open = True
                # other code in this process may have registered an allocator, which serves as well
                with suppress(RuntimeError):
                    ort.create_and_register_allocator(
                        ort.OrtMemoryInfo("Cpu", ort.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, ort.OrtMemType.DEFAULT),
                        ort.OrtArenaCfg({"arena_extend_strategy": _DOUBLING}),
                    )
        options.add_session_config_entry(*USE_POOL)

    def shrink(self) -> None:
        """Free unused blocks."""
        if self._open:
            import onnxruntime as ort

            options = ort.RunOptions()
            options.add_run_config_entry(*_SHRINK)
            _nothing().run(None, {}, options)

    @contextmanager
    def freed_after(self) -> Iterator[None]:
        """Free unused blocks after the block, or after a function decorated with this, also if it fails."""
        try:
            yield
        finally:
            self.shrink()


run_pool = RunPool()
"""The pool of this process."""


@cache
def _nothing() -> Any:
    """A trivial session that uses the pool, since only a run can shrink it."""
    import onnxruntime as ort

    one = helper.make_tensor("value", TensorProto.FLOAT, [1], [0.0])
    node = helper.make_node("Constant", [], ["out"], value=one)
    graph = helper.make_graph([node], "nothing", [], [helper.make_tensor_value_info("out", TensorProto.FLOAT, [1])])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.add_session_config_entry(*USE_POOL)
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
