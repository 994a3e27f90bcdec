"""Arguments and options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

RecipePath = Annotated[Path, typer.Argument(help="The recipe, a TOML file.", show_default=False)]
Out = Annotated[Path | None, typer.Option("--out", help="The run folder. Default: runs/<recipe name>.")]
Json = Annotated[bool, typer.Option("--json", help="Print the machine form.")]
AllowCode = Annotated[bool, typer.Option("--allow-code", help="Let the recipe run code of its author (module:Name).")]
