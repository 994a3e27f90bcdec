"""What is done with a built engine on this machine's GPU: open it, run it, measure it, ask its inspector.

The modules load TensorRT only when called, mostly inside a child process. A latency is the median over replays of a
CUDA graph, in milliseconds.
"""
