"""Messages of commands other than `qtool run`, advice on what to try next, and the explanation of a node."""
