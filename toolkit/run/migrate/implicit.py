"""Back to implicit quantization: a float model, ranges and a calibration cache out of a model's Q/DQ pairs."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from toolkit.base.errors import ModelError, QtoolError
from toolkit.base.files import write_text
from toolkit.base.precision import Precision
from toolkit.base.text import literal_glob, toml_string
from toolkit.calibration.interchange import release_number, write_ranges
from toolkit.contract.context import Context
from toolkit.contract.findings import Finding
from toolkit.contract.journal import Journal
from toolkit.contract.registry import named, playing
from toolkit.contract.roles import Role
from toolkit.graph.model import Model
from toolkit.placement.existing import ExistingPair, pairs_of
from toolkit.placement.ops import TARGETS
from toolkit.placement.qdq import float_constants
from toolkit.report.migrate_codes import MigrateCode
from toolkit.run.migrate.pairs import activations, float_layers, ranges_of_pairs, symmetric
from toolkit.run.migrate.tensors import FittedRanges, TensorTurn, hand_back
from toolkit.run.new import relative
from toolkit.run.new_profile import profile_lines
from toolkit.run.steps.passes import PREPARED

MODEL, CACHE, TEXT, COMMAND = "float.onnx", "calibration.cache", "ranges.txt", "trtexec.sh"


def cache_version(release: str) -> int:
    """The number of a release in a cache's first line, see ``release_number``.

    Raises:
        QtoolError: it is no release that has calibrators.
    """
    words = release.split(".")
    known = 1 <= len(words) <= 3 and all(word.isdecimal() for word in words) and 8 <= int(words[0]) <= 10
    if not known:
        raise QtoolError(
            f"'{release}' is no release of TensorRT with implicit quantization",
            where="--tensorrt",
            remedy="write it as in '8.6.0' or '10.3'",
        )
    return release_number(release)


def paired_model(path: Path) -> Path:
    """The model with its pairs: itself, or of a run folder the graph before lowering, which is float32."""
    return path / PREPARED if path.is_dir() else path


class BackToImplicit:
    """The float model behind a model's pairs, and the ranges that TensorRT needs in their place.

    Attributes:
        model: the float model.
        fit: its ranges, those that follow from them among them.
        floats: layers with weights that were not quantized.
        turns: what became of each pair.
    """

    def __init__(self, source: Model) -> None:
        if not any(True for _ in pairs_of(source)):
            raise ModelError("the model has no Q/DQ pairs", where=str(source.source or ""), remedy="give one that has")
        self.floats = float_layers(source, stored=True)
        self.turns = [_turn(name, pair) for name, pair in activations(source)]
        self.fit = ranges_of_pairs(source, stripped=True)
        self.model = source.copy()
        journal = Journal()
        float_constants(self.model, journal)
        for _, kind in playing(Role.STRIP)[:1]:
            kind()(self.model, Context(journal=journal))
        self.model.source = None
        known = self.model.graph.tensors()
        formless = {turn.tensor for turn in self.turns if turn.why.code is MigrateCode.NO_IMPLICIT_FORM}
        int8 = {
            name: one for name, one in self.fit.ranges.tensors.items()
            if name in known and name not in formless and one.dtype == "int8"
        }  # fmt: skip
        self.fit = FittedRanges(self.fit.ranges, dict(self.fit.derived))
        self.fit.ranges.tensors = int8
        hand_back(self.fit, self.model)
        told = {turn.tensor for turn in self.turns}
        self.turns += [
            TensorTurn(name, self.fit.ranges.tensors[name].amax, MigrateCode.RANGE_FOLLOWS(source=origin))
            for name, origin in self.fit.derived.items() if name in self.fit.ranges.tensors and name not in told
        ]  # fmt: skip
        self.turns += [
            TensorTurn(name, None, MigrateCode.RANGE_UNKNOWN(layer=layer)) for name, layer in self._lacking()
        ]

    def _lacking(self) -> list[tuple[str, str]]:
        """Outputs of quantized layers that no pair tells a range of, each with its layer."""
        known = self.fit.ranges.tensors
        return [
            (node.outputs[0].name, node.name)
            for node in self.model.nodes
            if node.op in TARGETS and node.name not in self.floats and node.outputs[0].name not in known
        ]

    def said(self) -> list[Finding]:
        """What there is to say of all of it."""
        if not self.fit.ranges.tensors:
            return [MigrateCode.NOTHING_IMPLICIT()]
        return [MigrateCode.FLOAT_LAYERS(layers=self.floats)] if self.floats else []

    def write(self, folder: Path, stem: str, version: int) -> Path:
        """Write model, ranges, cache, recipe and the command for trtexec; the recipe's path."""
        model = self.model.save(folder / MODEL)
        write_ranges(self.fit.ranges, folder / CACHE, "tensorrt", version=version)
        write_ranges(self.fit.ranges, folder / TEXT, "text")
        ranges = folder / f"{stem}.ranges.json"
        self.fit.ranges.save(ranges)
        keep = [f"--layerPrecisions={','.join(f'{name}:fp16' for name in self.floats)}", "--precisionConstraints=obey"]
        int8 = ["--int8", f"--calib={CACHE}", *(keep if self.floats else [])] if self.fit.ranges.tensors else []
        words = ["trtexec", f"--onnx={MODEL}", "--fp16", *int8, "--saveEngine=model.engine"]
        write_text(folder / COMMAND, f"{shlex.join(words)}\n")
        target = folder / f"{stem}.toml"
        write_text(target, "\n".join(self._recipe(target, model, ranges)) + "\n")
        return target

    def _recipe(self, target: Path, model: Path, ranges: Path) -> Sequence[str]:
        if not self.fit.ranges.tensors:
            head = [
                "# Float16: no pair had a form without pairs.",
                "",
                "[model]",
                f"path = {relative(model, target)}",
                "",
            ]
            return [
                *head,
                *profile_lines(self.model.input_shapes(), {}),
                "[engine]",
                'backend = "tensorrt"',
                'rest = "fp16"',
            ]
        kept = [f"nodes = [{', '.join(map(_quoted, self.floats))}]", 'precision = "fp16"']
        return [
            "# Implicit quantization by ranges, for TensorRT 8.6 to 10.",
            "",
            "[model]",
            f"path = {relative(model, target)}",
            "",
            *profile_lines(self.model.input_shapes(), {}),
            "[calibration]",
            f"ranges = {relative(ranges, target)}",
            *(["", "[[pass]]", f'use = "{named(Role.KEEP)}"', *kept] if self.floats else []),
            "",
            "[[pass]]",
            f'use = "{named(Role.QUANTIZE)}"',
            "",
            "[engine]",
            'backend = "tensorrt"',
            'quantization = "implicit"',
            'rest = "fp16"',
        ]


def _quoted(name: str) -> str:
    return toml_string(literal_glob(name))


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
