"""Arguments and options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

RecipePath = Annotated[Path, typer.Argument(help="The recipe, a TOML file.", show_default=False)]
Out = Annotated[Path | None, typer.Option("--out", help="The run folder. Default: runs/<recipe name>.")]
Json = Annotated[bool, typer.Option("--json", help="Print the machine form.")]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="SECTION.KEY=VALUE",
        help="A line in place of the recipe's, such as engine.rest=fp32; of a pass pass.NAME.KEY=VALUE. Repeatable.",
        show_default=False,
    ),
]
OnPlace = Annotated[
    str | None,
    typer.Option(
        help="As --set run.on: where the work is done, here, ray or ray://host:port; the results are the same.",
        show_default=False,
    ),
]
AllowCode = Annotated[bool, typer.Option("--allow-code", help="Let the recipe run code of its author (module:Name).")]


def with_place(settings: list[str] | None, on: str | None) -> list[str]:
    """The settings with that of ``--on``."""
    return [*(settings or ()), *([f"run.on={on}"] if on is not None else ())]
