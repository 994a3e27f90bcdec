"""Using a built engine on this machine's GPU: opening, running, measuring and inspecting it.

The modules load TensorRT only when called, mostly inside a child process. A latency is the median over replays of a
CUDA graph, in milliseconds.
"""
