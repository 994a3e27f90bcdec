"""The text of a migration's recipe."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from toolkit.base.precision import Precision
from toolkit.base.text import literal_glob, shell_word, toml_key, toml_string
from toolkit.contract.registry import pass_name
from toolkit.contract.roles import Role
from toolkit.graph.model import Model
from toolkit.placement.quantized import pair_count
from toolkit.run.checks.gpu_types import types_of_pairs
from toolkit.run.migrate.orders.entries import Settled
from toolkit.run.migrate.pairs import float_layers
from toolkit.run.new.metric import new_evaluation
from toolkit.run.new.new_recipe import paired_unusably, relative
from toolkit.run.new.ranges import EVALUATION

_METHOD = "entropy"


def recipe_text(
    settled: Settled,
    model: Model,
    target: Path,
    *,
    model_path: Path,
    ranges: Path | None,
    paired: bool,
    data: Path | None,
    test: Path | None,
    about: Sequence[str] = (),
) -> str:
    """The recipe's text.

    Args:
        settled: the settings that it must contain.
        target: the path of the recipe; its paths are relative to that folder.
        ranges: the file of ranges; None if there is none.
        paired: whether the model's own Q/DQ pairs stay.
        data: calibration data.
        test: test data.
        about: comment lines at the top.
    """
    lines = [*(f"# {line}" for line in about), "", "[model]", f"path = {relative(model_path, target)}", ""]
    lines += profile_tables(settled.profiles)
    lines += _calibration(settled, target, ranges, data)
    lines += _passes(settled, model, ranges is not None or data is not None, paired)
    engine = dict(settled.engine)
    types, backend = engine.pop("io", {}), engine.pop("backend", "auto")
    lines += ["", "[engine]", f'backend = "{backend}"', f'rest = "{settled.rest}"']
    lines += [
        f"{key} = {relative(value, target) if isinstance(value, Path) else _value(value)}"
        for key, value in engine.items()
    ]
    lines += [f"io.{toml_key(name)} = {toml_string(kind)}" for name, kind in types.items()]
    lines += ["", "[evaluation]"]
    if data is None and test is None:
        lines += EVALUATION
    else:
        named_test = relative(test, target) if test is not None else ""
        lines += new_evaluation(model, data, test, None, named_test, "\n".join(lines), target).lines
    return "\n".join(lines).strip() + "\n"


def next_command(recipe: Path, lacks: Path | None) -> str:
    """The next step after the recipe is written; ``lacks`` is its model if samples are needed first."""
    if lacks is None:
        return f"next: qtool run {shell_word(recipe)}"
    return (
        f"next: use real inputs. qtool new {shell_word(lacks)} --data SAMPLES finds which layers can run in INT8; "
        f"or set [calibration] data in {recipe}, which requests INT8 for all of them, and run it"
    )


def profile_tables(profiles: Mapping[Any, Mapping[str, Mapping[str, Sequence[int]]]]) -> list[str]:
    """The ``[[profile]]`` tables, from the inputs' min, opt and max shapes by number of the profile."""
    lines = []
    for number, shapes in enumerate(profiles.values()):
        lines += ["[[profile]]", f'name = "profile{number}"']
        for name, one in shapes.items():
            ends = ", ".join(f"{end} = {list(one[end])}" for end in ("min", "opt", "max"))
            lines.append(f"shapes.{toml_key(name)} = {{ {ends} }}")
        lines.append("")
    return lines


def _calibration(settled: Settled, target: Path, ranges: Path | None, data: Path | None) -> list[str]:
    lines = ["[calibration]"]
    if data is not None:
        lines.append(f"data = {relative(data, target)}")
    if ranges is not None:
        lines.append(f"ranges = {relative(ranges, target)}")
    elif settled.quantize and data is None:
        lines.append('# data = "calibration.npz"          # real inputs: a .npz, or a folder of .npy, .npz or images')
    if data is not None:
        lines.append(f'method = "{settled.calibration.get("method", _METHOD)}"')
        if "percentile" in settled.calibration:
            lines.append(f"percentile = {settled.calibration['percentile']:g}")
    return lines


def _passes(settled: Settled, model: Model, ranged: bool, paired: bool) -> list[str]:
    lines = []

    def add(role: Role, **settings: Any) -> None:
        lines.extend(["", "[[pass]]", f'use = "{pass_name(role)}"'])
        lines.extend(f"{key} = {_value(value)}" for key, value in settings.items())

    strips = not paired and paired_unusably(model)
    if strips:
        add(Role.STRIP)
    by_type: dict[str, dict[str, list[str]]] = {}
    for kind, patterns in settled.layers.patterns.items():
        by_type.setdefault(kind, {})["nodes"] = patterns
    if pair_count(model):
        # a layer that the model's author left in float has no pairs
        kept = [literal_glob(name) for name in float_layers(model)]
        asked = by_type.get(settled.rest, {}).get("nodes", [])
        if kept:
            by_type.setdefault(settled.rest, {})["nodes"] = list(dict.fromkeys([*asked, *kept]))
    for op, kind in settled.layers.ops.items():
        by_type.setdefault(kind, {}).setdefault("ops", []).append(op)
    for kind, chosen in by_type.items():
        add(Role.KEEP, **chosen, precision=kind)
    if not paired:
        # after the keep passes, which name nodes of the original model
        add(Role.FOLD)
        if any(node.op == "BatchNormalization" for node in model.nodes):
            add(Role.FOLD_NORMALIZATION)
    # a quantizing pass skips layers with pairs of another type than its own
    own = sorted(map(str, types_of_pairs(model))) if paired else []
    for kind in own or ([settled.quantize] if settled.quantize else []):
        add(Role.QUANTIZE, **({"dtype": kind} if kind != Precision.INT8.value else {}))
    if settled.rest == "fp16" and ranged:
        add(Role.GUARD)
    return lines


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return toml_string(value)
    return f"[{', '.join(map(_value, value))}]" if isinstance(value, (list, tuple)) else str(value)
