"""Messages on opening opaque blocks."""

from __future__ import annotations

from toolkit.base.text import count
from toolkit.contract.findings import Code
from toolkit.report.findings.table import Table
from toolkit.report.findings.words import joined, quoted


def _are(tensors: tuple[str, ...]) -> str:
    return f"{count(len(tensors), 'opened tensor')} {'is' if len(tensors) == 1 else 'are'}"


def _ran(samples: int, runs: int, verdicts: tuple[str, ...], counts: tuple[int, ...], large: int, misfits: int) -> str:
    told = joined(f"{number} {verdict}" for verdict, number in zip(verdicts, counts))
    text = (
        f"The opened engine ran {count(samples, 'sample')} in {count(runs, 'run')}; by their values "
        f"{count(sum(counts), 'tensor')} are computed: {told}"
    )
    if large:
        text += f"; {count(large, 'more run')} left out, whose tensors are too large"
    if misfits:
        text += f"; {count(misfits, 'more sample')} left out, which fit no shape of their profile"
    return f"{text}."


OPENING: Table = {
    Code.NOTHING_OPAQUE: "There is nothing to open: no node is inside an opaque block.",
    Code.NOTHING_BUILT: "There is nothing to open: no engine was built.",
    Code.NOTHING_TO_CUT: lambda nodes: (
        f"{count(nodes, 'opaque node')} cannot be opened: none has a float tensor to cut at."
    ),
    Code.OPENING_FAILED: lambda tensors, error: f"Opening the blocks at {count(tensors, 'tensor')} failed: {error}",
    Code.OPENED_AT: lambda nodes, tensors, shown: (
        f"{count(nodes, 'opaque node')} opened at {count(tensors, 'tensor')}: the opened engine shows the precision of "
        f"{shown}."
    ),
    Code.OPENED_LEFT_OUT: lambda nodes, most: (
        f"{count(len(nodes), 'opaque node')} not opened, since at most {most} tensors are marked: {quoted(nodes)}."
    ),
    Code.TENSORS_NOT_FOUND: lambda tensors: (
        f"{count(len(tensors), 'tensor')} to open {'is' if len(tensors) == 1 else 'are'} not in the network: "
        f"{quoted(tensors)}."
    ),
    Code.OPENED_NOT_RUN: "The values of the opened tensors are unknown: {why}.",
    Code.OPENED_RUN_FAILED: "The values of the opened tensors are unknown, since the opened engine failed: {error}",
    Code.OPENED_RAN: _ran,
    Code.OPENED_NONE_COMPARABLE: lambda tensors, there: (
        f"None of the {count(tensors, 'opened tensor')} can be compared: the engine returns {there} of them."
    ),
    Code.OPENED_NOT_COMPARED: lambda tensors: (
        f"{_are(tensors)} not compared, since the engine does not return them, the model before "
        f"lowering lacks them, or they are too large: {quoted(tensors)}."
    ),
    Code.OPENED_WITHOUT_ERROR: lambda tensors: (
        f"{count(len(tensors), 'opened tensor')} have no error of their own, since the float model has no tensor of "
        f"that name: {quoted(tensors)}."
    ),
}
