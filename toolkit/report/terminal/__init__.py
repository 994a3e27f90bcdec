"""The report in the terminal, with Rich: the verdict first, then the engine, layers and measurements."""
