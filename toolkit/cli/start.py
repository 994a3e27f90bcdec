"""The entry point of the qtool command: Ctrl-C while the command line's modules are imported ends it like any other."""

from __future__ import annotations

import sys

_STOPPED = 130
"""The exit status of ``StoppedError``, which may not be imported yet."""


def main() -> None:
    """Import and run the command, and exit with its status; the status is 130 if it is stopped before it begins."""
    try:
        from toolkit.cli.main import main as run

        run()
    except KeyboardInterrupt:
        sys.stderr.write("qtool: stopped\n")
        sys.exit(_STOPPED)
