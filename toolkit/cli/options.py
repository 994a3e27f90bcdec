"""Arguments and options that several commands share."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer

RecipePath = Annotated[Path, typer.Argument(help="The recipe, a TOML file.", show_default=False)]
Out = Annotated[Path | None, typer.Option("--out", help="The run folder. Default: runs/<recipe name>.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="SECTION.KEY=VALUE",
        help="Override a line of the recipe, such as engine.rest=fp32; of a pass, pass.NAME.KEY=VALUE. Repeatable.",
        show_default=False,
    ),
]
OnPlace = Annotated[
    str | None,
    typer.Option(
        help="As --set run.on: where the work is done: here, ray or ray://host:port; the results are the same.",
        show_default=False,
    ),
]
AllowCode = Annotated[bool, typer.Option("--allow-code", help="Let the recipe run its author's code (module:Name).")]


def with_place(settings: list[str] | None, on: str | None) -> list[str]:
    """The settings with ``--on`` added as run.on."""
    return [*(settings or ()), *([f"run.on={on}"] if on is not None else ())]


def refuse_idle(context: typer.Context, names: Iterable[str], why: str) -> None:
    """Refuse options that are given on the command line but have no effect.

    Args:
        context: the command as it was called.
        names: the parameters of its function.
        why: the reason that they have no effect.

    Raises:
        QtoolError: one of them is given.
    """
    from toolkit.base.errors import QtoolError
    from toolkit.base.settings import without_effect

    for parameter in context.command.params:
        source = context.get_parameter_source(parameter.name or "")
        # compared by name: newer releases of typer have their own copy of click
        if parameter.name in names and source is not None and source.name == "COMMANDLINE":
            value, option = context.params[parameter.name], parameter.opts[0]
            said = f"{option} {' '.join(map(str, value)) if isinstance(value, list) else value}"
            what, remedy = without_effect(option if value is True else said, why, option)
            raise QtoolError(what, remedy=remedy)
