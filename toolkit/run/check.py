"""What a recipe would do: everything is read and every pass is tried, nothing is calibrated or built."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from toolkit.base.precision import Precision
from toolkit.base.text import count, samples_by_profile
from toolkit.contract.findings import Code
from toolkit.contract.journal import Journal
from toolkit.contract.ranges import Range, Ranges
from toolkit.run.recipe import Recipe

if TYPE_CHECKING:
    from toolkit.graph.model import Model

_QUIET = (Code.COMPLETE, Code.DEAD)
_LOUD = (Code.QUANTIZED_SOURCE, Code.RANGES_MISSING, Code.VALUES_NOT_OBSERVED, Code.NOT_RUN)
"""What is noted of single nodes, or of ranges that are placeholders here."""


@dataclass
class DryRun:
    """What would be done."""

    recipe: str
    nodes: int
    asked: dict[str, int]
    declined: list[dict[str, str]]
    notes: list[str]
    warnings: list[str]
    passes: list[str]
    calibration: dict[str, Any] = field(default_factory=dict)
    evaluation: dict[str, Any] = field(default_factory=dict)
    backend: str = ""

    def to_json(self) -> dict[str, Any]:
        """The machine form."""
        return dict(self.__dict__)

    def to_text(self) -> str:
        """For people."""
        lines = [
            f"{self.recipe}: can run",
            f"model: {self.nodes} nodes",
            "passes: " + (", ".join(self.passes) or "none"),
        ]
        lines.append("asked: " + (", ".join(f"{n} {p}" for p, n in sorted(self.asked.items())) or "nothing"))
        for name, found in (("calibration", self.calibration), ("evaluation", self.evaluation)):
            ranges = f"{count(found['ranges'], 'range')} given" if "ranges" in found else ""
            samples = samples_by_profile(found["samples"], found["profiles"]) if "samples" in found else "no data"
            lines.append(f"{name}: {', '.join(filter(None, (samples, ranges)))}")
        lines.append(f"backend: {self.backend}")
        rules = Counter(entry["rule"] for entry in self.declined)
        for rule, number in rules.most_common():
            example = next(entry for entry in self.declined if entry["rule"] == rule)
            lines.append(f"declined {number} by '{rule}': {example['node']}: {example['reason']}")
        lines += [f"note: {note}" for note in self.notes]
        lines += [f"warning: {warning}" for warning in self.warnings]
        return "\n".join(lines) + "\n"


class _Placeholders:
    """Stands in for calibration: every tensor has amax 1, but those that cannot be computed and are not given."""

    def __init__(self, given: Collection[str]) -> None:
        self.given = given

    def __call__(self, model: Model, tensors: Sequence[str] | None, dtype: Precision = Precision.INT8) -> Ranges:
        from toolkit.graph.runnable import not_run

        names = tensors if tensors is not None else list(model.graph.tensors())
        left = not_run(model)
        missing = {
            name: Code.BEHIND_PLUGIN(plugin=by, op=left.plugins[by])
            for name in names
            if (by := left.tensors.get(name)) is not None and name not in self.given
        }
        known = {name: Range(1.0, "placeholder", dtype=str(dtype)) for name in names if name not in missing}
        return Ranges(known, missing=missing)


def dry_run(recipe: Recipe, allow_code: bool = False) -> DryRun:
    """Read model and all data, run one sample, try every pass with placeholder ranges, and say what would be done.

    Raises:
        QtoolError: whatever a run would stumble over.
    """
    from toolkit.backends.choose import choose
    from toolkit.base.code import import_path
    from toolkit.base.temporary import temporary_folder
    from toolkit.contract.passes import Sequence as PassSequence
    from toolkit.report.findings import sentence
    from toolkit.run.calibrator import given_count
    from toolkit.run.checks import inputs_exist, names_exist
    from toolkit.run.context import context_for
    from toolkit.run.engine_settings import engine_settings
    from toolkit.run.folder import RunFolder
    from toolkit.run.inputs import Inputs
    from toolkit.run.job import Job
    from toolkit.run.recipe_passes import passes_of
    from toolkit.run.samples import fit
    from toolkit.run.steps.compare import comparable

    with (
        temporary_folder("check") as folder,
        import_path(recipe.folder if allow_code else None),
    ):
        inputs = Inputs(Job(recipe, RunFolder(folder), allow_code))
        inputs_exist(inputs.job)
        names_exist(inputs.job)
        comparable(inputs.job)
        journal = Journal()
        steps = passes_of(recipe, allow_code)
        source = inputs.source(journal)
        data = inputs.calibration_data(source, journal)
        test, _ = inputs.evaluation_data(source)
        calibration = _counts(data)
        if test is not None:
            fit(inputs, test)
        evaluation = _counts(test)
        context = context_for(inputs, source, journal, dry_run=True)
        if given := given_count(recipe, inputs):
            calibration["ranges"] = given
        if context.can_calibrate:
            # ranges that are given are known already, and what has none is what a run would name
            context.provider = _Placeholders(_given(context.provider))
        PassSequence(passes=steps)(source.copy(), context)
        engine_settings(recipe)
        backend, reason = choose(recipe.engine.backend)
    return DryRun(
        recipe=str(recipe.path or recipe.name),
        nodes=len(source.node_names()),
        asked=dict(Counter(str(ask.precision) for _, ask in context.plan.items())),
        declined=[
            {"node": e.node, "rule": e.rule, "reason": sentence(e.why), "by": e.by} for e in journal.of("declined")
        ],
        notes=[sentence(e.why) for e in journal.of("noted") if e.why.code not in (*_QUIET, *_LOUD)],
        warnings=[sentence(e.why) for e in journal.of("noted") if e.why.code in _LOUD],
        passes=[step.title() for step in steps],
        calibration=calibration,
        evaluation=evaluation,
        backend=f"{backend.name} ({sentence(reason)})",
    )


def _given(provider: Any) -> set[str]:
    """Tensors whose ranges the recipe gives."""
    return {*provider.manual, *(provider.given.tensors if provider.given is not None else ())}


def _counts(data: Any) -> dict[str, Any]:
    if data is None:
        return {}
    counts = data.counts
    return {"samples": counts.samples, "profiles": counts.per_profile, "skipped": counts.skipped, "cut": counts.cut}
