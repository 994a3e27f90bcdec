"""How a child process speaks to its parent."""

from __future__ import annotations

import json
import threading
from typing import Any, TextIO


class Channel:
    """The child's way to speak to its parent: one JSON object a line."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._lock = threading.Lock()

    def say(self, event: dict[str, Any]) -> None:
        """Send one event."""
        with self._lock:
            self._stream.write(json.dumps(event) + "\n")
            self._stream.flush()

    def log(self, message: str) -> None:
        """Pass on a message."""
        self.say({"log": message})

    def progress(self, what: str, done: int, total: int) -> None:
        """Say how far the job is."""
        self.say({"progress": [what, done, total]})
