"""The entry point of the qtool command: a signal ends it while the command line's modules are imported, too."""

from __future__ import annotations

import signal
import sys

_STOPPED = 130
"""The exit status of ``StoppedError``, which may not be imported yet."""


def main() -> None:
    """Import and run the command, and exit with its status; the status is 130 if it is stopped before it begins.

    With --json the error is printed as JSON, as if the command had begun, so that a script can always read the output.
    """
    try:
        if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
            signal.signal(signal.SIGTERM, signal.default_int_handler)
        from toolkit.cli.main import main as run

        run()
    except KeyboardInterrupt:
        if "--json" in sys.argv[1:]:
            from json import dumps

            said = {"kind": "StoppedError", "what": "stopped", "where": "", "remedy": ""}
            sys.stdout.write(dumps({"error": said, "exit_status": _STOPPED}, indent=1) + "\n")
        sys.stderr.write("qtool: stopped\n")
        sys.exit(_STOPPED)
