"""The step "latencies": the quantized engine and the unquantized ones measured in turn.

Each engine is measured, layer by layer, when it is built. Between these measurements are minutes in which the GPU's
clocks change, so latencies to be compared are measured once more, alternating between all engines.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import Field

from toolkit.base.errors import BackendError
from toolkit.base.versions import code_fingerprint, versions
from toolkit.run.inputs.inputs import Inputs
from toolkit.run.keys.keys import gpu_here
from toolkit.run.keys.step import Record, Step
from toolkit.run.steps.compare import CompareRecord
from toolkit.run.steps.engine import EngineRecord

OURS = "ours"
"""The name of the quantized engine in these measurements."""


class LatenciesRecord(Record):
    """Latencies measured in turn.

    Attributes:
        turns: by profile and engine, the median of each round in milliseconds.
        lacks: why nothing was measured, by profile.
    """

    turns: dict[str, dict[str, list[float]]] = Field(default_factory=dict)
    lacks: dict[str, str] = Field(default_factory=dict)


class LatenciesStep(Step[LatenciesRecord]):
    """Measures all engines in turn."""

    name = "latencies"
    kind = LatenciesRecord

    def __init__(self, inputs: Inputs, engine: EngineRecord, compare: CompareRecord) -> None:
        super().__init__(inputs)
        self.engine, self.compare = engine, compare

    def key(self) -> Mapping[str, Any]:
        """All engines, the profiles and the GPU."""
        return {
            "compare": self.compare.content(),
            **self.engine.engine_key(),
            **self.compare.engines_key(),
            "profiles": repr(self.job.profiles),
            "gpu": gpu_here(),
            "versions": versions(),
            "code": code_fingerprint(),
        }

    def run(self) -> LatenciesRecord:
        """Measure the engines, provided that all of them exist."""
        from toolkit.backends.choose import choose

        engines = {OURS: self.engine.engine_file}
        engines |= {name: self.compare.engine_file(name) for name in self.compare.engines}
        files = {name: file for name, file in engines.items() if file is not None}
        if len(files) < len(engines):
            return LatenciesRecord()
        try:
            found = choose(self.job.backend)[0].in_turn(files, self.job.profiles, self.job.progress)
            return LatenciesRecord(**vars(found))
        except BackendError as error:
            # the measurements made right after each build remain
            return LatenciesRecord(lacks=dict.fromkeys(self.job.profiles.names or ["default"], str(error)))
