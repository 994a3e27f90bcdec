"""Child processes from the parent's side: starting them, waiting for a result, and explaining their death.

``process.run_job`` runs a job by name in a child of its own and returns its result. ``children`` keeps spares that have
loaded TensorRT already, and has all others stand still while an engine is measured.
"""
