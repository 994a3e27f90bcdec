"""How samples were used: how many count for each profile, and how many were changed or left out."""

from __future__ import annotations

from dataclasses import dataclass, field

from toolkit.contract.findings import Code, Finding


@dataclass
class Counts:
    """How the samples of a source were used.

    Attributes:
        samples: how many are used.
        per_profile: how many of these count for each profile.
        skipped: how many fit no profile and were left out.
        padded: how many were padded with zeros to fit a profile.
        cropped: how many were cropped to fit a profile.
        cut: rows that were left over because they do not fill a batch of the model's fixed size.
    """

    samples: int = 0
    per_profile: dict[str, int] = field(default_factory=dict)
    skipped: int = 0
    padded: int = 0
    cropped: int = 0
    cut: int = 0

    def changed(self, name: str) -> list[Finding]:
        """A finding for each kind of change that samples underwent; ``name`` is what messages call the samples."""
        found = []
        if self.skipped:
            found.append(Code.SKIPPED(samples=self.skipped, data=name))
        if self.padded:
            found.append(Code.PADDED(samples=self.padded, data=name))
        if self.cropped:
            found.append(Code.CROPPED(samples=self.cropped, data=name))
        if self.cut:
            found.append(Code.CUT(rows=self.cut, data=name))
        return found
