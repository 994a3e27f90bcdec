"""What builds engines: TensorRT, TensorRT-RTX or nothing.

``backend`` says what each offers and the settings of an engine; ``choose`` picks one. A build goes through the
sub-packages: ``lowering`` makes the graph, ``processes`` starts a child in which one of ``jobs`` runs, ``building``
configures TensorRT, ``execution`` measures the engine, ``attribution`` tells what every node runs in.
"""
