"""Jobs of the child process that tests write themselves, and a parent that may be killed while its child sleeps."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from toolkit.backends.processes import children


def stand_in(folder: Path, monkeypatch: pytest.MonkeyPatch, head: str = "", **bodies: str) -> None:
    """Make functions of the given bodies jobs of a worker, in a module ``stand_in`` that spares may load."""
    text = "import os, pathlib, signal, sys, time\n" + textwrap.dedent(head)
    for name, body in bodies.items():
        text += f"def run_{name}(request, talk):\n" + textwrap.indent(textwrap.dedent(body), "    ")
    (folder / "stand_in.py").write_text(text)
    monkeypatch.syspath_prepend(str(folder))
    named = "".join(f" w.JOBS['{name}'] = 'stand_in:run_{name}';" for name in bodies)
    boot = children._BOOT.replace("import main;", f"import main; import toolkit.backends.jobs.worker as w;{named}")
    monkeypatch.setattr(children, "_BOOT", boot)


def parent_of_sleeper(folder: Path) -> tuple[subprocess.Popen[bytes], int]:
    """A process whose job sleeps for an hour if it is left alone, and the number of the job's own process."""
    note = folder / "pid"
    (folder / "sleeper.py").write_text(
        "import os, time\ndef run(request, talk):\n"
        f"    open({str(note)!r}, 'w').write(str(os.getpid()))\n    time.sleep(3600)\n"
    )
    script = (
        f"import sys; sys.path.insert(0, {str(folder)!r})\n"
        "from toolkit.backends.processes import children, process\n"
        "children._BOOT = children._BOOT.replace('import main;',"
        " \"import main; import toolkit.backends.jobs.worker as w; w.JOBS['s'] = 'sleeper:run';\")\n"
        "process.run_job('s', {})\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", script])
    while parent.poll() is None and not (note.exists() and note.read_text()):
        time.sleep(0.02)
    return parent, int(note.read_text())
