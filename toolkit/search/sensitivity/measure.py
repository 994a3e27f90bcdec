"""The effect at the model's output of quantizing each layer alone, and of keeping each layer alone in float."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from toolkit.base.errors import QtoolError
from toolkit.base.files import write_json
from toolkit.base.log import Log
from toolkit.base.places import in_order
from toolkit.base.progress import Progress
from toolkit.base.reading import FileKind, read_json, reading
from toolkit.base.reads import needs_now
from toolkit.contract.findings import Code, Finding
from toolkit.contract.machines import machine_notes
from toolkit.evaluation.comparison.outcome import Outcome
from toolkit.evaluation.numerics.ranks import ranks
from toolkit.search.sensitivity.independent_layers import at_outputs, independent, outputs_reached
from toolkit.search.sensitivity.stale_measurements import stale_measurements
from toolkit.simulation.simulation import Simulation
from toolkit.simulation.state_run import run_each

SCHEMA = "qtool-sensitivity-1"
TRUSTED = 0.9
_KIND = FileKind("it cannot be read as a sensitivity.json", QtoolError, "measure again")
_Key = tuple[str, str]
_FAST_INFERENCES = 6.5
_START_INFERENCES = 5.0
_GROUP_INFERENCES = 0.7
_FAST_BATCHES = 4


@dataclass(frozen=True)
class GroupResult:
    """The measurements of one quantizable layer.

    Attributes:
        name: the name of its node.
        op: its operator.
        alone: the model with only this layer quantized (leave one in).
        without: the model with all layers but this one quantized (leave one out).
        share: its share of the model's arithmetic, 0 to 1; see ``Work``.
    """

    name: str
    op: str
    alone: Outcome | None = None
    without: Outcome | None = None
    share: float = 0.0

    @property
    def output(self) -> str:
        """The output that the layer is judged at: of the outputs that it reaches, the one with most of its noise.

        Empty if the layer was not measured alone: then it is judged at the worst output.
        """
        return self.alone.output if self.alone is not None else ""

    def noise_in(self, outcome: Outcome) -> float:
        """The noise of an outcome at the output that the layer is judged at."""
        return outcome.at(self.output)

    def level_in(self, outcome: Outcome) -> float:
        """The SQNR of an outcome at this output, in dB; infinite if nothing differs."""
        return replace(outcome, noise=self.noise_in(outcome)).sqnr_db

    def harm(self, full: Outcome, of: Callable[[Outcome], float] | None = None) -> float:
        """The layer's noise-to-signal ratio: of the layer alone, or removed by leaving it out, whichever is larger.

        It is measured at the output that the layer is judged at; leaving the layer out removes no noise at outputs that
        it does not reach. ``of`` is another measure of the error, larger for larger errors.

        The layer alone shows harm that another layer hides; leaving it out shows harm that two layers do together.
        """
        of = of if of is not None else self.noise_in
        found = [of(self.alone)] if self.alone is not None else []
        if self.without is not None:
            saved = of(full) - of(self.without)
            # noise that is infinite with and without the layer says nothing about the layer
            found.append(0.0 if math.isnan(saved) else saved)
        return max([0.0, *found])


@dataclass
class Sensitivity:
    """The sensitivity of all layers.

    Attributes:
        method: exact or fast.
        groups: the measurements of each layer, in the graph's order.
        full: the outcome with all layers quantized.
        metric: the metric's name, or None.
        float_metric: the metric of the float model.
        samples: how many samples were run.
        inferences: the cost, in runs of the float model over all samples of the data.
        reliability: fast only: the expected correlation with the exact order, from two halves of the samples, 0 to 1.
        fingerprint: identifies everything that the numbers depend on.
        notes: findings for the user.
        outdated: whether a later measurement to replace this one has begun and not finished.
        quantized_share: the share of the arithmetic that is quantized with all layers, 0 to 1.
        share_of: whether shares are of multiply-accumulates (``macs``) or of computing nodes (``nodes``).
    """

    method: str
    groups: list[GroupResult]
    full: Outcome
    metric: str | None = None
    float_metric: float | None = None
    samples: int = 0
    inferences: float = 0.0
    reliability: float | None = None
    fingerprint: str = ""
    notes: list[Finding] = field(default_factory=list)
    outdated: bool = False
    quantized_share: float = 0.0
    share_of: str = "macs"

    @property
    def trusted(self) -> bool:
        """Whether the order of the layers can be relied on."""
        return self.reliability is None or self.reliability >= TRUSTED

    def ranked(self) -> list[GroupResult]:
        """The layers, the most harmful first."""
        return sorted(self.groups, key=lambda group: -group.harm(self.full))

    def to_json(self) -> dict[str, Any]:
        """The content of sensitivity.json."""
        return {
            "schema": SCHEMA,
            "outdated": self.outdated,
            "method": self.method,
            "trusted": self.trusted,
            "reliability": self.reliability,
            "metric": self.metric,
            "float_metric": self.float_metric,
            "samples": self.samples,
            "inferences": self.inferences,
            "fingerprint": self.fingerprint,
            "notes": [note.to_json() for note in self.notes],
            "quantized_share": self.quantized_share,
            "share_of": self.share_of,
            "full": self.full.to_json(),
            "groups": [
                {
                    "name": g.name,
                    "op": g.op,
                    "share": g.share,
                    "alone": g.alone.to_json() if g.alone is not None else None,
                    "without": g.without.to_json() if g.without is not None else None,
                }
                for g in self.groups
            ],
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Sensitivity:
        """Parse the result of ``to_json``.

        Raises:
            QtoolError: it has another schema.
        """
        if content.get("schema") != SCHEMA:
            raise QtoolError(f"schema is {content.get('schema')!r}, not '{SCHEMA}'", remedy="measure again")
        groups = [
            GroupResult(g["name"], g["op"], _outcome(g["alone"]), _outcome(g["without"]), g["share"])
            for g in content["groups"]
        ]
        keep = ("method", "metric", "float_metric", "samples", "inferences", "reliability", "fingerprint",
                "quantized_share", "share_of")  # fmt: skip
        notes = [Finding.from_json(note) for note in content["notes"]]
        full = Outcome.from_json(content["full"])
        outdated = content.get("outdated") is True
        return cls(groups=groups, full=full, notes=notes, outdated=outdated, **{key: content[key] for key in keep})

    def save(self, path: Path) -> None:
        """Write sensitivity.json atomically."""
        write_json(path, self.to_json())

    @classmethod
    def load(cls, path: Path) -> Sensitivity:
        """Read sensitivity.json.

        Raises:
            QtoolError: the file is not a sensitivity.json.
        """
        with reading(path, _KIND):
            return cls.from_json(read_json(path, _KIND))


def _outcome(content: Mapping[str, Any] | None) -> Outcome | None:
    return Outcome.from_json(content) if content else None


def exact(
    simulation: Simulation,
    *,
    modes: Sequence[str] = ("alone", "without"),
    log: Path | None = None,
    progress: Progress | None = None,
    batches: int | None = None,
    names: Sequence[str] | None = None,
    together: bool = False,
    over: Callable[[], bool] = lambda: False,
) -> Sensitivity:
    """Measure every layer. Each mode costs about half a float inference per layer: only later layers are run again.

    With worker processes (see ``toolkit.base.places``) the layers are distributed; the numbers stay the same.

    Args:
        simulation: the model and its samples.
        modes: ``alone`` (leave one in), ``without`` (leave one out), or both.
        log: a JSON-lines file; its measurements of the same simulation are reused.
        progress: called with the activity, how much of it is done, and the total.
        batches: how many of the batches to use, evenly spread; all if None.
        names: measure only these layers.
        together: measure layers that reach no common output in one run, see ``independent_layers``. Then only a
            layer's noise and answers at its own outputs are known, and nothing over all outputs.
        over: asked between runs; once it returns true, the remaining layers stay unmeasured.

    Raises:
        QtoolError: a mode is unknown.
    """
    for mode in modes:
        if mode not in ("alone", "without"):
            raise QtoolError(f"sensitivity has no mode '{mode}'", remedy="use 'alone', 'without' or both")
    fingerprint, runner, switches = simulation.fingerprint(), simulation.runner, simulation.switches
    known = Log(log, fingerprint, needs_now)
    wanted = [(mode, name) for mode in modes for name in (simulation.names if names is None else names)]
    part = (f":{batches}" if batches is not None else "") + (":together" if together else "")
    lines = {key: known.get(":".join(key) + part) for key in wanted}
    found = {key: Outcome.from_json(line["outcome"]) for key, line in lines.items() if line is not None}
    before = runner.inferences
    full = runner.full_outcome if batches is None else runner.base.run(batches)
    reached = outputs_reached(simulation) if together else {}
    # an interrupted measurement resumes with the same lists, so results do not depend on where it stopped
    missing = [some for some in _in_one_run(wanted, reached) if not found.keys() >= set(some)]
    with closing(_outcomes(simulation, missing if not over() else [], batches)) as outcomes:
        for keys, outcome in outcomes:
            for key in keys:
                found[key] = one = at_outputs(outcome, reached[key[1]]) if len(keys) > 1 else outcome
                known.add(":".join(key) + part, {"outcome": one.to_json()})
            if progress is not None:
                progress("sensitivity", len(found), len(wanted))
            if over():
                break
    groups = [
        GroupResult(
            g.name, g.op, found.get(("alone", g.name)), found.get(("without", g.name)), simulation.work.share([g.name])
        )
        for g in switches.groups
    ]  # fmt: skip
    used = sum(runner.feeds[index].count for index in runner.order[:batches])
    return Sensitivity(
        method="exact" if batches is None else "fast",
        groups=groups,
        full=full,
        metric=simulation.settings.metric,
        float_metric=runner.float_outcome.metric,
        samples=used,
        inferences=runner.inferences - before,
        reliability=None,
        fingerprint=fingerprint,
        notes=[*stale_measurements(known), *machine_notes()],
        quantized_share=simulation.quantized_share(),
        share_of=simulation.work.of,
    )


def _in_one_run(keys: Sequence[_Key], reached: Mapping[str, Collection[str]]) -> list[list[_Key]]:
    """The layers to measure, in lists of those that are quantized in one run.

    ``reached`` maps each layer to the outputs that depend on it; if it is empty, each layer has a run of its own.
    """
    alone = [name for mode, name in keys if mode == "alone"]
    several = [[("alone", name) for name in some] for some in independent(alone, reached)]
    return [*several, *([key] for key in keys if key[0] != "alone")]


def _outcomes(
    simulation: Simulation, keys: Sequence[Sequence[_Key]], batches: int | None
) -> Generator[tuple[Sequence[_Key], Outcome], None, None]:
    """The outcomes of lists of single layers, by mode and name, in any order; run here or by workers, see ``exact``."""
    runner, switches = simulation.runner, simulation.switches
    configs = [
        switches.only([name for _, name in some]) if some[0][0] == "alone" else switches.config([some[0][1]])
        for some in keys
    ]
    with simulation.shared_out(len(keys)) as workers:
        if workers is None:
            yield from ((keys[place], outcome) for place, outcome in run_each(runner, configs, batches))
            return
        for some, (outcome, cost) in zip(keys, in_order(workers, ((config, batches) for config in configs))):
            runner.spent += cost
            yield some, outcome


def fast(simulation: Simulation, *, log: Path | None = None, progress: Progress | None = None) -> Sensitivity:
    """Estimate every layer alone, on as many samples as ten float inferences of all samples pay for.

    The layers after each quantized layer are run on a subset of the samples: the order of the layers needs far fewer
    samples than the values do. The reliability of the order is estimated by comparing the ranks from two halves of the
    samples (split-half reliability, corrected for length by the Spearman-Brown formula; its square root is the expected
    correlation). If it is below 0.9, the result is marked as not trusted.
    """
    total = sum(feed.count for feed in simulation.feeds)
    groups = len(simulation.names)
    share = min(1.0, _FAST_INFERENCES / (_START_INFERENCES + _GROUP_INFERENCES * groups))
    samples = min(total, max(_FAST_BATCHES, int(share * total)))
    batch = max(1, min(simulation.settings.batch, -(-samples // _FAST_BATCHES)))
    part = simulation.on(replace(simulation.settings, samples=samples, batch=batch))
    found = exact(part, modes=("alone",), log=log, progress=progress)
    used = sum(feed.count for feed in part.feeds)
    found.method = "fast"
    found.inferences = (found.inferences + _START_INFERENCES) * used / total
    found.reliability = reliability([g.alone.parts for g in found.groups if g.alone is not None])
    found.notes.append(Code.SENSITIVITY_ESTIMATED(used=used, total=total))
    if not found.trusted:
        found.notes.append(Code.SENSITIVITY_UNTRUSTED(reliability=found.reliability, least=TRUSTED))
    return found


def spearman(first: Sequence[float], second: Sequence[float]) -> float:
    """Spearman's rank correlation, with ties at their mean rank; 1.0 if either sequence is constant."""
    a, b = (ranks(np.asarray(values, np.float64)) for values in (first, second))
    if a.std() == 0 or b.std() == 0:
        return 1.0
    return float(np.corrcoef(a, b)[0, 1])


def reliability(parts: Sequence[Sequence[float]]) -> float:
    """The expected correlation with the exact order, estimated from two halves of the batches, 0 to 1.

    sqrt(2 r / (1 + r)), r being the rank correlation of the halves: the formula of Spearman and Brown (British Journal
    of Psychology 3, 1910) for a test of twice the length, whose square root is the correlation with the true values.

    Args:
        parts: for each layer its noise-to-signal ratio on each batch.
    """
    if not parts or len(parts[0]) < 2:
        return 0.0
    table = np.asarray(parts, np.float64)
    table = np.where(np.isfinite(table), table, np.finfo(np.float64).max / table.shape[1])
    half = spearman(list(table[:, ::2].mean(axis=1)), list(table[:, 1::2].mean(axis=1)))
    return math.sqrt(2 * half / (1 + half)) if half > 0 else 0.0
