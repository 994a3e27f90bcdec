"""Recipe lines for single-value inputs that decide an If, since nothing in its branches is quantized."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from toolkit.base.text import plain, toml_string
from toolkit.contract.findings import Finding
from toolkit.contract.registry import passes_with_role
from toolkit.contract.roles import Role
from toolkit.data.dataset import CalibrationData
from toolkit.graph.interface.pasts import reached
from toolkit.graph.model import Model
from toolkit.report.codes import ReportCode
from toolkit.report.findings import sentence


def deciding_inputs(model: Model) -> dict[str, list[str]]:
    """For each single-value input, the If nodes of the main graph whose condition depends on this input alone."""
    found: dict[str, list[str]] = {}
    inputs = {t.name for t in model.graph.inputs}
    single = {t.name for t in model.graph.inputs if t.shape is not None and all(extent == 1 for extent in t.shape)}
    conditions = {node.name: node.inputs[0].name for node in model.nodes if node.op == "If"} if single else {}
    sources = reached(model, set(conditions.values()))
    for name, condition in conditions.items():
        read = sources[condition] & inputs
        if len(read) == 1 and read <= single:
            found.setdefault(read.pop(), []).append(name)
    return found


def fixed_input_lines(model: Model, sources: Iterable[CalibrationData]) -> tuple[list[str], list[Finding]]:
    """The setting ``fixed_inputs`` for inputs with the same value in all samples, as a comment for the user to decide.

    Args:
        sources: the calibration and test samples.

    Returns:
        Lines for the constant-folding pass, and a finding for each input.
    """
    deciding = deciding_inputs(model)
    if not deciding or not any("fixed_inputs" in kind.model_fields for _, kind in passes_with_role(Role.FOLD)[:1]):
        return [], []
    seen: dict[str, set[Any]] = {name: set() for name in deciding}
    for source in sources:
        for sample in source.samples():
            for name, values in seen.items():
                values.add(_plain(sample.inputs[name].reshape(-1)[0]))
    fixed = {name: values.pop() for name, values in seen.items() if len(values) == 1}
    decides = ReportCode.NEW_INPUT_DECIDES
    findings = [decides(input=name, value=value, nodes=deciding[name]) for name, value in fixed.items()]
    return [*(f"# {plain(sentence(one))}" for one in findings), *_setting(fixed)], findings


def _setting(fixed: Mapping[str, Any]) -> list[str]:
    if not fixed:
        return []
    listed = ", ".join(f"{toml_string(name)} = {_word(value)}" for name, value in fixed.items())
    return [f"# fixed_inputs = {{ {listed} }}"]


def _plain(value: Any) -> Any:
    """An array's value as a Python value; floats as the shortest decimal that rounds to them."""
    return value.item() if value.dtype.kind in "biu" else float(str(value))


def _word(value: Any) -> str:
    return str(value).lower() if isinstance(value, (bool, np.bool_)) else repr(value)
