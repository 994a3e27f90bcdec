"""`qtool migrate`: convert settings of TensorRT's builder into an equivalent recipe and Q/DQ model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from toolkit.base.errors import QtoolError, did_you_mean
from toolkit.base.files import make_folder, write_json, write_text
from toolkit.base.precision import FLOATS
from toolkit.base.settings import without_effect
from toolkit.base.text import count, text_of
from toolkit.contract.findings import Finding
from toolkit.contract.journal import Journal
from toolkit.contract.ranges import BY_HAND, Range, Ranges
from toolkit.graph.model import Model
from toolkit.placement.qdq import without_pairs
from toolkit.placement.quantized import pair_count, refuse_integer_operators
from toolkit.placement.spellings import load_source
from toolkit.report.findings import sentence
from toolkit.report.migrate_codes import MigrateCode
from toolkit.run.checks.gpu_types import types_lacking, types_of_pairs
from toolkit.run.folder.guard import refuse_missing
from toolkit.run.folder.run_folder import PREPARED, RunFolder
from toolkit.run.inputs.engine_settings import engine_settings
from toolkit.run.inputs.inputs import Inputs
from toolkit.run.job import Job
from toolkit.run.migrate.forms import Form, implicit_form, measured
from toolkit.run.migrate.implicit import (
    CACHE,
    COMMAND,
    MODEL,
    TEXT,
    BackToImplicit,
    cache_version,
    paired_model,
    recipe_of_run,
    requested_types,
)
from toolkit.run.migrate.orders.entries import Settled
from toolkit.run.migrate.orders.order import Order, OrderOutcome
from toolkit.run.migrate.orders.settle import settle, value_named
from toolkit.run.migrate.orders.terms import Term
from toolkit.run.migrate.pairs import layer_findings, pair_turns, ranges_of_pairs
from toolkit.run.migrate.shapes import take_shapes
from toolkit.run.migrate.source import MigrationSource, cached_ranges, read_source
from toolkit.run.migrate.target import RECORD, refuse_migration_over, write_unfinished
from toolkit.run.migrate.tensors import FittedRanges, TensorTurn, counts, fitted, tensor_turns
from toolkit.run.migrate.write import next_command, recipe_text
from toolkit.run.new.new_recipe import paired_unusably
from toolkit.run.pipeline import run
from toolkit.run.recipe.recipe import Recipe

_FORMS = ("explicit", "implicit")
_FOLDER, _EXPLICIT = "migrated", "explicit"
_FEW = 12
"""How many tensors are listed individually on the terminal; migration.json lists all."""


@dataclass(frozen=True)
class MigrationRequest:
    """The arguments of ``qtool migrate``.

    Attributes:
        words: the source, see ``read_source``.
        model: the model, instead of the one that the source names.
        cache: the calibration cache, instead of the one that the source names.
        data: calibration samples; ranges are calibrated if the source gives none.
        test: samples on which both forms are measured.
        rest: the float type, if the source (a cache or a model) gives none; None for fp16.
        to: ``explicit``, or ``implicit`` for the reverse direction, from a model's Q/DQ pairs or a run folder.
        release: with ``to="implicit"``, the TensorRT release that reads the cache.
        capabilities: compute capabilities of the engine's target GPUs.
        out: the output folder.
        force: whether files of an earlier migration may be overwritten.
    """

    words: Sequence[str]
    model: Path | None = None
    cache: Path | None = None
    data: Path | None = None
    test: Path | None = None
    rest: str | None = None
    to: str = "explicit"
    release: str = "8.6.0"
    capabilities: Sequence[str] = ()
    out: Path | None = None
    force: bool = False


@dataclass
class Migration:
    """The result of a migration.

    Attributes:
        recipe: the recipe's file.
        model: the Q/DQ model; None if it was not built for lack of ranges.
        kind: the kind of the source.
        turns: the outcome of each instruction in the source.
        tensors: the outcome of each tensor's range or pair.
        said: findings about the migration as a whole.
        forms: accuracy before and after the migration, if there are samples.
        lacks: the float model, if no Q/DQ model was built for lack of ranges and samples.
        exit_status: 0; 1 if ranges or samples are missing.
    """

    recipe: Path
    model: Path | None
    kind: str
    turns: list[OrderOutcome]
    tensors: list[TensorTurn]
    said: list[Finding] = field(default_factory=list)
    forms: dict[str, Form] = field(default_factory=dict)
    lacks: Path | None = None
    exit_status: int = 0

    def to_json(self) -> dict[str, Any]:
        """A JSON-serializable dictionary, as in migration.json."""
        return {
            "recipe": str(self.recipe),
            "model": str(self.model) if self.model is not None else None,
            "source": self.kind,
            "orders": [turn.to_json() for turn in self.turns],
            "tensors": [turn.to_json() for turn in self.tensors],
            "counts": counts(self.tensors),
            "findings": [{**one.to_json(), "text": sentence(one)} for one in self.said],
            "forms": {name: form.to_json() for name, form in self.forms.items()},
        }

    def to_text(self) -> str:
        """Lines of text for people, instructions without an equivalent first."""
        lines = [sentence(one) for one in self.said]
        for title, fates in (
            ("without an equivalent", ("lost",)), ("to be looked at", ("look",)), ("overruled", ("overruled",)),
            ("migrated", ("written",)), ("nothing to do", ("implied", "unrelated")),
        ):  # fmt: skip
            found = [turn for turn in self.turns if turn.fate in fates]
            if found:
                # a call may hold several instructions with the same outcome, such as min, opt and max of a shape
                lines += [f"{title}:", *dict.fromkeys(f"  {_line(turn)}" for turn in found)]
        if self.tensors:
            lines.append(f"ranges ({count(len(self.tensors), 'tensor')}):")
            odd = [turn for turn in self.tensors if turn.why.code not in _PLAIN]
            lines += [f"  {turn.tensor}: {sentence(turn.why)}" for turn in odd[:_FEW]]
            lines += [f"  and {len(odd) - _FEW} more, see {RECORD}"] if len(odd) > _FEW else []
            for code in _PLAIN:
                alike = [turn for turn in self.tensors if turn.why.code is code]
                more = f" ({len(alike)} such)" if len(alike) > 1 else ""
                lines += [f"  {turn.tensor}{more}: {sentence(turn.why)}" for turn in alike[:1]]
        made = [str(path) for path in (self.recipe, self.model) if path is not None]
        return text_of([*lines, f"Wrote {', '.join(made)}", next_command(self.recipe, self.lacks)])


_PLAIN = (
    MigrateCode.TENSOR_PAIRED,
    MigrateCode.PAIR_KEPT,
    MigrateCode.RANGE_OF_PAIR,
    MigrateCode.RANGE_FOLLOWS,
    MigrateCode.TENSOR_INSIDE,
    MigrateCode.TENSOR_CONSTANT,
    MigrateCode.TENSOR_UNNAMED,
)
"""The most frequent outcomes; for each of them one tensor is listed as an example."""


def _line(turn: OrderOutcome) -> str:
    place = f"line {turn.order.line}: " if turn.order.line else ""
    parts = [part for part in (turn.became, sentence(turn.why) if turn.why is not None else "") if part]
    return f"{place}{turn.order.said}: {'; '.join(parts)}"


def migrate(asked: MigrationRequest) -> Migration:
    """Read the source, write recipe, ranges and model, and report the outcome of each instruction and tensor.

    Raises:
        QtoolError: the source cannot be parsed, names no model, or names files that do not exist; or its ranges belong
            to an entirely different network.
    """
    if asked.to not in _FORMS:
        raise QtoolError(f"--to is '{asked.to}'", remedy=did_you_mean(asked.to, _FORMS))
    if asked.rest is not None and asked.rest not in FLOATS:
        raise QtoolError(f"--rest is '{asked.rest}'", remedy=did_you_mean(asked.rest, map(str, FLOATS)))
    return _to_implicit(asked) if asked.to == "implicit" else _to_explicit(asked)


def _to_implicit(asked: MigrationRequest) -> Migration:
    """Write the float model, ranges and calibration cache that are equivalent to a model's Q/DQ pairs."""
    if len(asked.words) != 1:
        raise QtoolError("--to implicit takes one model or run folder", remedy="give a model with Q/DQ pairs")
    given = Path(asked.words[0])
    path = paired_model(given)
    refuse_missing(path, "no such model or run folder")
    version = cache_version(asked.release)
    back = BackToImplicit(load_source(path), requested_types(given), recipe_of_run(given))
    folder = asked.out if asked.out is not None else Path(_FOLDER) / given.stem
    target, ranges = folder / f"{given.stem}.toml", f"{given.stem}.ranges.json"
    refuse_migration_over({"the model": path}, target, (MODEL, CACHE, TEXT, COMMAND, ranges), asked.force)
    found = Migration(target, folder / MODEL, "model", [], back.turns, back.said())
    make_folder(folder)
    write_unfinished(target, back.recipe_text(target), found.to_json())
    back.write(target, version)
    write_json(folder / RECORD, found.to_json())
    return found


def _to_explicit(asked: MigrationRequest) -> Migration:
    """Write the recipe and the Q/DQ model that are equivalent to the source."""
    source = read_source(asked.words)
    source.orders[:] = _completed(source, asked)
    model_path = _model_path(source)
    model = load_source(model_path)
    refuse_integer_operators(Counter(node.op for node, _ in model.walk()), str(model_path))
    if source.kind == "model" and not pair_count(model) and asked.cache is None and asked.data is None:
        raise QtoolError(
            "the model has no Q/DQ pairs, and no ranges are given with it",
            where=str(model_path),
            remedy="give a calibration cache with --cache or samples with --data, or the command that built the engine",
        )
    paired = pair_count(model) > 0 and not paired_unusably(model)
    if paired and source.kind == "model":
        # the Q/DQ pairs themselves state their type
        source.orders[:] = [order for order in source.orders if order.term is not Term.INT8]
    settled = settle(source.orders, model, paired)
    folder = asked.out if asked.out is not None else Path(_FOLDER) / model_path.stem
    target = folder / f"{model_path.stem}.toml"
    given, fit, said = _ranges(source, settled, model, paired)
    ranges_path = folder / f"{model_path.stem}.ranges.json" if fit is not None else None
    others = [ranges_path.name] if ranges_path is not None else []
    refuse_migration_over(_inputs(model_path, asked), target, others, asked.force)
    data = asked.data or _data(source, settled)
    take_shapes(settled, model, [path for path in (data, asked.test) if path is not None])
    settled.complete_engine(source.folders, asked.capabilities)
    text = recipe_text(
        settled, model, target, model_path=model_path, ranges=ranges_path, paired=paired, data=data,
        test=asked.test, about=[f"Migrated from {source.name} by qtool migrate; {RECORD} has the details."],
    )  # fmt: skip
    found = Migration(target, None, source.kind, settled.turns, [], said)
    make_folder(folder)
    write_unfinished(target, text, found.to_json())
    if ranges_path is not None and fit is not None:
        fit.ranges.save(ranges_path)
    write_text(target, text)
    quantizes = bool(settled.quantize) or paired
    if settled.quantize and not pair_count(model) and fit is None and data is None:
        code = MigrateCode.FP8_NEEDS_DATA if settled.quantize == "fp8" else MigrateCode.NO_RANGES_AT_ALL
        found.said.insert(0, code())
        found.lacks, found.exit_status = model_path, 1
    else:
        _make(found, folder, model, given, fit, quantizes, paired)
    # several instructions of one call count once
    fates = Counter(fate for _, _, fate in {(turn.order.line, turn.order.said, turn.fate) for turn in found.turns})
    if fates["lost"] or fates["look"]:
        found.said.append(MigrateCode.SUMMARY(lost=fates["lost"], look=fates["look"]))
    write_json(folder / RECORD, found.to_json())
    return found


def _inputs(model_path: Path, asked: MigrationRequest) -> dict[str, Path]:
    """The files that a migration reads, keyed by their description: none may be overwritten."""
    files = {"the model": model_path, "--data": asked.data, "--test": asked.test, "--cache": asked.cache}
    return {what: path for what, path in files.items() if path is not None}


def _completed(source: MigrationSource, asked: MigrationRequest) -> list[Order]:
    """The source's instructions with those added by qtool's command line.

    Raises:
        QtoolError: ``rest`` is given although the source states the float type.
    """
    orders = list(source.orders)
    rest = asked.rest or "fp16"
    if source.kind not in ("cache", "model"):
        if asked.rest is not None:
            what, remedy = without_effect(f"--rest {rest}", f"{source.name} states the float type itself", "--rest")
            raise QtoolError(what, remedy=f"{remedy}, and set [engine] rest in the recipe that comes out")
    elif rest != "fp32":
        orders.append(Order(Term.FP16 if rest == "fp16" else Term.BF16, None, f"--rest {rest}"))
    if asked.model is not None:
        orders = [order for order in orders if order.term is not Term.MODEL]
        orders.append(Order(Term.MODEL, str(asked.model), f"--model {asked.model}"))
    if asked.cache is not None:
        orders = [order for order in orders if order.term is not Term.CACHE]
        orders.append(Order(Term.CACHE, str(asked.cache.absolute()), f"--cache {asked.cache}"))
    samples = asked.data is not None or any(order.term in (Term.INPUTS, Term.LOADER) for order in orders)
    return [_without_file(order, source) if samples and order.term is Term.CACHE else order for order in orders]


def _without_file(order: Order, source: MigrationSource) -> Order:
    """An instruction for a cache, marked if the file does not exist yet: Polygraphy then calibrates and writes it."""
    there = any((folder / str(order.value)).exists() for folder in source.folders)
    return order if there else replace(order, why=MigrateCode.CACHE_NOT_THERE())


def _model_path(source: MigrationSource) -> Path:
    named = value_named(source.orders, Term.MODEL)
    if not named:
        engine = f", but the engine {built}" if (built := value_named(source.orders, Term.ENGINE_IN)) else ""
        raise QtoolError(f"{source.name} names no model{engine}", remedy="give the ONNX model with --model")
    return source.find(named, "the model", "--model")


def _data(source: MigrationSource, settled: Settled) -> Path | None:
    """The samples named in the source; None if it names none."""
    return source.find(settled.data, "the samples", "--data") if settled.data else None


def _ranges(
    source: MigrationSource, settled: Settled, model: Model, paired: bool
) -> tuple[Ranges | None, FittedRanges | None, list[Finding]]:
    """The given ranges, the same ranges fitted to the model, and findings about them."""
    if pair_count(model):
        known = ranges_of_pairs(model, stripped=not paired)
        return None, known if known.ranges.tensors else None, []
    if not (settled.cache or settled.ranges) or settled.quantize != "int8":
        return None, None, []
    given, where = Ranges(), source.name
    if settled.cache:
        path = source.find(settled.cache, "the calibration cache", "--cache", otherwise=", or samples with --data")
        given, where = cached_ranges(path, "give a calibration cache with --cache, or samples with --data"), str(path)
    given = replace(given, tensors=dict(given.tensors))
    given.tensors.update({name: Range(amax, BY_HAND) for name, amax in settled.ranges.items()})
    fit = fitted(given, model, where)
    return given, fit, fit.said


def _make(
    found: Migration,
    folder: Path,
    model: Model,
    given: Ranges | None,
    fit: FittedRanges | None,
    quantizes: bool,
    paired: bool,
) -> None:
    """Run the recipe without a backend: this writes the Q/DQ model, and a report with the findings."""
    recipe = Recipe.load(found.recipe)
    recipe.engine.backend = "none"
    engine_settings(recipe)
    result = run(recipe, folder / _EXPLICIT, device_check=False)
    found.model = result.folder / "model.onnx"
    asked = {one for layer in result.report.layers if (one := layer.asked_precision) is not None}
    found.said += types_lacking(recipe, asked | types_of_pairs(model), "none")
    prepared = Model.load(result.folder / PREPARED)
    if given is not None and fit is not None:
        journal = Journal.from_jsonl((result.folder / "journal.jsonl").read_text(encoding="utf-8"))
        found.tensors = tensor_turns(given, fit, model, prepared, journal)
    elif pair_count(model):
        found.said += layer_findings(model)
        found.tensors = pair_turns(model, prepared, fit.derived if fit is not None else {})
    if found.tensors:
        number = counts(found.tensors)
        kept = (MigrateCode.TENSOR_PAIRED, MigrateCode.TENSOR_SHARED, MigrateCode.TENSOR_ZERO, MigrateCode.PAIR_KEPT,
                MigrateCode.TENSOR_DERIVED, MigrateCode.PAIR_MADE_ANEW, MigrateCode.PAIR_MOVED)  # fmt: skip
        found.said.append(MigrateCode.RANGES_SUMMARY(
            paired=sum(number.get(str(code), 0) for code in kept),
            missing=number.get(str(MigrateCode.TENSOR_MISSING), 0), of=len(found.tensors),
        ))  # fmt: skip
    _measure(found, recipe, model, prepared, fit if quantizes else None, paired)


def _measure(
    found: Migration, recipe: Recipe, model: Model, prepared: Model, fit: FittedRanges | None, paired: bool
) -> None:
    """Measure both forms on the recipe's samples, if it has any."""
    inputs = Inputs(Job(recipe, RunFolder(found.recipe.parent / _EXPLICIT)))
    assert found.model is not None
    before = model if pair_count(model) else None
    if before is None and fit is not None:
        before = implicit_form(prepared, fit.ranges)
    # the reference has clamps in place of pairs with zero points, which clip like a ReLU
    reference = without_pairs(model) if paired else inputs.reference()
    for name, subject in (("before", before), ("after", Model.load(found.model))):
        one = measured(inputs, reference, subject) if subject is not None else None
        if one is not None:
            found.forms[name] = one
    if len(found.forms) == 2:
        was, now = found.forms["before"], found.forms["after"]
        found.said.append(MigrateCode.FORMS_MEASURED(
            pairs=paired or bool(pair_count(model)), before_db=was.sqnr_db, after_db=now.sqnr_db,
            before=was.metric, after=now.metric, float_value=now.float_metric,
        ))  # fmt: skip
