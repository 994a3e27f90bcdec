"""Backends, which build engines: TensorRT, TensorRT-RTX, or none.

``backend`` defines their interface and the settings of an engine; ``choose`` selects one. A build uses the
sub-packages: ``lowering`` prepares the graph, ``processes`` starts a child process that runs one of ``jobs``,
``building`` configures TensorRT, ``execution`` measures the engine, ``attribution`` finds what every node runs in.
"""
