"""Commands that list what is installed: passes, metrics, file schemas, and what this machine can do."""

from __future__ import annotations

from json import dumps
from pathlib import Path
from typing import Annotated, Any

import typer

from toolkit.cli.options import Json
from toolkit.cli.output import emit, say, tell


def passes(
    name: Annotated[str | None, typer.Argument(help="One pass, or your own as module:Name; default: all.")] = None,
    json: Json = False,
) -> int:
    """List the passes installed here, with their settings."""
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
    return dumps(value, default=str)


def metrics(json: Json = False) -> int:
    """List the metrics by task, and the labels that they expect."""
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


def schema(
    what: Annotated[str, typer.Argument(help="report or recipe")] = "report",
) -> int:
    """Print the JSON Schema of report.json or of a recipe."""
    if what == "report":
        from toolkit.report.schema.report import schema

        emit(schema())
    elif what == "recipe":
        from toolkit.run.recipe.recipe import Recipe

        emit(Recipe.model_json_schema(by_alias=True))
    else:
        from toolkit.base.errors import QtoolError

        raise QtoolError(f"there is no schema for '{what}'", remedy="ask for 'report' or 'recipe'")
    return 0


def doctor(json: Json = False) -> int:
    """Show what this machine can build, run and measure.

    Lists what is installed, what qtool can do with it, and how to fix the rest.
    """
    from toolkit.run.checks.doctor import examine

    found = examine()
    tell(found, json)
    return 1 if found.missing else 0
