"""What ``qtool sensitivity`` and ``qtool bisect`` do, without typer: each returns an exit status."""

from __future__ import annotations

import shlex
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolkit.base.errors import DataError, QtoolError, RecipeError, did_you_mean
from toolkit.base.text import count, plain, plain_lines

if TYPE_CHECKING:
    from toolkit.contract.passes import Context, Pass
    from toolkit.graph.model import Model
    from toolkit.run.pipeline import Pipeline
    from toolkit.search.sensitivity import Sensitivity
    from toolkit.search.weak_spots import WeakSpot
    from toolkit.simulation.simulation import Simulation

PLACES, KEPT = ("simulation", "engine"), ("fp16", "bf16", "fp32")


@dataclass
class Prepared:
    """A recipe up to its quantizing pass.

    Attributes:
        pipeline: the recipe at work.
        model: the graph after the passes before it.
        context: with ranges and plan.
        step: the quantizing pass.
        later: the passes behind it.
        simulation: with a switch for every layer that the recipe quantizes.
        notes: what the reader should know of these layers.
    """

    pipeline: Pipeline
    model: Model
    context: Context
    step: Pass
    later: list[Pass]
    simulation: Simulation
    notes: list[str]

    @property
    def hidden(self) -> Path:
        """Where resumable files are kept."""
        return self.pipeline.folder.hidden


@contextmanager
def prepared(
    path: Path, out: Path | None, allow_code: bool, samples: int | None, batch: int, data: str, progress: Any,
    on_engine: bool = False,
) -> Iterator[Prepared]:  # fmt: skip
    """Apply a recipe's passes up to insert_qdq or search_precision and make the simulation.

    Raises:
        QtoolError: ``on_engine``, and no engine can be built and run here; nothing has been done then.
        RecipeError: the recipe quantizes nothing.
        DataError: there are no samples.
    """
    from toolkit.base.precision import Precision
    from toolkit.contract.journal import Journal
    from toolkit.run.pipeline import Pipeline
    from toolkit.run.recipe import Recipe
    from toolkit.run.steps import RunFolder
    from toolkit.simulation.simulation import Settings, Simulation, with_labels
    from toolkit.simulation.switches import wanted_tensors

    recipe = Recipe.load(path)
    folder = out if out is not None else Path("runs") / recipe.name
    pipeline = Pipeline(recipe, RunFolder(folder), allow_code, progress)
    if on_engine:
        from toolkit.run.bisect_engine import raise_without_gpu

        raise_without_gpu(pipeline)
    with pipeline.opened():
        pipeline.names_exist()
        journal = Journal()
        model = pipeline.source(journal).copy()
        context = pipeline.context(model, journal)
        step: Any = None
        steps = pipeline.passes()
        for number, one in enumerate(steps):
            if hasattr(one, "judge") and hasattr(one, "activation_matmul"):
                step, later = one, steps[number + 1 :]
                break
            one(model, context)
        if step is None:
            raise RecipeError("the recipe quantizes nothing", where=str(path), remedy="add a pass insert_qdq")
        placement = step.placement(model, context)
        step.raise_opset(model, placement)
        judge = step.judge(model, context)
        facts = model.facts(context.profiles)
        ranges = context.ranges(model, wanted_tensors(model, facts, judge, step.activation_matmul))
        notes = _left_float(step, later, model, context)
        judge = step.judge(model, context)
        if data == "evaluation":
            found = pipeline.evaluation_data(model)[0]
        else:
            found = pipeline.calibration_data(model)
        if found is None:
            raise DataError("there are no samples", where=str(path), remedy="give [calibration] data")
        metric = recipe.evaluation.metric
        labelled = with_labels(found) if metric is not None else None
        settings = Settings(
            Precision(step.dtype), step.activation_matmul, step.weights, metric if labelled is not None else None,
            recipe.evaluation.output, batch, samples, allow_code=allow_code,
        )  # fmt: skip
        simulation = Simulation(model, ranges, labelled or found, context.profiles, judge, settings)
        yield Prepared(pipeline, model, context, step, later, simulation, notes)


def _left_float(step: Any, later: list[Pass], model: Model, context: Context) -> list[str]:
    """Ask for float for the layers whose pairs the passes behind the quantizing one take out again; a note on them."""
    from toolkit.base.precision import FLOATS
    from toolkit.contract.passes import Context, find

    if not later:
        return []
    own = find("insert_qdq")
    settings = {**step.model_dump(include=set(own.model_fields)), "only_if_faster": False}
    trial = model.copy()
    apart = Context(profiles=context.profiles, rest=context.rest, provider=context.provider,
                    known_ranges=context.known_ranges, plan=context.plan.copy(),
                    services={**context.services, "dry_run": True})  # fmt: skip
    own(**settings)(trial, apart)
    quantized = {name for name, ask in apart.plan.items() if ask.precision.quantized}
    try:
        for one in later:
            one(trial, apart)
    except QtoolError as error:
        return [f"what the passes behind {step.title()} keep float is not known: {error}"]
    left = {}
    for node, _ in trial.walk():
        reads_pairs = any(maker.op == "DequantizeLinear" for tensor in node.inputs for maker in tensor.inputs)
        if node.name in quantized and not reads_pairs:
            ask = apart.plan.get(node.name)
            left[node.name] = ask.precision if ask is not None and ask.precision in FLOATS else context.rest
    for name, precision in left.items():
        context.plan.ask(name, precision, "a pass behind the quantizing one keeps it float")
    if not left:
        return []
    return [
        f"{count(len(left), 'layer')} that {step.title()} quantizes and a later pass makes float again count as float; "
        f"move that pass before {step.title()} to quantize what is left with that in mind"
    ]


def sensitivity(
    recipe: Path, out: Path | None, fast: bool, processes: int, samples: int | None, batch: int, data: str,
    allow_code: bool, json: bool,
) -> int:  # fmt: skip
    """``qtool sensitivity``."""
    from toolkit.base.progress import Terminal
    from toolkit.cli.commands import emit
    from toolkit.search import sensitivity as measuring
    from toolkit.search.weak_spots import weak_spots

    with Terminal() as terminal, prepared(recipe, out, allow_code, samples, batch, data, terminal.progress) as ready:
        name = "sensitivity_fast" if fast else "sensitivity"
        log = ready.hidden / f"{name}.jsonl"
        if fast:
            found = measuring.fast(ready.simulation, log=log, progress=terminal.progress)
        else:
            found = measuring.exact(ready.simulation, processes=processes, log=log, progress=terminal.progress)
        found.notes += ready.notes
        target = ready.pipeline.path / "sensitivity.json"
        found.save(target)
        spots = weak_spots(ready.simulation, found)
    if json:
        emit({**found.to_json(), "weak_spots": [spot.to_json() for spot in spots]})
    else:
        _print(found, target, spots)
    return 0


def _print(found: Sensitivity, target: Path, spots: list[WeakSpot]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("layer", "op", "alone: dB", "without: dB", "KL alone", "blame", box=None)
    total = sum(group.harm(found.full) for group in found.groups) or 1.0
    for group in found.ranked():
        row = [_db(o.sqnr_db) if o is not None else "" for o in (group.alone, group.without)]
        kl = f"{group.alone.kl:.2e}" if group.alone is not None and group.alone.kl is not None else ""
        table.add_row(plain(group.name), plain(group.op), *row, kl, f"{group.harm(found.full) / total:.1%}")
    console = Console(highlight=False)
    console.print(table, markup=False)
    console.print(f"all quantized: {_db(found.full.sqnr_db)} dB; {found.samples} samples; {found.method}, "
                  f"{found.inferences:.1f} float inferences", markup=False, soft_wrap=True)  # fmt: skip
    if found.metric is not None:
        console.print(
            f"{found.metric}: float {found.float_metric:.4f}, all quantized {found.full.metric:.4f}", markup=False
        )
    for spot in spots:
        for cause in spot.causes:
            where = f" '{cause.tensor}'" if cause.tensor else ""
            text = f"{spot.node} ({spot.blame:.0%} of the harm):{where} {cause.text}; what helps: {cause.remedy}"
            console.print(text, markup=False, soft_wrap=True)
    for note in found.notes:
        console.print(plain_lines(note), markup=False, soft_wrap=True)
    console.print(f"Wrote {target}", markup=False, soft_wrap=True)


def _db(value: float) -> str:
    return f"{value:.1f}"


def bisect(
    recipe: Path, out: Path | None, max_drop: float | None, min_sqnr_db: float | None, min_agreement: float | None,
    command: str | None, samples: int | None, batch: int, data: str, repeats: int, precision: str, allow_code: bool,
    on: str, json: bool,
) -> int:  # fmt: skip
    """``qtool bisect``."""
    from toolkit.base.files import sha256_json
    from toolkit.base.progress import Terminal
    from toolkit.cli.commands import emit, say
    from toolkit.evaluation.budget import Budget
    from toolkit.evaluation.metrics import make_metric
    from toolkit.run.bisect_engine import EngineCheck
    from toolkit.run.recipe import SHARES
    from toolkit.search import bisect as bisecting
    from toolkit.search.sensitivity import fast

    limits = {"max_drop": max_drop, "min_sqnr_db": min_sqnr_db, "min_agreement": min_agreement}
    if command is not None and not allow_code:
        raise QtoolError("--command runs a command of yours", remedy="add --allow-code")
    if on not in PLACES:
        raise QtoolError(f"--on is '{on}'", remedy=did_you_mean(on, PLACES))
    if precision not in KEPT:
        raise QtoolError(f"--precision is '{precision}'", remedy=did_you_mean(precision, KEPT))
    engines = on == "engine"
    if command is not None and engines:
        raise QtoolError("--command judges the ONNX model, and --on engine builds engines", remedy="leave out one")
    with (
        Terminal() as terminal,
        prepared(recipe, out, allow_code, samples, batch, data, terminal.progress, engines) as ready,
    ):
        simulation = ready.simulation
        log, fingerprint = ready.hidden / "bisect.jsonl", ""
        content: Callable[[frozenset[str]], str] | None = None
        on_engine: EngineCheck | None = None
        check: bisecting.Check
        if max_drop is not None and max_drop > 1 and ready.pipeline.recipe.evaluation.metric in SHARES:
            raise QtoolError(f"--max-drop is {max_drop:g}", remedy="it is a share: 0.02 is 2 points")
        if command is not None:
            given = command

            def check(kept: frozenset[str]) -> bool:
                return _command_passes(given, ready, kept)
        else:
            if all(limit is None for limit in limits.values()):
                section = ready.pipeline.recipe.evaluation.budget
                limits = {key: getattr(section, key) for key in (*limits, "min_value")}
            metric, better = simulation.settings, True
            asked = next((k for k in ("max_drop", "min_value") if limits.get(k) is not None), None)
            named = ready.pipeline.recipe.evaluation.metric
            if asked is not None and metric.metric is None and named is not None:
                raise QtoolError(
                    f"{asked} is a limit of the metric {named}, and the {data} data has no labels to measure it with",
                    remedy="use --data evaluation, or give --min-agreement or --min-sqnr-db",
                )
            if metric.metric is not None:
                better = make_metric(metric.metric, metric.output, metric.allow_code).higher_is_better
            budget = Budget(limits["max_drop"], limits.get("min_value"), limits["min_sqnr_db"], limits["min_agreement"],
                            higher_is_better=better)  # fmt: skip

            if engines:
                check = on_engine = EngineCheck(ready, budget, precision)
                # a file of its own: a bisection of the simulation would begin it anew, and engines take long
                log, fingerprint = ready.hidden / "bisect.engine.jsonl", on_engine.fingerprint()
                content = on_engine.content
            else:

                def check(kept: frozenset[str]) -> bool:
                    return not budget.lacks(simulation.without(kept), simulation.runner.float_outcome)

        found = bisecting.bisect(
            simulation.names, check, log=log, repeats=repeats, precision=precision, progress=terminal.progress,
            fingerprint=fingerprint or sha256_json([simulation.fingerprint(), command, limits]), content=content,
            likely=[group.name for group in fast(simulation).ranked()],
        )  # fmt: skip
        found.notes += ready.notes
        if on_engine is not None:
            found.notes += on_engine.notes()
    if json:
        emit(found.to_json())
    elif not found.kept:
        say("\n".join(["the check passes with every layer quantized", *found.notes]))
    else:
        names = "".join(f"  {name}\n" for name in found.kept)
        notes = "".join(f"{note}\n" for note in found.notes)
        said = f"with these {len(found.kept)} of {len(simulation.names)} layers float the check passes"
        text = f"{said}, and without any one of them not:\n{names}{notes}"
        say(f"{text}\nBefore the pass that quantizes, put:\n\n{found.fragment()}")
    return 0


def _command_passes(command: str, ready: Prepared, kept: frozenset[str]) -> bool:
    """Whether a command exits 0 on the model with these layers float; ``{model}`` in it is the ONNX file's path."""
    from toolkit.run.bisect_engine import candidate

    model, _ = candidate(ready, kept, ready.context.rest)
    path = ready.hidden / "bisect.onnx"
    model.source = None
    model.save(path)
    words = [word.replace("{model}", str(path)) for word in shlex.split(command)]
    if "{model}" not in command:
        words.append(str(path))
    try:
        return subprocess.run(words, capture_output=True, check=False).returncode == 0
    except OSError as error:
        raise QtoolError(f"the command cannot be run: {error}", where=command, remedy="check its path") from error
