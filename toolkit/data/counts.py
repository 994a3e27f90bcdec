"""What became of samples: how many count for each profile, and how many were changed or left out."""

from __future__ import annotations

from dataclasses import dataclass, field

from toolkit.contract.findings import Code, Finding


@dataclass
class Counts:
    """What became of the samples.

    Attributes:
        samples: how many are used.
        per_profile: how many of them count for each profile.
        skipped: how many fit no profile and were left out.
        padded: how many were filled up with zeros to fit a profile.
        cropped: how many lost values to fit a profile.
        cut: rows that were left over, since they do not fill a batch of a fixed size.
    """

    samples: int = 0
    per_profile: dict[str, int] = field(default_factory=dict)
    skipped: int = 0
    padded: int = 0
    cropped: int = 0
    cut: int = 0

    def changed(self, name: str) -> list[Finding]:
        """A finding for each way in which samples were changed or left out; ``name`` is what they are called."""
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
