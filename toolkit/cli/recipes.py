"""Commands that write a recipe, run one, or calibrate with it."""

from __future__ import annotations

import re
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from toolkit.cli.options import AllowCode, Json, OnPlace, Out, RecipePath, Set, refuse_idle, with_place
from toolkit.cli.output import emit, say, tell

if TYPE_CHECKING:
    from toolkit.calibration.collection import Collection


def run(
    recipe: RecipePath,
    out: Out = None,
    settings: Set = None,
    backend: Annotated[
        str | None,
        typer.Option(help="As --set engine.backend: auto, tensorrt, tensorrt_rtx or none.", show_default=False),
    ] = None,
    allow_code: AllowCode = False,
    device_check: Annotated[
        bool | None,
        typer.Option(
            "--device-check/--no-device-check",
            help="Require a run of the engine on this machine's GPU, or skip it. Default: run if there is one.",
            show_default=False,
        ),
    ] = None,
    open_blocks: Annotated[
        bool,
        typer.Option("--open", help="Rebuild opaque blocks with inner tensors marked, to see their precision."),
    ] = False,
    gpu: Annotated[
        str | None,
        typer.Option(help="As --set report.gpu: predict the time on this GPU, such as L4.", show_default=False),
    ] = None,
    on: OnPlace = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would be done and what would be reused, and why.")
    ] = False,
    json: Json = False,
) -> int:
    """Run a recipe: calibrate, quantize, build, measure, report."""
    from toolkit.base.progress import Terminal
    from toolkit.report.findings import sentence
    from toolkit.report.terminal.report import print_report
    from toolkit.run.pipeline import run as run_recipe
    from toolkit.run.preview import preview
    from toolkit.run.recipe.recipe import Recipe

    given = [*with_place(settings, on), *([f"engine.backend={backend}"] if backend is not None else ())]
    given += ["engine.open=true"] if open_blocks else []
    given += [f"report.gpu={gpu}"] if gpu is not None else []
    asked = Recipe.load(recipe, given)
    if dry_run:
        tell(preview(asked, out, allow_code=allow_code, device_check=device_check), json)
        return 0
    with Terminal(sentence) as terminal:
        result = run_recipe(
            asked,
            out,
            allow_code=allow_code,
            progress=terminal.progress,
            on_step=terminal.step,
            device_check=device_check,
        )
    if json:
        emit({**result.report.to_json(), "exit_status": result.exit_status, "folder": str(result.folder)})
    else:
        print_report(result.report.model_copy(update={"steps": result.steps}), files=result.files)
    return result.exit_status


def check(recipe: RecipePath, settings: Set = None, allow_code: AllowCode = False, json: Json = False) -> int:
    """Read a recipe and show what a run would do.

    Reads the model and all samples; calibrates and builds nothing.
    """
    from toolkit.base.progress import Lines
    from toolkit.run.checks.dry_run import dry_run
    from toolkit.run.recipe.recipe import Recipe

    lines = Lines(partial(print, file=sys.stderr))
    found = dry_run(Recipe.load(recipe, settings or ()), allow_code, lines.progress)
    tell(found, json)
    return 0


def new(
    model: Annotated[Path, typer.Argument(help="An ONNX model.", show_default=False)],
    data: Annotated[Path | None, typer.Option(help="Calibration data; profiles are derived from its shapes.")] = None,
    test: Annotated[Path | None, typer.Option(help="Test data with labels.")] = None,
    metric: Annotated[str | None, typer.Option(help="The metric for the test data; see `qtool metrics`.")] = None,
    ranges: Annotated[
        Path | None, typer.Option(help="Ranges to use: a calibration cache or a table; then no data is needed.")
    ] = None,
    keep_pairs: Annotated[
        bool, typer.Option("--keep-pairs", help="Build a model that has Q/DQ pairs as it is.")
    ] = False,
    out: Annotated[Path | None, typer.Option("--out", help="The recipe to write. Default: <model>.toml here.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite an existing recipe.")] = False,
    json: Json = False,
) -> int:
    """Write a recipe that fits a model."""
    from toolkit.base.errors import ModelError
    from toolkit.base.files import write_text
    from toolkit.base.reading import FileKind, reading
    from toolkit.base.text import shell_word, text_of
    from toolkit.graph.files.onnx_file import refuse_recipe
    from toolkit.report.findings import sentence
    from toolkit.run.folder.guard import refuse_writing_over
    from toolkit.run.new.new_recipe import inputs_of, recipe_for
    from toolkit.run.recipe.overwriting import refuse_overwriting

    refuse_recipe(model)
    target = out if out is not None else Path(f"{model.stem}.toml")
    refuse_writing_over(inputs_of(model, data, test, ranges), target)
    refuse_overwriting(target, force)
    # the model could be read, so later failures need not be its fault
    kind = FileKind("no recipe can be made for the model", ModelError, "write one by hand, and report it with --debug")
    with reading(model, kind):
        made = recipe_for(model, target, data, test, metric, ranges, keep_pairs)
    write_text(target, made.text)
    if json:
        emit({"recipe": str(target), **made.to_json()})
        return 0
    lines = [sentence(one) for one in made.said] + [f"Warning: {sentence(one)}" for one in made.warnings]
    say(text_of([str(target), *lines, f"next: qtool check {shell_word(target)}"]))
    return 0


def migrate(
    context: typer.Context,
    source: Annotated[
        list[str],
        typer.Argument(
            help="A trtexec or polygraphy command line, as it is or in a script; a Python script with its "
            "arguments; a calibration cache; or a model with Q/DQ pairs.",
            show_default=False,
        ),
    ],
    model: Annotated[Path | None, typer.Option(help="The ONNX model, where the source names none.")] = None,
    cache: Annotated[Path | None, typer.Option(help="The calibration cache, where the source names none.")] = None,
    data: Annotated[Path | None, typer.Option(help="Calibration samples, where there are no ranges.")] = None,
    test: Annotated[Path | None, typer.Option(help="Samples to measure both forms on.")] = None,
    rest: Annotated[
        str | None, typer.Option(help="The float type, where a cache or a model sets none. Default: fp16.")
    ] = None,
    to: Annotated[
        str, typer.Option(help="explicit; or implicit, to convert a model with pairs or a run folder back.")
    ] = "explicit",
    release: Annotated[
        str, typer.Option("--tensorrt", help="--to implicit: the release of TensorRT that reads the cache.")
    ] = "8.6.0",
    capability: Annotated[
        list[str] | None, typer.Option(help="Compute capability of a GPU that the engine is for, such as 8.6.")
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", help="The folder. Default: migrated/<model>.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite an earlier migration.")] = False,
    json: Json = False,
) -> int:
    """Turn trtexec lines, scripts and caches into a recipe.

    The settings of TensorRT's builder become an equivalent recipe and Q/DQ model; nothing is run.
    """
    from toolkit.run.migrate.migrate import MigrationRequest
    from toolkit.run.migrate.migrate import migrate as migrate_source

    if to == "implicit":
        back = "with --to implicit, everything written comes from the model's pairs"
        refuse_idle(context, ("model", "cache", "data", "test", "rest", "capability"), back)
    else:
        refuse_idle(context, ("release",), "it is the release that --to implicit writes a cache for")
    found = migrate_source(
        MigrationRequest(
            words=tuple(source),
            model=model,
            cache=cache,
            data=data,
            test=test,
            rest=rest,
            to=to,
            release=release,
            capabilities=tuple(capability or ()),
            out=out,
            force=force,
        )
    )
    tell(found, json)
    return found.exit_status


def calibrate(
    recipe: RecipePath,
    shard: Annotated[str | None, typer.Option(help="Take only a share of the samples: i/n, such as 2/8.")] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="The file to write. Default: runs/<recipe>/collection[-i-of-n].npz.")
    ] = None,
    settings: Set = None,
    on: OnPlace = None,
    allow_code: AllowCode = False,
    json: Json = False,
) -> int:
    """Collect calibration statistics on all samples or a share.

    [calibration] collection then uses them instead of running the model.
    """
    from toolkit.base.progress import Terminal
    from toolkit.run.calibrate import collect_shard
    from toolkit.run.folder.run_folder import RunFolder
    from toolkit.run.job import Job
    from toolkit.run.recipe.recipe import Recipe

    read = Recipe.load(recipe, with_place(settings, on))
    part = _shard(shard)
    suffix = f"-{part[0]}-of-{part[1]}" if part[1] > 1 else ""
    folder = RunFolder.of(read.name, None)
    target = out if out is not None else folder.path / f"collection{suffix}.npz"
    with Terminal() as terminal:
        found = collect_shard(Job(read, folder, allow_code, terminal.progress), part, target)
    if json:
        emit({"file": str(target), **_counts(found)})
    else:
        say(f"{target}: {_words(found)}")
    return 0


def merge(
    parts: Annotated[list[Path], typer.Argument(help="What calibrate --shard wrote.", show_default=False)],
    out: Annotated[Path, typer.Option("--out", help="The file to write.", show_default=False)],
    json: Json = False,
) -> int:
    """Join the statistics of all shards of a calibration."""
    from toolkit.calibration.collection import Collection, merge_all
    from toolkit.calibration.collection_file import is_collection
    from toolkit.run.folder.guard import refuse_anothers, refuse_writing_over

    refuse_writing_over({f"a part to be merged ({path})": path for path in parts}, out)
    refuse_anothers(out, is_collection)
    found = merge_all(Collection.load(path) for path in parts)
    found.save(out)
    missing = found.missing_parts
    if json:
        emit({"file": str(out), **_counts(found), "missing": missing})
    else:
        say(f"{out}: {_words(found)}" + (f"\nstill missing: parts {', '.join(missing)}" if missing else ""))
    return 0


def _shard(text: str | None) -> tuple[int, int]:
    from toolkit.base.errors import QtoolError, shortened
    from toolkit.calibration.collection import MOST_SHARDS

    if text is None:
        return 1, 1
    match = re.fullmatch(r"([0-9]{1,9})/([0-9]{1,9})", text.strip())
    part, of = (int(match[1]), int(match[2])) if match else (0, 0)
    if not 1 <= part <= of <= MOST_SHARDS:
        raise QtoolError(
            f"--shard is '{shortened(text)}'",
            remedy=f"write i/n, such as 1/4, with i from 1 to n, and n at most {MOST_SHARDS}",
        )
    return part, of


def _counts(found: Collection) -> dict[str, Any]:
    return {
        "samples": sum(found.samples.values()),
        "profiles": {name: found.samples_of(name) for name in found.profiles},
        "tensors": len(found.tensors),
        "observed": len(found.observed),
        "parts": found.made_from.get("shards", []),
    }


def _words(found: Collection) -> str:
    from toolkit.base.text import count, samples_by_profile

    counts = _counts(found)
    samples = samples_by_profile(counts["samples"], counts["profiles"])
    return f"{samples}, histograms of {count(counts['tensors'], 'tensor')}, extremes of {counts['observed']} more"
