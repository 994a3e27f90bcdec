"""What a search over the layers of a model is to do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True)
class SearchSettings:
    """What a search is to do.

    Attributes:
        limits: the search's own ``OWN_LIMITS``; None where the recipe's budget counts.
        margin: safety against other samples: dB of SQNR, standard errors of shares and of a metric's drop.
        max_ms: largest predicted latency in milliseconds.
        keep: precision of kept layers; the context's ``rest`` where None.
        prefer: what makes a plan good: much quantized (``int8``), or a short time; ``auto``: time where it is measured.
        times: reports of earlier runs, whose measured layer times replace predictions.
        measure: build engines for layer times where they decide or limit.
        insist: whether ``measure`` was asked for: the journal then says why nothing is measured.
        gpu: the GPU that times are predicted for; the one here, else an A10, where it is empty.
        data: the samples to decide on.
        samples: decide on at most this many.
        batch: samples to run at once.
        evaluations: plans to evaluate at most.
        inferences: what the search may cost, in float inferences of the samples; see ``Spending.of_search``.
        minutes: how long it may take; no limit where None.
        memory: for what is kept of states and for the weights of sessions, such as ``2GB``.
        try_ranges: try the ranges of other calibration methods before giving a layer up.
        threads: batches computed at once.
        helpers: the helper passes that are tried before it.
        int8_only: whether ``prefer = "auto"`` may not mean time, since a second type follows.
    """

    limits: Mapping[str, float | None] = field(default_factory=dict)
    margin: float = 1.0
    max_ms: float | None = None
    keep: str | None = None
    prefer: Literal["auto", "int8", "time"] = "auto"
    times: Sequence[str] = ()
    measure: bool = True
    insist: bool = False
    gpu: str = ""
    data: Literal["calibration", "evaluation"] = "calibration"
    samples: int | None = 256
    batch: int = 32
    evaluations: int | None = None
    inferences: float | None = None
    minutes: float | None = None
    memory: str = "1GB"
    try_ranges: bool = True
    threads: int | None = None
    helpers: Sequence[str] = ()
    int8_only: bool = False
