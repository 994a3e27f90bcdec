"""What runs inside a child process: one job a module, each a function of a JSON request that returns JSON.

``worker`` is the process's main function and has the table of jobs. A job speaks to its parent through ``Talk`` alone.
"""
