"""Generation of a recipe for a model: profiles from its inputs and data, passes for its layers."""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from toolkit.base.errors import DataError, QtoolError, RecipeError
from toolkit.base.given import names_code
from toolkit.base.precision import Precision
from toolkit.base.text import count, toml_string
from toolkit.calibration.amax import DEFAULT
from toolkit.contract.context import Context
from toolkit.contract.findings import Finding
from toolkit.contract.registry import pass_name, passes_with_role
from toolkit.contract.roles import Role
from toolkit.evaluation.metrics.by_name import make_metric
from toolkit.graph.files.header import model_files
from toolkit.graph.interface.states import shapes_to_join
from toolkit.graph.large_models.partitions import bounding_limit
from toolkit.graph.layers.forms import Forms, constant_affine
from toolkit.graph.layers.layer_weights import bias_of
from toolkit.graph.model import Model
from toolkit.placement.ops import TARGETS
from toolkit.placement.quantized import pair_count, refuse_integer_operators
from toolkit.placement.spellings import load_source
from toolkit.report.codes import ReportCode
from toolkit.report.findings import sentence
from toolkit.run.inputs.batches import batches_refused, fault_words
from toolkit.run.inputs.plugins import plugin_comment, plugin_note
from toolkit.run.new.metric import NewEvaluation, new_evaluation
from toolkit.run.new.ranges import EVALUATION, pass_lines
from toolkit.run.new.samples import GivenSamples
from toolkit.run.recipe.new_profile import fixed_by_samples, profile_lines, two_sizes
from toolkit.search.causes.helpers import Helpers

_BEST_WEIGHTS = "output"
FRAGILE = (
    "Softmax", "LogSoftmax", "LayerNormalization", "RMSNormalization", "InstanceNormalization", "GroupNormalization",
)  # fmt: skip
"""Operators that stay float, also if they are exported as several nodes."""


@dataclass
class NewRecipe:
    """A generated recipe.

    Attributes:
        text: the recipe's text.
        said: decisions and their reasons.
        warnings: findings that the user should look into before a run.
    """

    text: str
    said: list[Finding]
    warnings: list[Finding]

    def to_json(self) -> dict[str, Any]:
        """A JSON-serializable dictionary, without the text."""
        findings = {"decisions": self.said, "warnings": self.warnings}
        return {name: [{**one.to_json(), "text": sentence(one)} for one in found] for name, found in findings.items()}


def recipe_for(
    model_path: Path,
    target: Path,
    data: Path | None,
    test: Path | None,
    metric: str | None,
    ranges: Path | None = None,
    keep_pairs: bool = False,
) -> NewRecipe:
    """Generate a recipe for a model; settings that cannot be inferred are left as comments.

    Args:
        model_path: the ONNX model.
        target: the path of the new recipe; its paths are relative to that folder.
        data: calibration data; its shapes and those of ``test`` determine the profiles.
        test: test data, with labels if they are to be judged by a metric.
        metric: the metric to measure; None for one that the labels fit.
        ranges: a file of ranges, such as a calibration cache; without ``data`` only these ranges are used.
        keep_pairs: whether the model's own Q/DQ pairs stay as they are, and nothing else is quantized.

    Raises:
        RecipeError: the metric does not exist, there are no pairs to keep, or TensorRT refuses them.
        ModelError: the model cannot be read, or is quantized with operators that TensorRT does not support.
        DataError: the data does not fit the model, or the labels do not fit the metric.
        RangesError: ``ranges`` has none for a tensor of the model.
    """
    _refuse_unknown(metric)
    sources = [source for source in (data, test) if source is not None]
    for source in sources:
        _refuse_code(source)
    model = load_source(model_path)
    refuse_integer_operators(Counter(node.op for node, _ in model.walk()), str(model_path))
    by_ranges = ranges is not None and data is None
    samples = GivenSamples.of(model, sources)
    fault, declared, rest = batches_refused(model, data or test, samples.shapes), shapes_to_join(model), rest_of(model)
    fixed, apart = fixed_by_samples(declared, samples.shapes), two_sizes(declared, samples.shapes)
    settled, decides = samples.fixed_inputs(model)
    if keep_pairs:
        _refuse_to_keep(model)
        passes, decides = _pairs_kept(model, rest, observed=data is not None), []
    else:
        passes = _passes(model, ranges if by_ranges else None, rest, settled)
    alone = f"Batch 1: {fault_words(fault)}." if fault is not None else ""
    lines = [
        "[model]",
        f"path = {relative(model_path, target)}",
        *plugin_comment(model),
        "",
        *profile_lines(
            declared, samples.shapes, alone, *(sentence(one) if one is not None else "" for one in (fixed, apart))
        ),
        "[calibration]",
        *_calibration(target, data, ranges, samples.image_lines),
        *passes,
        *_memory(model),
        *("", "[engine]", 'backend = "auto"', f'rest = "{rest}"', "", "[evaluation]"),
    ]
    if by_ranges and test is None:
        evaluation = NewEvaluation(EVALUATION, [ReportCode.NEW_WITHOUT_SAMPLES()])
    else:
        named = relative(test, target) if test is not None else ""
        evaluation = new_evaluation(model, data, test, metric, named, "\n".join(lines), target)
    decided = [
        *([ReportCode.NEW_BATCH_REFUSED(why=fault_words(fault))] if fault is not None else []),
        *([ReportCode.NEW_METHOD(method=DEFAULT)] if not by_ranges else []),
        *_decided_passes(model, passes, keep_pairs),
        *decides,
    ]
    lacking = [ReportCode.NEW_WITHOUT_DATA()] if data is None and ranges is None else []
    doubts = [one for one in (plugin_note(model), fixed, apart, samples.doubt) if one is not None]
    return NewRecipe(
        "\n".join([*lines, *evaluation.lines]) + "\n",
        [*decided, *evaluation.said],
        [*lacking, *doubts, *evaluation.warnings],
    )


def _memory(model: Model) -> list[str]:
    """The lines of a memory limit for a model above protobuf's limit; none for a smaller one."""
    limit = bounding_limit(model.to_light())
    if limit is None:
        return []
    return [
        "",
        "[run]",
        f'memory = "{math.ceil(limit / 1e6)}MB"             # the model runs in parts that fit; more is faster',
    ]


def _refuse_unknown(metric: str | None) -> None:
    """Refuse an unknown built-in metric.

    Raises:
        RecipeError: there is no metric of that name.
    """
    if metric is not None and ":" not in metric:
        try:
            make_metric(metric)
        except RecipeError as error:
            error.at("--metric")
            raise


def _refuse_code(data: Path) -> None:
    """Refuse data that names code, which only a recipe may do."""
    if names_code(str(data)) and not data.exists():
        raise DataError(
            "it names code, but no code is run to write a recipe",
            where=str(data),
            remedy=f"give some of its samples as a .npz; then set data = {toml_string(str(data))} in the recipe, and "
            "run it with --allow-code",
        )


def _decided_passes(model: Model, passes: Sequence[str], keep_pairs: bool) -> list[Finding]:
    """Findings about the model's Q/DQ pairs and about the passes in the recipe's lines."""
    found = []
    if pairs := pair_count(model):
        found.append(ReportCode.NEW_PAIRS(pairs=pairs, kept=keep_pairs, usable=not paired_unusably(model)))
    used = tuple(line.split('"')[1] for line in passes if line.startswith("use = "))
    return [*found, *([ReportCode.NEW_PASSES(passes=used)] if used else [])]


def _calibration(target: Path, data: Path | None, ranges: Path | None, images: Sequence[str]) -> list[str]:
    """The lines under ``[calibration]``."""
    lines = []
    if data is not None:
        lines.append(f"data = {relative(data, target)}")
    elif ranges is None:
        lines.append('# data = "..."                     # real inputs: a .npz, or a folder of .npy, .npz or images')
    lines += images
    if ranges is not None:
        lines.append(f"ranges = {relative(ranges, target)}")
    if data is not None or ranges is None:
        lines.append(f'method = "{DEFAULT}"')
    return lines


def _passes(model: Model, ranges: Path | None, kept_in: Precision, settled: Sequence[str] = ()) -> list[str]:
    """The passes of a recipe: a search, or a pass that quantizes with ``ranges`` instead of samples."""
    strip, forms = _strip(model), Forms(model)
    # weights behind a Q/DQ pair and a Transpose are constants once the pair is removed
    lines, prepared = [*strip, "", "[[pass]]", _use(Role.FOLD), *settled], [*([Role.STRIP] if strip else []), Role.FOLD]
    if any(node.op == "BatchNormalization" for node, _ in model.walk()) or _scaled(model, forms):
        lines += ["", "[[pass]]", _use(Role.FOLD_NORMALIZATION)]
        prepared.append(Role.FOLD_NORMALIZATION)
    after = _prepared(model, prepared)
    # constant folding may show that what looked like one operator is another
    ops = Forms(after)
    present = {ops.op(node) for node in after.nodes}
    fragile = [op for op in FRAGILE if op in present]
    if fragile:
        listed = ", ".join(map(toml_string, fragile))
        lines += ["", "[[pass]]", _use(Role.KEEP), f"ops = [{listed}]"]
        # an explicit float16 would bind the search, which requests float32 if float16 breaks the result
        lines += [f'precision = "{kept_in}"'] if kept_in is not Precision.FP16 else []
    if ranges is not None:
        return lines + pass_lines(model, ranges)
    return lines + _search(Helpers(after).able(), kept_in)


def _prepared(model: Model, before: Sequence[Role]) -> Model:
    """The model after the recipe's first passes, those with these roles; the model itself if one of them refuses it."""
    prepared = model.copy()
    try:
        for role in before:
            for _, kind in passes_with_role(role)[:1]:
                kind()(prepared, Context(dry_run=True))
    except QtoolError:
        # the run will report what is wrong
        return model
    return prepared


def _takes(role: Role, setting: str, value: str) -> bool:
    """Whether the installed pass for a role has a setting that accepts a value."""
    field = next((kind.model_fields.get(setting) for _, kind in passes_with_role(role)), None)
    return field is not None and value in get_args(field.annotation)


def rest_of(model: Model) -> Precision:
    """The 16-bit type for unquantized layers: bfloat16 if most layers use it, since values may need its range."""
    facts = model.facts()
    layers = [node for node in model.nodes if node.op in TARGETS and facts.is_float(node.outputs[0].name)]
    wide = sum(Precision.from_onnx(facts.types[node.outputs[0].name]) is Precision.BF16 for node in layers)
    return Precision.BF16 if 2 * wide > len(layers) else Precision.FP16


def _search(helpers: Sequence[str], kept_in: Precision) -> list[str]:
    word = "bfloat16" if kept_in is Precision.BF16 else "float16"
    # bfloat16 has float32's range, so it needs no guard against overflow
    guard = ["", "[[pass]]", _use(Role.GUARD)] if kept_in is Precision.FP16 else []
    listed = ", ".join(map(toml_string, helpers))
    return [
        "",
        f"# INT8 wherever the budget below allows it; layers that cost too much stay in {word}.",
        "[[pass]]",
        _use(Role.SEARCH),
        *([f"helpers = [{listed}]"] if helpers else []),
        *([f'weights = "{_BEST_WEIGHTS}"'] if _takes(Role.SEARCH, "weights", _BEST_WEIGHTS) else []),
        *guard,
    ]


def inputs_of(model: Path, data: Path | None, test: Path | None, ranges: Path | None = None) -> dict[str, Path]:
    """The files that a new recipe is made from, keyed by their description: none may be overwritten."""
    found = {"the model": model, "--data": data, "--test": test, "--ranges": ranges}
    weights = model_files(model)[1:] if model.is_file() else []
    found.update({f"a file of the model's weights ({path})": path for path in weights})
    return {what: path for what, path in found.items() if path is not None}


def _use(role: Role) -> str:
    return f'use = "{pass_name(role)}"'


def _scaled(model: Model, forms: Forms) -> bool:
    """Whether a layer's result is scaled or shifted by constants, like a BatchNormalization exported as Mul and Add."""
    for node in model.nodes:
        place = bias_of(model, node) if node.op in TARGETS else None
        out = (place[0] if place is not None else node).outputs[:1] if node.op in TARGETS else []
        readers = forms.readers(out[0]) if out else []
        if len(readers) == 1 and forms.composite(readers[0]) is None and constant_affine(model, readers[0]):
            return True
    return False


def _strip(model: Model) -> list[str]:
    """The pass that removes the model's Q/DQ pairs, so that results are compared with a float model."""
    pairs = pair_count(model)
    if paired_unusably(model):
        why = (
            "# The model has pairs that TensorRT refuses (their type, two types in one layer, or a zero point that is "
            "not 0): they are removed and placed again."
        )
    elif not pairs:
        return []
    else:
        why = (
            f"# The model has {count(pairs, 'Q/DQ pair')}. As it stands they are removed and placed again where the\n"
            "# budget allows it, and results are compared with the float model. keep_ranges = true keeps the scales\n"
            "# of activations, which quantization-aware training learned. To build the model with its pairs as they\n"
            "# are, delete all [[pass]] tables, or write the recipe with `qtool new --keep-pairs`."
        )
    return ["", why, "[[pass]]", _use(Role.STRIP)]


def _pairs_kept(model: Model, kept_in: Precision, observed: bool) -> list[str]:
    """The passes of a model that keeps its Q/DQ pairs: none quantizes; float16 overflow is found only from samples."""
    why = [
        "",
        f"# The model has {count(pair_count(model), 'Q/DQ pair')}, kept as training left them: no pass quantizes, and",
        "# results are compared with the model without them. To choose again what runs in INT8, write it without",
        "# --keep-pairs.",
    ]
    return [*why, *(["[[pass]]", _use(Role.GUARD)] if observed and kept_in is Precision.FP16 else [])]


def _refuse_to_keep(model: Model) -> None:
    """Refuse to keep Q/DQ pairs if there are none, or if no engine can be built with them.

    Raises:
        RecipeError: there are none, or no engine can be built with them.
    """
    if not pair_count(model):
        raise RecipeError("the model has no Q/DQ pairs to keep", where="--keep-pairs", remedy="leave it out")
    if paired_unusably(model):
        raise RecipeError(
            "TensorRT refuses the model's pairs (their type, two types in one layer, or a zero point that is not 0)",
            where="--keep-pairs", remedy="leave it out: the pairs are then placed again",
        )  # fmt: skip


def paired_unusably(model: Model) -> bool:
    """Whether TensorRT refuses the model's Q/DQ pairs: for their type, a zero point, or mixed types in a layer."""
    from onnx import TensorProto

    from toolkit.placement.borders import refused_borders
    from toolkit.placement.existing import ExistingPair, pairs_of

    def taken(pair: ExistingPair) -> bool:
        kind = pair.cast or pair.grid.kind
        precision = Precision.from_onnx(kind)
        bias = kind == TensorProto.INT32 and pair.quantize is None
        return bias or (precision is not None and precision.quantized)

    return (
        bool(mixed_layers(model))
        or bool(refused_borders(model))
        or any(
            not taken(pair) or pair.grid.zero is None or bool(pair.grid.zero.any()) or pair.grid.limits is not None
            for pair in pairs_of(model)
        )
    )


def mixed_layers(model: Model) -> list[str]:
    """Layers with operands quantized to different types, which TensorRT does not multiply (observed with RTX)."""
    from toolkit.placement.dequantized import dequantizer, pair_type

    found = []
    for node in (node for node in model.nodes if node.op in TARGETS):
        makers = [maker for tensor in node.inputs[:2] if (maker := dequantizer(tensor)) is not None]
        if len({pair_type(maker) for maker in makers} - {None}) == 2:
            found.append(node.name)
    return found


def relative(path: Path, target: Path) -> str:
    """A path relative to the folder of a recipe at ``target``, as a quoted TOML string."""
    return toml_string(Path(os.path.relpath(path.resolve(), target.resolve().parent)).as_posix())
