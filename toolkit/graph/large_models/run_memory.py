"""Memory that the runs of onnxruntime's sessions take: one pool of the process, for sessions that are run by turns."""

from __future__ import annotations

import threading
from contextlib import suppress
from functools import cache
from typing import Any

from onnx import TensorProto, helper

USE_POOL = "session.use_env_allocators", "1"
"""The option for a session that takes its memory from the pool."""
_SHRINK = "memory.enable_memory_arena_shrinkage", "cpu:0"
_DOUBLING = 0
"""Each block is at least as large as the one before: blocks of what is asked for add up where sizes rise, since none
holds the next tensor. Of inputs that grew to 32 MB 1,071 MB stayed so, with onnxruntime 1.32."""


class RunPool:
    """Blocks of memory that stay with the process between runs, for any session to use next.

    With an arena of its own, every session would keep as much as its largest run took. Without arenas, onnxruntime
    requests every large tensor from the system, which clears its pages: on EfficientNet-Lite with all pairs, that took
    52 ms of processor time per sample, and 29 ms with a pool.
    """

    def __init__(self) -> None:
        self._lock, self._open = threading.Lock(), False

    def use(self, options: Any) -> None:
        """Let a session of these options take its memory from the pool."""
        import onnxruntime as ort

        with self._lock:
            if not self._open:
                self._open = True
                # other code in this process that runs onnxruntime may have made one, which is as good
                with suppress(RuntimeError):
                    ort.create_and_register_allocator(
                        ort.OrtMemoryInfo("Cpu", ort.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, ort.OrtMemType.DEFAULT),
                        ort.OrtArenaCfg({"arena_extend_strategy": _DOUBLING}),
                    )
        options.add_session_config_entry(*USE_POOL)

    def shrink(self) -> None:
        """Free the blocks that nothing lies in."""
        if self._open:
            import onnxruntime as ort

            options = ort.RunOptions()
            options.add_run_config_entry(*_SHRINK)
            _nothing().run(None, {}, options)


run_pool = RunPool()
"""The process's own."""


@cache
def _nothing() -> Any:
    """A session of the pool that computes next to nothing: only a run can shrink it."""
    import onnxruntime as ort

    one = helper.make_tensor("value", TensorProto.FLOAT, [1], [0.0])
    node = helper.make_node("Constant", [], ["out"], value=one)
    graph = helper.make_graph([node], "nothing", [], [helper.make_tensor_value_info("out", TensorProto.FLOAT, [1])])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.add_session_config_entry(*USE_POOL)
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
