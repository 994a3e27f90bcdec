"""Child processes from the parent's side: starting them, waiting for results, and explaining crashes.

``process.run_job`` runs a job by name in its own child process and returns the result. ``children`` keeps spare
children that have already loaded TensorRT, and stops all others while an engine is measured.
"""
