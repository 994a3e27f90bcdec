"""The source of a migration: a command line, a script, a calibration cache or a quantized model."""

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
"""Packages that quantize models but build no engines."""
_ONNX = re.compile(r"[^\s\"'=,()]+\.onnx(?![\w.])")


@dataclass
class MigrationSource:
    """The source of a migration.

    Attributes:
        kind: the kind of source.
        name: its name in messages.
        orders: its instructions.
        folders: folders to which its relative paths may refer, the likeliest first.
        model: the model, if the source is one.
    """

    kind: Kind
    name: str
    orders: list[Order]
    folders: list[Path] = field(default_factory=lambda: [Path()])
    model: Path | None = None

    def find(self, named: str, what: str, option: str, otherwise: str = "") -> Path:
        """Find a file that the source names, relative to the working directory or to the source's folder.

        Args:
            named: the path in the source.
            what: a description of the file for the message.
            option: the option to give another file.
            otherwise: a further remedy for the message.

        Raises:
            QtoolError: the file does not exist, or is a folder.
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
    """Read the ranges in a calibration cache or a similar file.

    Raises:
        RangesError: it cannot be read; ``remedy`` is the advice for other kinds of files.
    """
    try:
        return read_ranges(path)
    except RangesError as error:
        with path.open("rb") as stream:
            if stream.read(16).removeprefix(BOM_UTF8).startswith((b"TRT-", b"{")):
                raise
        raise RangesError(error.what, where=error.where, remedy=remedy) from error


def read_source(words: Sequence[str]) -> MigrationSource:
    """Identify the source by its content and read it.

    Args:
        words: one path, a script with its arguments, or a command line, as words or as one string.

    Raises:
        QtoolError: it is none of these, or cannot be parsed.
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
    # relative paths in a script refer to where it runs: its own folder, if it changes to there
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
    """A cache or a model as the source: it implies INT8, and says nothing else about how an engine was built."""
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
    """Refuse a script or command that quantizes a model without building an engine; the error suggests an alternative.

    Raises:
        QtoolError: it is such a script or command.
    """
    if (tool := _QUANTIZERS.search(text)) is None:
        return
    named = _ONNX.search(text)
    model = named[0] if named is not None else "MODEL.onnx"
    raise QtoolError(
        f"it quantizes a model with {tool[0]} but does not configure TensorRT's builder",
        where=where,
        remedy=f"run qtool new {model} --data SAMPLES, whose recipe finds which layers can run in INT8; or migrate the "
        "model with Q/DQ pairs that it wrote: qtool migrate QUANTIZED.onnx",
    )
