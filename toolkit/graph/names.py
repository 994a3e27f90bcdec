"""Names for what is added to a graph: free ones only."""

from __future__ import annotations


class Names(set[str]):
    """The names that are taken."""

    def take(self, base: str) -> str:
        """``base``, or ``base_2`` and so on where that is taken; it is taken from now on."""
        name, count = base, 1
        while name in self:
            count += 1
            name = f"{base}_{count}"
        self.add(name)
        return name
