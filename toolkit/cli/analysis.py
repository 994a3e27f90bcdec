"""Commands that find the layers that cost accuracy."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from toolkit.cli.options import AllowCode, Json, OnPlace, Out, RecipePath, Set, with_place
from toolkit.cli.output import emit, say

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.table import Table

    from toolkit.base.progress import Terminal
    from toolkit.run.job import Job
    from toolkit.search.causes.weak_spots import WeakSpot
    from toolkit.search.sensitivity.measure import GroupResult, Sensitivity

MostSamples = Annotated[int | None, typer.Option(min=1, help="Use at most this many samples.")]
BatchOption = Annotated[int, typer.Option(min=1, help="Samples to run at once.")]
Data = Annotated[str, typer.Option(help="The samples to decide on: calibration or evaluation.")]


def sensitivity(
    recipe: RecipePath,
    out: Out = None,
    settings: Set = None,
    fast: Annotated[bool, typer.Option("--fast", help="Estimate at the cost of at most ten float inferences.")] = False,
    processes: Annotated[int, typer.Option(min=1, help="Processes to share the work; the numbers stay the same.")] = 1,
    on: OnPlace = None,
    samples: MostSamples = None,
    batch: BatchOption = 64,
    data: Data = "calibration",
    allow_code: AllowCode = False,
    json: Json = False,
) -> int:
    """Measure which layers cost accuracy.

    For each layer: the loss from quantizing it alone, and the gain from keeping it alone in float. For the worst: the
    cause, and what helps.
    """
    from toolkit.base.progress import Terminal
    from toolkit.run.analysis.quantizing import Samples
    from toolkit.run.analysis.sensitivity import measure_sensitivity

    with Terminal() as terminal:
        job = _job(recipe, out, with_place(settings, on), allow_code, terminal)
        measured = measure_sensitivity(job, Samples(data, samples, batch), fast, processes)
    if json:
        emit({**measured.found.to_json(), "weak_spots": [_spot(spot) for spot in measured.weak_spots]})
    else:
        _print(measured.found, measured.file, measured.weak_spots, measured.page)
    return 0


def bisect(
    recipe: RecipePath,
    out: Out = None,
    settings: Set = None,
    max_drop: Annotated[float | None, typer.Option(help="Passes if the metric drops by at most this.")] = None,
    min_sqnr_db: Annotated[float | None, typer.Option(help="Passes if every output has this SQNR.")] = None,
    min_agreement: Annotated[float | None, typer.Option(help="Passes if top-1 agreement is at least this.")] = None,
    command: Annotated[
        str | None,
        typer.Option(help="Passes if this command exits 0; {model} is the model.onnx that a run writes, {{x}} is {x}."),
    ] = None,
    reads: Annotated[
        list[Path] | None,
        typer.Option(help="A file or folder that --command reads; if all are given, its verdicts are cached."),
    ] = None,
    samples: MostSamples = None,
    batch: BatchOption = 64,
    data: Data = "calibration",
    repeats: Annotated[
        int, typer.Option(min=1, help="How often to run the check on both extremes, to detect flaky checks.")
    ] = 2,
    precision: Annotated[
        str | None, typer.Option(help="What kept layers run in: fp16, bf16, fp32; default: [engine] rest.")
    ] = None,
    on: Annotated[
        str, typer.Option(help="What is checked: simulation (of the ONNX model), or engine (each built and run here).")
    ] = "simulation",
    allow_code: AllowCode = False,
    json: Json = False,
) -> int:
    """Find a minimal set of layers that must stay in float.

    With these layers in float a check passes: an SQNR, a metric's drop, or your own command.
    """
    from toolkit.base.progress import Terminal
    from toolkit.base.text import count, text_of
    from toolkit.report.findings import sentence
    from toolkit.run.analysis.bisect import BisectLimits, Question, bisect_recipe
    from toolkit.run.analysis.quantizing import Samples

    question = Question(
        BisectLimits(max_drop, min_sqnr_db, min_agreement), command, tuple(reads or ()), on, precision, repeats
    )
    with Terminal() as terminal:
        job = _job(recipe, out, settings or (), allow_code, terminal)
        bisected = bisect_recipe(job, Samples(data, samples, batch), question)
    found = bisected.found
    if json:
        emit(bisected.to_json())
        return 0
    notes = text_of(map(sentence, found.notes))
    if bisected.rest is not None:
        notes += f'Set [engine] rest = "{bisected.rest}".\n'
    on_samples = f" on {count(bisected.samples, f'{bisected.data} sample')}" if bisected.samples else ""
    passes = f"The check passes{on_samples}"
    if not found.kept:
        say(f"{passes} with every layer quantized.\n{notes}".rstrip())
    else:
        names = text_of(f"  {name}" for name in found.kept)
        needed = "every one of them is needed" if len(found.kept) > 1 else "it is needed"
        these = f"these {len(found.kept)}" if len(found.kept) > 1 else "this one"
        said = f"{passes} with {these} of {bisected.layers} layers in float; {needed}."
        say(f"{said}\n{names}{notes}\nPut this before the pass that quantizes:\n\n{bisected.fragment()}")
    if bisected.page is not None:
        say(f"{bisected.page} shows it")
    return 0


def _job(recipe: Path, out: Path | None, settings: Sequence[str], allow_code: bool, terminal: Terminal) -> Job:
    from toolkit.run.folder.run_folder import RunFolder
    from toolkit.run.job import Job
    from toolkit.run.recipe.recipe import Recipe

    read = Recipe.load(recipe, settings)
    return Job(read, RunFolder.of(read.name, out), allow_code, terminal.progress)


def _spot(spot: WeakSpot) -> dict[str, Any]:
    """A weak spot in sentences, for other programs."""
    from toolkit.report.sections.search import cause_info

    causes = [cause_info(cause).model_dump(mode="json") for cause in spot.causes]
    return {"node": spot.node, "blame": spot.blame, "causes": causes}


def _print(found: Sensitivity, target: Path, spots: list[WeakSpot], page: Path | None) -> None:
    """The layers, the most harmful first, why the worst are bad, and where the result is."""
    from toolkit.base.text import count
    from toolkit.report.findings import sentence
    from toolkit.report.findings.words import percent, work_share
    from toolkit.report.terminal.console import make_console, plain_text
    from toolkit.search.causes.weak_spots import alike

    console = make_console()

    def say(text: str) -> None:
        console.print(plain_text(text), soft_wrap=True)

    console.print(_layer_table(found))
    say(f"{work_share(found.quantized_share, found.share_of)} quantized")
    say(
        f"all quantized: {_db(found.full.sqnr_db)} dB of '{found.full.output}' on {count(found.samples, 'sample')}; "
        f"{found.method}, in the time of about {count(max(round(found.inferences), 1), 'float inference')}"
    )
    if found.metric is not None:
        say(f"{found.metric}: float {found.float_metric:.4f}, all quantized {found.full.metric:.4f}")
    for (spot, cause), *others in alike(spots):
        where = f" '{cause.tensor}'" if cause.tensor else ""
        text = f"{spot.node} ({percent(spot.blame, 0)} of the loss):{where} {sentence(cause.why)}"
        also = ", ".join(f"{other.node} ({percent(other.blame, 0)})" for other, _ in others)
        say(f"{text}. Remedy: {sentence(cause.remedy)}." + (f" Likewise: {also}." if also else ""))
    for note in found.notes:
        say(sentence(note))
    say(f"Wrote {target}" + (f"; {page} shows it" if page is not None else ""))


def _layer_table(found: Sensitivity) -> Table:
    """A row per layer, with a column for each figure that was measured."""
    from toolkit.report.findings.words import percent, share_percent
    from toolkit.report.terminal.console import plain_text, table

    several = len({group.output for group in found.groups}) > 1
    share = "MACs" if found.share_of == "macs" else "layers"
    total = sum(group.harm(found.full) for group in found.groups) or 1.0
    columns: dict[str, Callable[[GroupResult], str]] = {
        "alone: dB": lambda group: _db(group.alone.sqnr_db) if group.alone is not None else "",
        "without: dB": lambda group: _db(group.level_in(group.without)) if group.without is not None else "",
        "all: dB": lambda group: _db(group.level_in(found.full)) if several else "",
        "output": lambda group: group.output if several else "",
        "kept alone": lambda group: (
            percent(group.alone.kept) if group.alone is not None and group.alone.kept is not None else ""
        ),
        "KL alone": lambda group: (
            f"{group.alone.kl:.2e}" if group.alone is not None and group.alone.kl is not None else ""
        ),
        share: lambda group: share_percent(group.share),
        "blame": lambda group: share_percent(group.harm(found.full) / total),
    }
    ranked = found.ranked()
    cells = {name: [of(group) for group in ranked] for name, of in columns.items()}
    shown = {name: column for name, column in cells.items() if any(column)}
    grid = table(("layer", "left"), ("op", "left"), *((name, "right") for name in shown))
    for group, row in zip(ranked, zip(*shown.values())):
        grid.add_row(plain_text(group.name), plain_text(group.op), *row)
    return grid


def _db(value: float) -> str:
    return f"{value:.1f}"
