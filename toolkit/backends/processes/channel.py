"""Messages from a child process to its parent."""

from __future__ import annotations

import json
import threading
from typing import Any, TextIO


class Channel:
    """Sends events from the child process to its parent, as one JSON object per line."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._lock = threading.Lock()

    def say(self, event: dict[str, Any]) -> None:
        """Send one event."""
        with self._lock:
            self._stream.write(json.dumps(event) + "\n")
            self._stream.flush()

    def log(self, message: str) -> None:
        """Send a log message."""
        self.say({"log": message})

    def progress(self, what: str, done: int, total: int) -> None:
        """Send the progress of the job."""
        self.say({"progress": [what, done, total]})
