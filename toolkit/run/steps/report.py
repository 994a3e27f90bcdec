"""The step "report": combines the results of all steps into report, journal and lock file."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import PrivateAttr

from toolkit.base.files import write_text
from toolkit.base.profiles import Profiles
from toolkit.base.versions import code_fingerprint, versions
from toolkit.calibration.codes import RangeCode
from toolkit.contract.findings import Code, Finding
from toolkit.contract.journal import Journal
from toolkit.contract.order import OrderCode
from toolkit.contract.ranges import Ranges
from toolkit.data.codes import DataCode
from toolkit.graph.interface.used_inputs import varying_tensors
from toolkit.graph.model import Model
from toolkit.graph.shape_inference.facts import Facts
from toolkit.placement.codes import PlacementCode
from toolkit.report.codes import ReportCode
from toolkit.report.conclusions.speed import timing_cache_warnings
from toolkit.report.findings import SharedSentences
from toolkit.report.schema.report import RecipeInfo, Report, StepInfo
from toolkit.report.schema.search import SearchInfo, WeakSpotInfo
from toolkit.report.sections.found import EngineFound, Graphs, Measurements, Requests
from toolkit.run.inputs.inputs import Inputs
from toolkit.run.keys.keys import hashes
from toolkit.run.keys.lock import lock_text
from toolkit.run.keys.step import Record, Step
from toolkit.run.recipe.passes import pass_infos, predicts_for
from toolkit.run.recipe.recipe import Recipe
from toolkit.run.steps.accuracy import accuracy_of, device_of
from toolkit.run.steps.analyses import Analyses, basis_of, path_of
from toolkit.run.steps.compare import CompareRecord
from toolkit.run.steps.device import DeviceRecord
from toolkit.run.steps.engine import EngineRecord
from toolkit.run.steps.evaluation import EvaluationRecord
from toolkit.run.steps.latencies import LatenciesRecord
from toolkit.run.steps.lowering import LoweringRecord
from toolkit.run.steps.open import OpenRecord
from toolkit.run.steps.passes import PassesRecord
from toolkit.run.task.task import TaskRecord

_WARNING = {
    Code.UNLIKE_SCALES, Code.EMPTY_PROFILE, Code.FEW_SAMPLES, Code.UNVARIED_SAMPLES, Code.QUANTIZED_SOURCE,
    Code.CLAMPS_UNSURE, Code.STRIP_NOT_MEASURED, Code.RANGES_MISSING, RangeCode.BY_HAND_UNUSED,
    RangeCode.BY_HAND_UNLIKE,
    RangeCode.OF_THE_WHOLE,
    Code.VALUES_NOT_OBSERVED, Code.NOT_RUN, Code.RANDOM_SOURCE, Code.STRIP_FAR, PlacementCode.SHARED_UNLIKE,
    Code.NO_QUANTIZED_WEIGHTS,
    OrderCode.AFTER_PAIRS, OrderCode.ALL_PAIRED, OrderCode.REQUESTS_LOST,
    DataCode.OPT_UNLIKE_NAME, Code.FOREIGN_OPERATOR,
    Code.SKIPPED, Code.PADDED, Code.CROPPED, Code.CUT,
}  # fmt: skip
"""Findings about the model, samples and ranges that become warnings of the report."""
_REPORT, _HTML, _JOURNAL, _LOCK = "report.json", "report.html", "journal.jsonl", "recipe.lock.toml"


@dataclass(frozen=True)
class RunRecords:
    """The records of all steps; None for steps that the recipe does not request."""

    task: TaskRecord
    passes: PassesRecord
    lowering: LoweringRecord
    engine: EngineRecord
    opened: OpenRecord | None
    compare: CompareRecord | None
    latencies: LatenciesRecord | None
    evaluation: EvaluationRecord
    device: DeviceRecord

    def made(self) -> list[Record]:
        """The records that exist."""
        return [record for record in vars(self).values() if record is not None]

    def key(self) -> dict[str, Any]:
        """All records, and the other files that the report reads."""
        found = {name: record.key() if record is not None else {} for name, record in vars(self).items()}
        search = self.passes.search_file
        return {
            **found,
            **self.passes.ranges_key(),
            **self.engine.layers_key(),
            "search": hashes(search) if search is not None else {},
            "final": self.lowering.model_key(),
        }


class ReportRecord(Record):
    """The files of the report, and the basis that an analysis must have to be added to it."""

    basis: str = ""
    _report: Report | None = PrivateAttr(None)

    def report(self) -> Report:
        """The combined report; read from its file unless this run has just made it."""
        if self._report is None:
            self._report = Report.load(self._folder / _REPORT)
        return self._report

    def holding(self, report: Report) -> ReportRecord:
        """This record with the report that was just written."""
        self._report = report
        return self


class ReportStep(Step[ReportRecord]):
    """Writes report.json, report.html, journal.jsonl and recipe.lock.toml."""

    name = "report"
    kind = ReportRecord
    leaves = (_HTML,)

    def __init__(self, inputs: Inputs, found: RunRecords, steps: Sequence[StepInfo]) -> None:
        super().__init__(inputs)
        self.found, self.steps = found, steps

    def key(self) -> Mapping[str, Any]:
        """The recipe, all records, and fingerprints of the inputs."""
        recipe, prints = self.recipe, self.inputs.prints
        return {
            "recipe": [recipe.name, str(recipe.path or ""), recipe.as_key(by_alias=True), _given(recipe)],
            **self.found.key(),
            "model": prints.of_model(),
            "calibration data": prints.of_data(recipe.calibration.data),
            "evaluation data": prints.of_data(recipe.evaluation.data),
            "given ranges": prints.of_ranges(),
            "given collection": prints.of_collection(),
            "loaders": [one.to_json() for one in prints.loader_notes()],
            "analyses": hashes(path_of(self.folder)),
            "profiles": repr(self.job.profiles),
            "versions": versions(),
            "code": code_fingerprint(),
        }

    def run(self) -> ReportRecord:
        """Combine the results and write the four files."""
        from toolkit.report.page.html import write_html

        root, engine, said = self.folder.path, self.found.engine, SharedSentences()
        journal = self._journal()
        report = self._report(journal, said)
        write_text(root / _JOURNAL, journal.to_jsonl(said))
        write_text(root / _LOCK, lock_text(self.inputs, engine.build.backend, engine.typing))
        report.save(root / _REPORT)
        files = [_JOURNAL, _LOCK, _REPORT]
        if "html" in self.recipe.report.formats:
            write_html(report, root / _HTML)
            files.append(_HTML)
        return ReportRecord(files=files, basis=basis_of(self.inputs)).holding(report)

    def _journal(self) -> Journal:
        """The events of all steps."""
        found, journal = self.found, Journal()
        journal.by = "recipe"
        for one in self.recipe.settings:
            values = [None if value is None else json.dumps(value, default=str) for value in (one.value, one.before)]
            journal.noted(ReportCode.SETTING_GIVEN(key=one.key, value=values[0], before=values[1]))
        for said in (found.passes, found.lowering, found.opened):
            journal.events += said.journal.events if said is not None else []
        if found.device.why is not None:
            journal.by = "device"
            failed = found.device.status == "failed"
            code = ReportCode.DEVICE_RUN_FAILED if failed else ReportCode.DEVICE_RUN_SKIPPED
            journal.noted(code(why=found.device.why))
        journal.by = "folder"
        if self.job.found is not None:
            journal.noted(self.job.found)
        for why in dict.fromkeys(why for record in found.made() for why in record.unfollowed):
            journal.noted(Code.READS_UNKNOWN(why=why))
        return journal

    def _report(self, journal: Journal, said: SharedSentences) -> Report:
        from toolkit.evaluation.comparison.clipping import unlike_data, unlike_warnings
        from toolkit.report.conclusions.verdict import culprits
        from toolkit.report.conclusions.weak import blame_data, data_advice, weak_spots_from_ranges
        from toolkit.report.join import join
        from toolkit.report.sections.search import read_search

        evaluation, search_file = self.found.evaluation.found, self.found.passes.search_file
        search, spots = read_search(search_file) if search_file is not None else (None, [])
        ranges, prepared = self.found.passes.ranges(), self.found.passes.model()
        clipping = evaluation.clipping if evaluation is not None else {}
        inputs = [tensor.name for tensor in self.inputs.source().graph.inputs]
        unlike = unlike_data(clipping, ranges)
        report = join(
            Requests(_recipe_info(self.recipe, self.job.allow_code), self.found.lowering.plan, journal),
            self._graphs(prepared, ranges),
            self._engine(),
            self._measurements(search, spots),
            steps=self.steps,
            warnings=[
                *self._warnings(journal),
                *unlike_warnings(clipping, ranges, inputs, evaluation.tallies if evaluation is not None else ()),
                *_unmeasured("", self.found.engine.lacks),
                *timing_cache_warnings(self.found.engine.build.log),
                *self._comparison_warnings(),
            ],
            advised=data_advice(unlike),
            gpu=predicts_for(self.recipe, self.job.allow_code),
            said=said,
        )
        layers, plain = report.layers, self.found.passes.float_form
        spots = spots or weak_spots_from_ranges(culprits(layers), layers, prepared, ranges, plain)
        report.weak_spots = blame_data(spots, prepared, unlike, plain)
        analyses = Analyses.load(self.folder).now(basis_of(self.inputs))
        report.sensitivity, report.bisection = analyses.sensitivity, analyses.bisection
        return report

    def _graphs(self, prepared: Model, ranges: Ranges | None) -> Graphs:
        from toolkit.placement.existing import quantized_tensors
        from toolkit.report.sections.describe import model_info

        profiles, final = self.job.profiles, self.found.lowering.model()
        return Graphs(
            final,
            model_info(self.inputs.source(), profiles, path=self.recipe.model.path),
            profiles,
            _facts(final, prepared, profiles),
            ranges,
            # with implicit quantization TensorRT runs every tensor with a range in INT8
            quantized_tensors(prepared) if self.recipe.engine.quantization == "explicit" else None,
        )

    def _engine(self) -> EngineFound:
        found, engine = self.found, self.found.engine
        return EngineFound(
            engine.build,
            {**engine.actuals, **(found.opened.actuals if found.opened is not None else {})},
            engine.reason,
            engine.typing if engine.engine_bytes else "",
            engine.engine_bytes,
            {name: one.timed() for name, one in found.compare.engines.items()} if found.compare is not None else {},
            found.latencies.turns if found.latencies is not None else {},
        )

    def _measurements(self, search: SearchInfo | None, spots: Sequence[WeakSpotInfo]) -> Measurements:
        record, budget = self.found.evaluation, self.recipe.evaluation.budget
        return Measurements(
            record.found.nodes if record.found is not None else {},
            accuracy_of(record.found, budget, held_out=record.held_out, random=record.random, task=self.found.task),
            device_of(self.found.device, budget, self.found.task),
            search,
            spots,
        )

    def _warnings(self, journal: Journal) -> list[Finding]:
        found = [*self.found.engine.refused, *self.found.task.notes]
        found += [*self.inputs.calibrator_left_out(), *self.inputs.prints.loader_notes()]
        evaluation = self.found.evaluation.found
        if self.recipe.calibration.random is not None:
            found.append(ReportCode.RANDOM_CALIBRATION())
        if evaluation is None:
            found.append(ReportCode.NOTHING_MEASURED())
        else:
            found += evaluation.notes
        found += [event.why for event in journal.of("noted") if event.why.code in _WARNING]
        dead = [str(event.why.values["tensor"]) for event in journal.of("noted") if event.why.code is Code.DEAD]
        zero = self._may_be_other(dict.fromkeys(dead)) if dead else []
        return found + ([ReportCode.ZERO_RANGES(tensors=tuple(zero))] if zero else [])

    def _may_be_other(self, zero: Iterable[str]) -> list[str]:
        """The tensors that other samples may fill with other values: those that depend on an input."""
        model = self.found.passes.model()
        known, varying = model.graph.tensors(), varying_tensors(model)
        return [name for name in zero if name not in known or name in varying]

    def _comparison_warnings(self) -> list[Finding]:
        """Findings about unknown latencies of the unquantized engines, and profiles that were not measured in turn."""
        compare, latencies = self.found.compare, self.found.latencies
        if compare is None or latencies is None:
            return []
        said = [line for name, one in compare.engines.items() for line in _unmeasured(name, one.lacks)]
        return said + [
            ReportCode.NOT_MEASURED_IN_TURN(profile=name, why=why)
            for name, why in latencies.lacks.items()
            if name in self.found.engine.build.latency
        ]


def _recipe_info(recipe: Recipe, allow_code: bool) -> RecipeInfo:
    def short(settings: Mapping[str, Any]) -> dict[str, Any]:
        return {key: value for key, value in settings.items() if value not in (None, {}, [])}

    return RecipeInfo(
        name=recipe.name,
        path=str(recipe.path or ""),
        passes=pass_infos(recipe, allow_code),
        rest=recipe.rest,
        given=_given(recipe),
        calibration=short(recipe.calibration.model_dump(mode="json", exclude_defaults=True)),
        evaluation=short(recipe.evaluation.model_dump(mode="json", exclude_defaults=True)),
    )


def _given(recipe: Recipe) -> dict[str, Any]:
    """The settings given in addition to the file, by key; the last of each."""
    given: dict[str, Any] = json.loads(json.dumps({one.key: one.value for one in recipe.settings}, default=str))
    return given


def _facts(final: Model, prepared: Model, profiles: Profiles) -> Facts:
    """Types and shapes of the final graph; shapes that cannot be inferred are taken from the graph before lowering.

    Lowering keeps tensors' names and shapes, but rewrites shape arithmetic into forms that TensorRT parses well and
    ONNX's shape inference does not.
    """
    from toolkit.graph.layers.macs import shape_of
    from toolkit.graph.layers.work import facts_at_opt

    facts = facts_at_opt(final, profiles)
    lost = {name for name in final.tensor_names() if name and shape_of(facts, name) is None}
    # shapes of the other graph are inferred only if needed: with its pairs it is as large
    for name, shapes in facts_at_opt(prepared, profiles).shapes.items() if lost else ():
        if name in lost:
            facts.shapes[name] = shapes
    for node in final.nodes:
        source = node.inputs[0].name if node.inputs else ""
        if node.op in ("Cast", "QuantizeLinear", "DequantizeLinear") and shape_of(facts, node.outputs[0].name) is None:
            facts.shapes[node.outputs[0].name] = facts.shapes.get(source, [])
    return facts


def _unmeasured(engine: str, lacks: Mapping[str, str]) -> list[Finding]:
    """Findings about unknown latencies; ``engine`` is the precision of an unquantized engine, else empty."""
    return [ReportCode.LATENCY_NOT_MEASURED(profile=name, why=why, engine=engine) for name, why in lacks.items()]
