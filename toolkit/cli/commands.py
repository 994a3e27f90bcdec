"""What the commands do, without typer: each returns an exit status and prints to standard output."""

from __future__ import annotations

import json as json_module
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolkit.base.errors import QtoolError
from toolkit.base.text import plain_lines, shell_word

if TYPE_CHECKING:
    from toolkit.run.results.rendered import Rendered


def emit(content: Any) -> None:
    """Print JSON; everything that is not ASCII is escaped, including control characters in names."""
    sys.stdout.write(json_module.dumps(content, indent=1, default=str) + "\n")


def say(text: str) -> None:
    """Print a line of text, with control characters in names made visible."""
    sys.stdout.write(plain_lines(text.removesuffix("\n")) + "\n")


def run_recipe(
    recipe: Path,
    out: Path | None,
    settings: Sequence[str],
    allow_code: bool,
    json: bool,
    device_check: bool | None = None,
) -> int:
    """``qtool run``: quantize, build and judge; print the report. Returns the exit status."""
    from toolkit.base.progress import Terminal
    from toolkit.report.findings import sentence
    from toolkit.report.terminal.report import print_report
    from toolkit.run.pipeline import run
    from toolkit.run.recipe.recipe import Recipe

    asked = Recipe.load(recipe, settings)
    with Terminal(sentence) as terminal:
        result = run(
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


def preview_run(
    recipe: Path, out: Path | None, settings: Sequence[str], allow_code: bool, json: bool, device_check: bool | None
) -> int:
    """``qtool run --dry-run``."""
    from toolkit.run.preview import preview
    from toolkit.run.recipe.recipe import Recipe

    found = preview(Recipe.load(recipe, settings), out, allow_code=allow_code, device_check=device_check)
    if json:
        emit(found.to_json())
    else:
        say(found.to_text())
    return 0


def check_recipe(path: Path, settings: Sequence[str], allow_code: bool, json: bool) -> int:
    """``qtool check``: print what a run would do, without calibrating or building. Returns the exit status."""
    from toolkit.base.progress import Lines
    from toolkit.run.checks.dry_run import dry_run
    from toolkit.run.recipe.recipe import Recipe

    lines = Lines(partial(print, file=sys.stderr))
    found = dry_run(Recipe.load(path, settings), allow_code, lines.progress)
    if json:
        emit(found.to_json())
    else:
        say(found.to_text())
    return 0


def new_recipe(
    model: Path, data: Path | None, test: Path | None, metric: str | None, ranges: Path | None, out: Path | None,
    force: bool, json: bool = False, keep_pairs: bool = False,
) -> int:  # fmt: skip
    """``qtool new``: write a recipe that fits a model and its samples. Returns the exit status."""
    from toolkit.base.errors import ModelError
    from toolkit.base.files import write_text
    from toolkit.base.reading import FileKind, reading
    from toolkit.graph.files.onnx_file import refuse_recipe
    from toolkit.report.findings import sentence
    from toolkit.run.folder.guard import refuse_writing_over
    from toolkit.run.new.new_recipe import inputs_of, recipe_for

    refuse_recipe(model)
    target = out if out is not None else Path(f"{model.stem}.toml")
    refuse_writing_over(inputs_of(model, data, test, ranges), target)
    if target.exists() and not force:
        raise QtoolError(
            "the recipe already exists", where=str(target), remedy="give another --out, or --force to overwrite it"
        )
    # the model could be read, so later failures need not be its fault
    kind = FileKind("no recipe can be made for the model", ModelError, "write one by hand, and report it with --debug")
    with reading(model, kind):
        made = recipe_for(model, target, data, test, metric, ranges, keep_pairs)
    write_text(target, made.text)
    if json:
        emit({"recipe": str(target), **made.to_json()})
        return 0
    lines = [sentence(one) for one in made.said] + [f"Warning: {sentence(one)}" for one in made.warnings]
    say("\n".join([str(target), *lines, f"next: qtool check {shell_word(target)}"]))
    return 0


def migrate_source(
    words: list[str], model: Path | None, cache: Path | None, data: Path | None, test: Path | None, rest: str | None,
    to: str, release: str, capabilities: list[str], out: Path | None, force: bool, json: bool,
) -> int:  # fmt: skip
    """``qtool migrate``: turn other tools' settings into a recipe and a model. Returns the exit status."""
    from toolkit.run.migrate.migrate import MigrationRequest, migrate

    found = migrate(
        MigrationRequest(
            words=tuple(words),
            model=model,
            cache=cache,
            data=data,
            test=test,
            rest=rest,
            to=to,
            release=release,
            capabilities=tuple(capabilities),
            out=out,
            force=force,
        )
    )
    if json:
        emit(found.to_json())
    else:
        say(found.to_text())
    return found.exit_status


def list_passes(name: str | None, json: bool) -> int:
    """``qtool passes``: print the installed passes with their settings. Returns the exit status."""
    from toolkit.base.code import import_path
    from toolkit.contract.installed import installed_passes
    from toolkit.contract.registry import find_pass

    names = [name] if name else sorted(installed_passes())
    # naming module:Name here is consent to run that module
    with import_path(Path.cwd() if name and ":" in name else None):
        kinds = {n: find_pass(n, allow_code=True) for n in names}
    if json:
        emit({n: {"doc": _first_line(kind), "settings": kind.model_json_schema()} for n, kind in kinds.items()})
        return 0
    for n, kind in kinds.items():
        say(f"{n}\n    {_first_line(kind)}")
        properties = kind.model_json_schema()["properties"] if kind.model_fields else {}
        for key, spec in kind.model_fields.items():
            default = (
                "required" if spec.is_required() else f"default {_plain(spec.get_default(call_default_factory=True))}"
            )
            allowed = _allowed(properties[key])
            default = f"{' | '.join(allowed)}; {default}" if allowed else default
            text = f": {spec.description}" if spec.description else ""
            say(f"    {key} ({default}){text}")
    return 0


def list_metrics(json: bool) -> int:
    """``qtool metrics``: print the built-in metrics with the labels they expect. Returns the exit status."""
    from dataclasses import asdict

    from toolkit.evaluation.metrics.table import METRICS

    if json:
        emit({name: asdict(info) for name, info in METRICS.items()})
        return 0
    for task in dict.fromkeys(info.task for info in METRICS.values()):
        say(task)
        for name, info in METRICS.items():
            if info.task == task:
                way = "" if info.higher_is_better else "; less is better"
                extra = f" (pip install 'qtool[{info.extra}]')" if info.extra else ""
                say(f"    {name}: {info.measures}{way}{extra}\n        label: {info.labels}")
    say("Labels are stored under 'label', samples along the first axis; a metric of your own is module:Name.")
    return 0


def _allowed(schema: dict[str, Any]) -> list[str]:
    """The values that a setting, or each of its entries, may have, if they are enumerated."""
    if "const" in schema:
        return [_plain(schema["const"])]
    if "enum" in schema:
        return [_plain(value) for value in schema["enum"]]
    if "items" in schema:
        return _allowed(schema["items"])
    return [value for part in schema.get("anyOf", ()) for value in _allowed(part)]


def _first_line(kind: type) -> str:
    return (kind.__doc__ or "").strip().splitlines()[0] if kind.__doc__ else ""


def _plain(value: Any) -> str:
    return json_module.dumps(value, default=str)


def inspect_file(path: Path, json: bool) -> int:
    """``qtool inspect``: print what a file contains. Returns the exit status."""
    from toolkit.run.results.inspect import inspect

    return _show(inspect(path), json)


def explain_node(folder: Path, node: str, json: bool) -> int:
    """``qtool explain``: print why a node, or the run, came out as it did. Returns the exit status."""
    from toolkit.run.results.inspect import explain_node

    return _show(explain_node(folder, node), json)


def compare_runs(runs: Sequence[Path], html: Path | None, json: bool) -> int:
    """``qtool compare``: print how runs, or files of ranges, differ from the first. Returns the exit status."""
    from toolkit.run.results.inspect import compare_files

    return _show(compare_files(runs, html), json)


def _show(found: Rendered, json: bool) -> int:
    """Print what is in a file, warnings first; with ``json`` they go to standard error."""
    for warning in found.warnings:
        (sys.stderr if json else sys.stdout).write(plain_lines(f"Warning: {warning}") + "\n")
    if json:
        emit(found.content)
    else:
        say(found.text)
    return 0


def print_schema(what: str) -> int:
    """``qtool schema``: print a JSON schema. Returns the exit status."""
    if what == "report":
        from toolkit.report.schema.report import schema

        emit(schema())
    elif what == "recipe":
        from toolkit.run.recipe.recipe import Recipe

        emit(Recipe.model_json_schema(by_alias=True))
    else:
        raise QtoolError(f"there is no schema for '{what}'", remedy="ask for 'report' or 'recipe'")
    return 0
