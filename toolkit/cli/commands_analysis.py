"""What ``qtool sensitivity`` and ``qtool bisect`` do, without typer: each returns an exit status."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.table import Table

    from toolkit.base.progress import Terminal
    from toolkit.run.job import Job
    from toolkit.search.causes.weak_spots import WeakSpot
    from toolkit.search.sensitivity.measure import GroupResult, Sensitivity


def _job(recipe: Path, out: Path | None, settings: Sequence[str], allow_code: bool, terminal: Terminal) -> Job:
    from toolkit.run.folder.run_folder import RunFolder
    from toolkit.run.job import Job
    from toolkit.run.recipe.recipe import Recipe

    read = Recipe.load(recipe, settings)
    return Job(read, RunFolder.of(read.name, out), allow_code, terminal.progress)


def sensitivity(
    recipe: Path, out: Path | None, settings: Sequence[str], fast: bool, processes: int, samples: int | None,
    batch: int, data: str, allow_code: bool, json: bool,
) -> int:  # fmt: skip
    """``qtool sensitivity``: measure what quantizing each layer costs. Returns the exit status."""
    from toolkit.base.progress import Terminal
    from toolkit.cli.commands import emit
    from toolkit.run.analysis.quantizing import Samples
    from toolkit.run.analysis.sensitivity import measure_sensitivity

    with Terminal() as terminal:
        job = _job(recipe, out, settings, allow_code, terminal)
        measured = measure_sensitivity(job, Samples(data, samples, batch), fast, processes)
    if json:
        emit({**measured.found.to_json(), "weak_spots": [_spot(spot) for spot in measured.weak_spots]})
    else:
        _print(measured.found, measured.file, measured.weak_spots, measured.page)
    return 0


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
    from toolkit.report.terminal.console import one_line, table

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
        grid.add_row(one_line(group.name), one_line(group.op), *row)
    return grid


def _db(value: float) -> str:
    return f"{value:.1f}"


def bisect(
    recipe: Path, out: Path | None, settings: Sequence[str], max_drop: float | None, min_sqnr_db: float | None,
    min_agreement: float | None, command: str | None, reads: tuple[Path, ...], samples: int | None, batch: int,
    data: str, repeats: int, precision: str | None, allow_code: bool, on: str, json: bool,
) -> int:  # fmt: skip
    """``qtool bisect``: find a minimal set of layers to keep in float. Returns the exit status."""
    from toolkit.base.progress import Terminal
    from toolkit.base.text import count
    from toolkit.cli.commands import emit, say
    from toolkit.report.findings import sentence
    from toolkit.run.analysis.bisect import BisectLimits, Question, bisect_recipe
    from toolkit.run.analysis.quantizing import Samples

    question = Question(BisectLimits(max_drop, min_sqnr_db, min_agreement), command, reads, on, precision, repeats)
    with Terminal() as terminal:
        job = _job(recipe, out, settings, allow_code, terminal)
        bisected = bisect_recipe(job, Samples(data, samples, batch), question)
    found = bisected.found
    if json:
        emit(bisected.to_json())
        return 0
    notes = "".join(f"{sentence(note)}\n" for note in found.notes)
    if bisected.rest is not None:
        notes += f'Set [engine] rest = "{bisected.rest}".\n'
    on_samples = f" on {count(bisected.samples, f'{bisected.data} sample')}" if bisected.samples else ""
    passes = f"The check passes{on_samples}"
    if not found.kept:
        say(f"{passes} with every layer quantized.\n{notes}".rstrip())
    else:
        names = "".join(f"  {name}\n" for name in found.kept)
        needed = "every one of them is needed" if len(found.kept) > 1 else "it is needed"
        these = f"these {len(found.kept)}" if len(found.kept) > 1 else "this one"
        said = f"{passes} with {these} of {bisected.layers} layers in float; {needed}."
        say(f"{said}\n{names}{notes}\nPut this before the pass that quantizes:\n\n{bisected.fragment()}")
    if bisected.page is not None:
        say(f"{bisected.page} shows it")
    return 0
