"""The settings of a search over the layers of a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True)
class SearchSettings:
    """The settings of a search.

    Attributes:
        limits: the search's own ``OWN_LIMITS``; None for those that the recipe's budget sets.
        margin: safety margin for other samples: dB of SQNR, standard errors of shares and of a metric's drop.
        max_ms: largest predicted latency in milliseconds.
        keep: precision of the layers kept float; the context's ``rest`` if None.
        prefer: what is optimized: the quantized share (``int8``) or the latency (``time``); ``auto`` is ``time`` if
            latencies are measured.
        times: reports of earlier runs, whose measured layer times replace predictions.
        measure: build engines for layer times if time is optimized or limited.
        insist: whether ``measure`` was set explicitly: the journal then says why nothing is measured.
        gpu: the GPU that times are predicted for; if empty, the local one, else an A10.
        data: the samples to decide on.
        samples: the largest number of samples to decide on.
        batch: samples to run at once.
        evaluations: the largest number of plans to evaluate.
        inferences: what the search may cost, in float inferences of the samples; see ``Spending.of_search``.
        minutes: how long the search may take; no limit if None.
        memory: limit for cached states and the weights of sessions, for example ``2GB``.
        try_ranges: try the ranges of other calibration methods before a layer is kept float.
        threads: how many batches are computed at once.
        helpers: the helper passes that are tried before the search.
        int8_only: whether ``prefer = "auto"`` must mean ``int8``, since a search for a second type follows.
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
