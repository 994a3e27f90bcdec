"""Export of a run: files and a command line that build its engine elsewhere, without qtool."""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from toolkit.base.errors import QtoolError
from toolkit.base.files import copy_file, make_folder, refuse_file, sha256_file, write_json, write_text
from toolkit.base.reading import own_json
from toolkit.base.text import text_of
from toolkit.report.codes import ReportCode
from toolkit.report.findings import sentence
from toolkit.run.checks.preflight import input_files, reachable
from toolkit.run.folder.guard import files_of_run, refuse_anothers, refuse_writing_over
from toolkit.run.inputs.engine_settings import engine_settings
from toolkit.run.results.finished_run import FinishedRun

if TYPE_CHECKING:
    from toolkit.backends.building.command_lines import BuildOrder
    from toolkit.contract.findings import Finding
    from toolkit.data.dataset import CalibrationData
    from toolkit.graph.model import Model

To = Literal["trtexec", "polygraphy", "onnxruntime"]
QDQ = "model_qdq.onnx"
_SCRIPT = "build.sh"


@dataclass(frozen=True)
class Exported:
    """The result of an export.

    Attributes:
        folder: the output folder.
        files: names of the files.
        command: the command that builds the engine; empty if none is built.
        notes: notes for the user.
        checked: for an ONNX model, figures of its comparison with the run's model.
    """

    folder: Path
    files: list[str]
    command: str = ""
    notes: list[str] = field(default_factory=list)
    checked: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """A JSON-serializable dictionary."""
        return {**asdict(self), "folder": str(self.folder)}

    def to_text(self) -> str:
        """Lines of text for people."""
        lines = [f"{self.folder}: {', '.join(self.files)}"]
        lines += [self.command] if self.command else []
        return text_of([*lines, *self.notes])


def export(run: FinishedRun, to: To, out: Path | None = None) -> Exported:
    """Write the files that build a run's engine elsewhere.

    Args:
        to: ``trtexec`` or ``polygraphy``: model.onnx with a command line and the scripts and caches that it reads;
            ``onnxruntime``: a float32 model with Q/DQ pairs for any runtime, after a check that onnxruntime's default
            optimizations do not change its results.
        out: the folder; ``export/<to>`` in the run folder by default.

    Raises:
        QtoolError: the engine cannot be built that way, or onnxruntime computes different results.
    """
    folder = out if out is not None else run.folder / "export" / to
    refuse_file(folder)
    found = _onnx(run, folder) if to == "onnxruntime" else _command(run, folder, to)
    _note_written(run, found)
    return found


def _command(run: FinishedRun, folder: Path, to: To) -> Exported:
    from toolkit.backends.building import command_lines
    from toolkit.graph.files.header import model_files

    order, timing = _order(run)
    made = command_lines.trtexec(order) if to == "trtexec" else command_lines.polygraphy(order)
    copied = model_files(run.lowering.model_path)
    names = [*(file.name for file in copied), command_lines.TIMING, command_lines.CACHE, *made.scripts, _SCRIPT]
    _refuse_over(run, folder, names)
    make_folder(folder)
    files = []
    for file in copied:
        copy_file(file, folder / file.name)
        files.append(file.name)
    if order.timed:
        copy_file(timing, folder / command_lines.TIMING)
        files.append(command_lines.TIMING)
    if order.calibrated:
        write_text(folder / command_lines.CACHE, _cache(run, order))
        files.append(command_lines.CACHE)
    for name, text in made.scripts.items():
        write_text(folder / name, text)
        files.append(name)
    variables = [f"{name}={value}" for name, value in made.environment.items()]
    command = shlex.join([*(["env", *variables] if variables else []), *made.words])
    built = f"{order.backend} {order.version}".strip() if run.engine.engine_file is not None else "no engine so far"
    script = folder / _SCRIPT
    write_text(
        script,
        f"#!/bin/sh\n# The engine of {run.report.recipe.name}: built by qtool with {built}.\n"
        f'set -e\ncd "$(dirname "$0")"\nexec {command}\n',
    )
    script.chmod(0o755)
    notes: list[Finding] = []
    if made.unsaid:
        notes.append(ReportCode.EXPORT_NAMES_UNSAID(nodes=made.unsaid))
    if order.weak and to == "trtexec" and order.implicit:
        notes.append(ReportCode.EXPORT_RANGES_BY_CACHE())
    plugins = _plugins(run)
    if plugins:
        notes.append(ReportCode.EXPORT_PLUGINS(nodes=plugins))
    if not order.version:
        notes.append(ReportCode.EXPORT_WITHOUT_VERSION())
    return Exported(folder, [script.name, *files], command, [sentence(note) for note in notes])


_EXPORTS = "exports.json"


def _refuse_over(run: FinishedRun, folder: Path, names: Iterable[str]) -> None:
    """Refuse a folder if one of the files to be written already exists, unless an export of this run wrote it.

    Raises:
        QtoolError: a file is the run's input or result, or was written by something else; the message names it.
    """
    inputs = input_files(run.job) | {f"the run's own {path.name}": path for path in files_of_run(run.folder)}
    written = _written(run).get(str(folder.resolve()), {})
    for name in names:
        refuse_writing_over(inputs, folder / name)
        if run.folder.resolve() not in folder.resolve().parents:
            what = "no export that this run folder knows of wrote this file"
            refuse_anothers(folder / name, lambda path: written.get(path.name) == sha256_file(path), what=what)


def _written(run: FinishedRun) -> dict[str, Any]:
    """The files written by exports of the run, by folder: their names and SHA-256."""
    content = own_json(run.job.folder.hidden / _EXPORTS)
    entries = content.items() if isinstance(content, dict) else ()
    return {folder: files for folder, files in entries if isinstance(files, dict)}


def _note_written(run: FinishedRun, found: Exported) -> None:
    known, folder = _written(run), str(found.folder.resolve())
    known[folder] = known.get(folder, {}) | {name: sha256_file(found.folder / name) for name in found.files}
    # a read-only run folder can still be exported from
    with suppress(QtoolError, OSError):
        write_json(run.job.folder.hidden / _EXPORTS, known)


def _order(run: FinishedRun) -> tuple[BuildOrder, Path]:
    """The description of the build, and the file of the timing cache."""
    from toolkit.backends.building.command_lines import BuildOrder
    from toolkit.backends.building.weak_types import float_types, weak_flags
    from toolkit.graph.proto.nodes import ONNX_DOMAINS

    build, hidden = run.engine.build, run.job.folder.hidden
    settings = engine_settings(run.recipe, hidden)
    resolved = {**settings.model_dump(mode="json"), "rest": run.recipe.engine.rest, **build.settings}
    backend = build.backend if build.backend != "none" else "tensorrt"
    model, plan = run.lowering.model(), run.lowering.plan
    asked = {node: str(ask.precision) for node, ask in plan.items() if not ask.free}
    implicit = resolved["quantization"] == "implicit"
    weak = run.engine.typing == "weak"
    # the timing cache of a build without a GPU has no times and is not copied
    timing = Path(str(resolved.get("timing_cache") or hidden / "none"))
    ranges = run.passes.ranges() if weak and implicit else None
    own = implicit and resolved["calibrator"] != "ranges"
    amax = {name: one.amax for name, one in ranges.tensors.items()} if ranges is not None and not own else {}
    order = BuildOrder(
        backend=backend,
        version=build.version,
        settings={**resolved, "typing": run.engine.typing},
        profiles=run.job.profiles,
        plan=asked if weak else {},
        types=float_types(model, asked, str(resolved["rest"]), implicit) if weak else {},
        kept=frozenset(t.inputs[0].name for t in model.graph.outputs if t.inputs),
        flags=weak_flags(model, asked, str(resolved["rest"]), implicit) if weak else (),
        amax=amax,
        calibrated=weak and implicit and (bool(amax) or (run.folder / "calibration.cache").is_file()),
        timed=timing.is_file(),
        fixed={
            name: [one for one in shape if isinstance(one, int)]
            for name, shape in model.input_shapes().items()
            if all(isinstance(one, int) for one in shape)
        },
        attention=any(node.op == "Attention" and node.domain in ONNX_DOMAINS for node, _ in model.walk()),
    )
    return order, timing


def _cache(run: FinishedRun, order: BuildOrder) -> str:
    """The text of TensorRT's calibration cache: its own, or one with qtool's ranges."""
    from toolkit.calibration.interchange import cache_text, release_number

    if not order.amax:
        return (run.folder / "calibration.cache").read_text(encoding="utf-8")
    ranges = run.passes.ranges()
    assert ranges is not None
    return cache_text(ranges, version=release_number(order.version))


def _plugins(run: FinishedRun) -> list[str]:
    from toolkit.graph.sessions.runnable import not_run

    return list(not_run(run.lowering.model()).plugins)


def _onnx(run: FinishedRun, folder: Path) -> Exported:
    """Write the float32 model with Q/DQ pairs if onnxruntime computes the same with its default optimizations."""
    from toolkit.base.temporary import temporary_folder
    from toolkit.graph.files.header import model_files
    from toolkit.graph.files.onnx_file import write
    from toolkit.graph.model import Model
    from toolkit.graph.ort_forms.float32_twin import widen
    from toolkit.graph.ort_forms.kernels import written_out
    from toolkit.graph.ort_forms.masks import spread_masks
    from toolkit.placement.default_rewrites import split_large_biases
    from toolkit.run.checks.gpu_types import types_of_pairs

    model = run.passes.model()
    blocks = sorted(str(one).upper() for one in types_of_pairs(model) if one.block)
    if blocks:
        raise QtoolError(
            f"onnxruntime has no operators for {' and '.join(blocks)}",
            where=str(run.folder),
            remedy="export to trtexec or polygraphy, or quantize to int8 or fp8",
        )
    apart = split_large_biases(model)
    model.source = None
    with temporary_folder("export") as made:
        light = model.to_light(_IR)
        # qtool's own sessions apply these rewrites themselves, other runtimes do not
        widened = widen(light)
        spread_masks(light.proto)
        light.proto = written_out(light.proto)
        path = write(light, made / QDQ)
        _open_plainly(path, run)
        checked = _checked(run, Model.load(path))
        files = model_files(path)
        _refuse_over(run, folder, [file.name for file in files])
        make_folder(folder)
        for file in files:
            copy_file(file, folder / file.name)
    notes = [ReportCode.EXPORT_CHECKED(**checked)]
    notes += [ReportCode.EXPORT_BIASES_APART(nodes=apart)] if apart else []
    notes += [ReportCode.EXPORT_WIDENED()] if widened else []
    return Exported(folder, [file.name for file in files], "", [sentence(note) for note in notes], checked)


_IR = 10
"""ONNX's IR version: the newest that onnxruntime 1.17 reads is 9 and 1.18 reads 10."""


def _open_plainly(path: Path, run: FinishedRun) -> None:
    """Check that onnxruntime can open a model with its default settings.

    Raises:
        QtoolError: onnxruntime refuses the model.
    """
    import onnxruntime

    from toolkit.graph.sessions.ort_session import explained

    options = onnxruntime.SessionOptions()
    # anything else that it logs is in the error
    options.log_severity_level = 4
    try:
        onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise explained(error, "onnxruntime refuses the float32 model", str(run.folder)) from error


def _checked(run: FinishedRun, model: Model) -> dict[str, Any]:
    """Figures of the comparison between the model under onnxruntime's default optimizations and without them.

    Raises:
        QtoolError: onnxruntime refuses the model or computes different results, or the float model has changed since.
    """
    from toolkit.evaluation.comparison.counterparts import counterparts, run_on
    from toolkit.evaluation.default_optimizations import changed_layers, defaults_fault, sums_saturate
    from toolkit.evaluation.evaluate import outputs_of
    from toolkit.graph.sessions.session import session

    with reachable(run.job):
        run.require_same_model()
        reference, (data, made_up) = run.inputs.reference(), _samples(run)
        floats = session(reference)
        named = counterparts(reference, model, floats.outputs)
        written = partial(run_on, session(model, outputs=list(named.values())), named=named)
        outputs = outputs_of([floats.run, written], data)
        fault = defaults_fault(model, outputs, named)
    if fault is not None:
        why = fault.values.get("why")
        layers = changed_layers(model, [inputs for inputs, _ in outputs]) if why is None else []
        elsewhere = ", or export on another processor: onnxruntime's integer kernels saturate on this one, without VNNI"
        raise QtoolError(
            sentence(ReportCode.EXPORT_REFUSED(why=why, sqnr_db=fault.values.get("sqnr_db"),
                                               written_db=fault.values.get("written_db"), layers=layers)),
            where=str(run.folder),
            remedy=f"{_excluding(layers, why is not None)}use model.onnx with session.disable_quant_qdq"
                   + (elsewhere if sums_saturate() else ""),
        )  # fmt: skip
    return {"samples": min(len(data), 16), "made_up": made_up}


def _excluding(layers: list[str], refused: bool) -> str:
    if refused:
        return "exclude the layers that it rewrites, or "
    if not layers:
        return ""
    return f"exclude {'these layers' if len(layers) > 1 else 'this layer'}, or "


def _samples(run: FinishedRun) -> tuple[CalibrationData, bool]:
    """The evaluation samples, or random ones if there are none; and whether they are random."""
    from toolkit.data.dataset import CalibrationData

    source = run.inputs.source()
    data, _ = run.inputs.evaluation_data(source)
    if data is not None and len(data):
        return data, False
    return CalibrationData.open(None, source, run.job.profiles, random={"seed": 0, "samples": 8}), True
