"""Conversion back to implicit quantization: float model, ranges and calibration cache from a model's Q/DQ pairs."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from toolkit.base.errors import ModelError, QtoolError, shortened
from toolkit.base.files import write_text
from toolkit.base.precision import Precision
from toolkit.base.text import literal_glob, toml_string
from toolkit.calibration.interchange import release_number, write_ranges
from toolkit.contract.context import Context
from toolkit.contract.findings import Finding
from toolkit.contract.journal import Journal
from toolkit.contract.registry import pass_name, passes_with_role
from toolkit.contract.roles import Role
from toolkit.graph.interface.states import shapes_to_join
from toolkit.graph.model import Model
from toolkit.placement.existing import ExistingPair, pairs_of
from toolkit.placement.ops import TARGETS
from toolkit.placement.qdq import float_constants
from toolkit.report.migrate_codes import MigrateCode
from toolkit.run.folder.run_folder import PREPARED
from toolkit.run.keys.lock import read_lock
from toolkit.run.migrate.pairs import activations, float_layers, ranges_of_pairs, symmetric
from toolkit.run.migrate.tensors import FittedRanges, TensorTurn, propagate_ranges_back
from toolkit.run.migrate.write import profile_tables
from toolkit.run.new.new_recipe import relative
from toolkit.run.recipe.new_profile import profile_lines
from toolkit.run.recipe.recipe import Recipe

FINAL, LOCK = "model.onnx", "recipe.lock.toml"
MODEL, CACHE, TEXT, COMMAND = "float.onnx", "calibration.cache", "ranges.txt", "trtexec.sh"
_RELEASE = re.compile(r"(8|9|10)(\.[0-9]{1,3}){0,2}")


def cache_version(release: str) -> int:
    """The number of a TensorRT release in a cache's first line, see ``release_number``.

    Raises:
        QtoolError: it is not a release with calibrators.
    """
    if not _RELEASE.fullmatch(release):
        raise QtoolError(
            f"'{shortened(release)}' is not a release of TensorRT with implicit quantization",
            where="--tensorrt",
            remedy="write it as in '8.6.0' or '10.3'",
        )
    return release_number(release)


def paired_model(path: Path) -> Path:
    """The model with Q/DQ pairs: the file itself or, for a run folder, the float32 graph before lowering."""
    return path / PREPARED if path.is_dir() else path


def recipe_of_run(path: Path) -> Recipe | None:
    """The recipe of a run folder; None if ``path`` is not a run folder.

    Raises:
        RecipeError: the lock file cannot be read.
    """
    lock = path / LOCK
    return read_lock(lock)[0] if path.is_dir() and lock.is_file() else None


def requested_types(path: Path) -> dict[str, str]:
    """The requested precision of each node, from a run folder's model; empty if ``path`` is not a run folder."""
    model = path / FINAL
    if not path.is_dir() or not model.is_file():
        return {}
    noted = Model.load(model).metadata
    return {name: props["qtool.precision"] for name, props in noted.items() if "qtool.precision" in props}


class BackToImplicit:
    """A model without its Q/DQ pairs, and the ranges that TensorRT needs instead.

    Args:
        source: the model with Q/DQ pairs.
        asked: the requested precision of layers, as far as known.
        recipe: the recipe that made the model, if known.

    Attributes:
        model: the float model.
        fit: its ranges, including derived ones.
        rest: the float type of everything else: float16 if unknown.
        profiles: the shapes of the inputs, by number of the profile in the recipe.
        floats: layers with weights that were not quantized, each with its float type.
        turns: the range that replaces each pair, or why it is lost.
    """

    def __init__(self, source: Model, asked: Mapping[str, str] | None = None, recipe: Recipe | None = None) -> None:
        if not any(True for _ in pairs_of(source)):
            raise ModelError("the model has no Q/DQ pairs", where=str(source.source or ""), remedy="give one that has")
        self.rest = str(recipe.rest if recipe is not None else Precision.FP16)
        self.profiles = {
            number: {name: vars(extent) for name, extent in profile.shapes.items()}
            for number, profile in enumerate(recipe.profiles() if recipe is not None else ())
        }
        full = {name for name, kind in (asked or {}).items() if kind == Precision.FP32.value}
        self.floats = {name: "fp32" if name in full else self.rest for name in float_layers(source, stored=True)}
        self.turns = [_turn(name, pair) for name, pair in activations(source)]
        self.model = _without_pairs(source)
        self.fit = self._fitted(ranges_of_pairs(source, stripped=True))
        paired = {turn.tensor for turn in self.turns}
        self.turns += [
            TensorTurn(name, self.fit.ranges.tensors[name].amax, MigrateCode.RANGE_FOLLOWS(source=origin))
            for name, origin in self.fit.derived.items() if name in self.fit.ranges.tensors and name not in paired
        ]  # fmt: skip
        self.turns += [
            TensorTurn(name, None, MigrateCode.RANGE_UNKNOWN(layer=layer)) for name, layer in self._lacking()
        ]

    def _fitted(self, of_pairs: FittedRanges) -> FittedRanges:
        """The INT8 ranges of tensors in the model without pairs, and the ranges derived from them."""
        tensors = self.model.graph.tensors()
        formless = {turn.tensor for turn in self.turns if turn.why.code is MigrateCode.NO_IMPLICIT_FORM}
        fit = FittedRanges(of_pairs.ranges, dict(of_pairs.derived))
        fit.ranges.tensors = {
            name: one for name, one in of_pairs.ranges.tensors.items()
            if name in tensors and name not in formless and one.dtype == "int8"
        }  # fmt: skip
        propagate_ranges_back(fit, self.model)
        return fit

    def _lacking(self) -> list[tuple[str, str]]:
        """Outputs of quantized layers for which no pair gives a range, each with its layer."""
        known = self.fit.ranges.tensors
        return [
            (node.outputs[0].name, node.name)
            for node in self.model.nodes
            if node.op in TARGETS and node.name not in self.floats and node.outputs[0].name not in known
        ]

    def said(self) -> list[Finding]:
        """Findings about the model as a whole."""
        if not self.fit.ranges.tensors:
            return [MigrateCode.NOTHING_IMPLICIT()]
        return [MigrateCode.FLOAT_LAYERS(layers=list(self.floats))] if self.floats else []

    def write(self, target: Path, version: int) -> None:
        """Write model, ranges, cache and the trtexec command beside the recipe ``target``, and that last."""
        folder = target.parent
        self.model.save(folder / MODEL)
        write_ranges(self.fit.ranges, folder / CACHE, "tensorrt", version=version)
        write_ranges(self.fit.ranges, folder / TEXT, "text")
        self.fit.ranges.save(_ranges_of(target))
        types = ",".join(f"{name}:{kind}" for name, kind in self.floats.items())
        keep = [f"--layerPrecisions={types}", "--precisionConstraints=obey"]
        int8 = ["--int8", f"--calib={CACHE}", *(keep if self.floats else [])] if self.fit.ranges.tensors else []
        half = [f"--{self.rest}"] if self.rest != Precision.FP32.value else []
        shapes = [word for number in self.profiles for word in self._shapes(number)]
        words = ["trtexec", f"--onnx={MODEL}", *half, *int8, *shapes, "--saveEngine=model.engine"]
        write_text(folder / COMMAND, f"{shlex.join(words)}\n")
        write_text(target, self.recipe_text(target))

    def _shapes(self, number: int) -> Iterator[str]:
        """A profile as trtexec options."""
        if len(self.profiles) > 1:
            yield f"--profile={number}"
        for end in ("min", "opt", "max"):
            parts = (f"{name}:{'x'.join(map(str, one[end]))}" for name, one in self.profiles[number].items())
            yield f"--{end}Shapes={','.join(parts)}"

    def recipe_text(self, target: Path) -> str:
        """The text of the recipe ``target``."""
        implicit = bool(self.fit.ranges.tensors)
        about = "Implicit quantization by ranges, for TensorRT 8.6 to 10." if implicit else (
            "Float16: no Q/DQ pair has an implicit form."
        )  # fmt: skip
        lines = [f"# {about}", "", "[model]", f"path = {relative(target.with_name(MODEL), target)}", ""]
        lines += profile_tables(self.profiles) or profile_lines(shapes_to_join(self.model), {})
        if implicit:
            lines += ["[calibration]", f"ranges = {relative(_ranges_of(target), target)}"]
            for kind in dict.fromkeys(self.floats.values()):
                nodes = ", ".join(toml_string(literal_glob(name)) for name, own in self.floats.items() if own == kind)
                keep = pass_name(Role.KEEP)
                lines += ["", "[[pass]]", f'use = "{keep}"', f"nodes = [{nodes}]", f'precision = "{kind}"']
            lines += ["", "[[pass]]", f'use = "{pass_name(Role.QUANTIZE)}"', ""]
        lines += ["[engine]", 'backend = "tensorrt"', *(['quantization = "implicit"'] if implicit else [])]
        return "\n".join([*lines, f'rest = "{self.rest}"']) + "\n"


def _ranges_of(recipe: Path) -> Path:
    """The file of ranges that a recipe reads."""
    return recipe.with_name(f"{recipe.stem}.ranges.json")


def _turn(name: str, pair: ExistingPair) -> TensorTurn:
    amax = None if pair.grid.amax is None else float(pair.grid.amax)
    if pair.grid.range_type != "int8" or pair.grid.precision is Precision.INT4 or pair.grid.block:
        return TensorTurn(
            name, amax, MigrateCode.NO_IMPLICIT_FORM(kind=str(pair.grid.precision or pair.grid.kind_name))
        )
    if pair.axis is not None or pair.scale is None or pair.scale.size != 1:
        return TensorTurn(name, amax, MigrateCode.PER_CHANNEL_ACTIVATION())
    if not symmetric(pair):
        return TensorTurn(name, amax, MigrateCode.OFFSET_LOST())
    return TensorTurn(name, amax, MigrateCode.RANGE_OF_PAIR(scale=float(np.reshape(pair.scale, -1)[0])))


def _without_pairs(source: Model) -> Model:
    """A copy of the model with float constants and without its Q/DQ pairs."""
    model, journal = source.copy(), Journal()
    float_constants(model, journal)
    for _, kind in passes_with_role(Role.STRIP)[:1]:
        kind()(model, Context(journal=journal))
    model.source = None
    return model
