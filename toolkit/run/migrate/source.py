"""What the user gives to migrate: a command line, a script, a calibration cache or a quantized model."""

from __future__ import annotations

import re
import shlex
from codecs import BOM_UTF8
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path, PureWindowsPath
from typing import Literal

from toolkit.base.errors import QtoolError, RangesError
from toolkit.base.reading import FileKind, read_utf8
from toolkit.calibration.interchange import read_ranges
from toolkit.contract.ranges import Ranges
from toolkit.run.folder.guard import refuse_missing
from toolkit.run.migrate.orders.order import Order
from toolkit.run.migrate.orders.terms import Term
from toolkit.run.migrate.python_scripts.notebook import notebook_code
from toolkit.run.migrate.python_scripts.script import joined_orders, orders_of_script
from toolkit.run.migrate.shell_scripts.command import (
    TOOLS,
    Command,
    orders_of_command,
    orders_of_commands,
    tool_of,
    without_variables,
)
from toolkit.run.migrate.shell_scripts.shell import read_shell

Kind = Literal["command", "script", "cache", "model"]
_TEXT = FileKind("it cannot be read as text", QtoolError, "give a script, a calibration cache or a model", 1 << 26)
_PYTHON = re.compile(r"python[0-9.]*")
_QUANTIZERS = re.compile(
    r"\b(?:modelopt|ammo|onnxruntime\.quantization|pytorch_quantization|neural_compressor|aimet_\w+|onnx_neural_compressor"
    r"|quark|olive)\b"
)
"""Packages that quantize models and build no engines."""
_ONNX = re.compile(r"[^\s\"'=,()]+\.onnx(?![\w.])")


@dataclass
class MigrationSource:
    """What is migrated.

    Attributes:
        kind: what it is.
        name: its name in messages.
        orders: its instructions.
        folders: where relative paths in it may start, the likeliest first.
        model: the model, where the source is one itself.
    """

    kind: Kind
    name: str
    orders: list[Order]
    folders: list[Path] = field(default_factory=lambda: [Path()])
    model: Path | None = None

    def find(self, named: str, what: str, option: str, otherwise: str = "") -> Path:
        """A file that the source names, from where the command is given or where the source lies.

        Args:
            named: the file's path there.
            what: what the file is, for the message.
            option: the option that gives another one.
            otherwise: what helps too where there is none.

        Raises:
            QtoolError: it is not there, or a folder.
        """
        for folder in self.folders:
            if (path := folder / named).is_file():
                return path
            if path.is_dir():
                raise QtoolError(
                    f"{what} of {self.name} is a folder: {path}",
                    remedy=f"give a file with {option}; samples are given with --data",
                )
        beside = (folder / PureWindowsPath(named).name for folder in self.folders)
        near = next((path for path in beside if path.is_file()), None)
        hint = f", as {option} {near} if that is it" if near is not None else ""
        remedy = f"give it with {option}{hint}{otherwise}"
        raise QtoolError(f"no such file: {named}, {what} of {self.name}", remedy=remedy)


def cached_ranges(path: Path, remedy: str) -> Ranges:
    """The ranges in a calibration cache or a file like it.

    Raises:
        RangesError: it cannot be read; ``remedy`` says what to do where it is not such a file.
    """
    try:
        return read_ranges(path)
    except RangesError as error:
        with path.open("rb") as stream:
            if stream.read(16).removeprefix(BOM_UTF8).startswith((b"TRT-", b"{")):
                raise
        raise RangesError(error.what, where=error.where, remedy=remedy) from error


def read_source(words: Sequence[str]) -> MigrationSource:
    """Identify what was given by its content, and read it.

    Args:
        words: one path, a script with its arguments, or a command line, in words or as one text.

    Raises:
        QtoolError: it is none of these, or does not parse.
    """
    plain = list(words)
    if plain and _PYTHON.fullmatch(Path(plain[0]).name) and plain[1:2] and plain[1].endswith(".py"):
        plain = plain[1:]
    if not plain:
        raise QtoolError("there is nothing to migrate", remedy="give a command line, a script, a cache or a model")
    named = without_variables(plain)
    if named and tool_of(named[0]):
        return MigrationSource("command", tool_of(named[0]), orders_of_command(plain))
    path = Path(plain[0])
    if len(plain) == 1 and not path.exists() and any(tool in plain[0] for tool in TOOLS):
        return _of_shell(plain[0], "the command", [Path()])
    if not path.exists():
        _refuse_quantizers(" ".join(plain), "")
    refuse_missing(path, f"'{plain[0]}' is neither a file nor a command of {' or '.join(TOOLS)}")
    if path.suffix.lower() == ".onnx":
        return _alone("model", path, plain[1:], Order(Term.MODEL, str(path), str(path)))
    text = read_utf8(path, _TEXT)
    # relative files of a script start where it runs: beside itself, if it changes to there
    folders = [path.parent, Path()] if 'cd "$(dirname' in text else [Path(), path.parent]
    suffix = path.suffix.lower()
    if suffix == ".ipynb":
        text = notebook_code(text, str(path))
    if suffix in (".py", ".ipynb"):
        orders = orders_of_script(text, str(path), plain[1:])
        if not orders:
            _refuse_quantizers(text, str(path))
            raise QtoolError(
                "it has no call of TensorRT's or Polygraphy's Python API, and no command of theirs",
                where=str(path),
                remedy="give the script that calls the builder, or the command line that does the same",
            )
        return MigrationSource("script", str(path), orders, folders)
    if any(tool in text for tool in TOOLS) and not text.lstrip().startswith(("TRT-", "{")):
        return _of_shell(text, str(path), folders, plain[1:])
    if not text.lstrip().startswith(("TRT-", "{")):
        _refuse_quantizers(text, str(path))
    cached_ranges(path, "give a script, a command line, a calibration cache or a model")
    return _alone("cache", path, plain[1:], Order(Term.CACHE, str(path.absolute()), str(path)))


def _alone(kind: Kind, path: Path, more: Sequence[str], order: Order) -> MigrationSource:
    """A cache or a model: it implies INT8, and tells nothing else about how an engine was built."""
    if more:
        raise QtoolError(
            f"'{shlex.join(more)}' follows {path}", remedy="give the model with --model and a cache with --cache"
        )
    model = path if kind == "model" else None
    return MigrationSource(kind, str(path), [order, Order(Term.INT8, None, str(path))], model=model)


def _of_shell(text: str, name: str, folders: list[Path], arguments: Sequence[str] = ()) -> MigrationSource:
    try:
        found = read_shell(text, arguments)
    except QtoolError as error:
        raise QtoolError(error.what, where=f"{name}, {error.where}", remedy=error.remedy) from error
    commands = [Command(line, words) for line, words in found.commands]
    orders = orders_of_commands(commands, name)
    for line, code in found.python:
        orders = joined_orders(orders_of_script(code, name, (), line), orders)
    if not orders:
        raise QtoolError(
            f"it has no command of {' or '.join(TOOLS)}", where=name, remedy="give the command line itself"
        )
    return MigrationSource("command", name, orders, folders)


def _refuse_quantizers(text: str, where: str) -> None:
    """Refuse a script or command that quantizes a model and builds no engine from it, with what to do instead.

    Raises:
        QtoolError: it is one.
    """
    if (tool := _QUANTIZERS.search(text)) is None:
        return
    named = _ONNX.search(text)
    model = named[0] if named is not None else "MODEL.onnx"
    raise QtoolError(
        f"it quantizes a model with {tool[0]}, and does not set up TensorRT's builder",
        where=where,
        remedy=f"run qtool new {model} --data SAMPLES, whose recipe finds which layers can run in INT8; or migrate the "
        "model with Q/DQ pairs that it wrote: qtool migrate QUANTIZED.onnx",
    )
