"""Standard input, output and error of a process that was started with these closed."""

from __future__ import annotations

import os
import sys

_STREAMS = ("stdin", "stdout", "stderr")


def open_closed_streams() -> None:
    """Replace closed standard streams, as left by ``>&-``, with the null device.

    Python sets such a stream to None, and the next file that is opened would get its descriptor: a library's output
    would then be written into that file.
    """
    closed = [(number, name) for number, name in enumerate(_STREAMS) if getattr(sys, name) is None]
    for number, _ in closed:
        try:
            os.fstat(number)
        except OSError:
            _take(number)
    for number, name in closed:
        setattr(sys, name, open(os.devnull, "w" if number else "r", encoding="utf-8"))  # noqa: SIM115


def _take(number: int) -> None:
    descriptor = os.open(os.devnull, os.O_RDWR)
    if descriptor != number:
        os.dup2(descriptor, number)
        os.close(descriptor)
    os.set_inheritable(number, True)
