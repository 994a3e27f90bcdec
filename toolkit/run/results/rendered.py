"""A result in two forms, for machines and for people."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass
class Rendered:
    """Contents of a file, or differences between files; ``warnings`` are shown first."""

    content: Any
    text: str
    warnings: list[str] = field(default_factory=list)
