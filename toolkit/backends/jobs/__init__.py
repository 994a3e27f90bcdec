"""Jobs that run inside a child process: one per module, each a function of a JSON request that returns JSON.

``worker`` is the main function of the process and has the table of jobs. A job reports to its parent only through
``Channel``.
"""
