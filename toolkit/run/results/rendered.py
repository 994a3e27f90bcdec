"""One thing in two forms: for machines and for people."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass
class Rendered:
    """What is in a file, or how two differ; ``warnings`` come first."""

    content: Any
    text: str
    warnings: list[str] = field(default_factory=list)
