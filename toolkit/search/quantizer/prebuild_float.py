"""Build the engine without pairs while calibration runs: it needs no ranges, and may become the run's own engine."""

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
    """In the block the engine of the model without pairs is built in the background, if engines are measured.

    Args:
        quantizer: decides where pairs would go.
        model: the float graph; it is not changed.
        context: its bench builds engines.
    """
    bench = context.bench
    if bench is None or context.dry_run or bench.cannot_measure():
        yield
        return
    with ExitStack() as begun:
        # if the engine cannot be lowered or built, the code that needs it reports why
        with suppress(QtoolError):
            trial, apart = model.copy(), context.fork()
            layers = quantizer.prepare(trial, apart).layers
            plain = quantizer.candidate(trial, apart)(dict.fromkeys(layers, Code.TRIAL()))
            begun.enter_context(bench.prebuild_float(*plain))
        yield
