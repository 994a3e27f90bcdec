"""An order of items whose first few represent all of them."""

from __future__ import annotations


def spread(count: int) -> list[int]:
    """The numbers below ``count``, the first few spread evenly over all: van der Corput's sequence to the base 2."""
    bits = max(count - 1, 1).bit_length()
    turned = (int(format(number, f"0{bits}b")[::-1], 2) for number in range(2**bits))
    return [number for number in turned if number < count]
