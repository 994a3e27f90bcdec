"""The engine without pairs, begun before anything is calibrated: it needs no ranges, and may become the run's own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import TYPE_CHECKING

from toolkit.base.errors import QtoolError
from toolkit.contract.context import Context
from toolkit.contract.findings import Code
from toolkit.graph.model import Model

if TYPE_CHECKING:
    from toolkit.search.quantizer.quantizer import Quantizer


@contextmanager
def prebuild_float(quantizer: Quantizer, model: Model, context: Context) -> Iterator[None]:
    """In the block the engine of the model without pairs is built alongside all else, where engines are measured.

    Args:
        quantizer: decides where pairs would go.
        model: the float graph; not changed.
        context: its bench is where engines are built.
    """
    bench = context.bench
    if bench is None or context.dry_run or bench.cannot_measure():
        yield
        return
    with ExitStack() as begun:
        # whatever needs the engine will report why it cannot be lowered or built
        with suppress(QtoolError):
            trial, apart = model.copy(), context.fork()
            layers = quantizer.prepare(trial, apart).layers
            plain = quantizer.candidate(trial, apart)(dict.fromkeys(layers, Code.TRIAL()))
            begun.enter_context(bench.prebuild_float(*plain))
        yield
