"""qtool: from a float ONNX model to a mixed-precision TensorRT engine, with the precision of every layer explained.

Everything public is here and is loaded when first used, so that ``import toolkit`` stays light.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

_HOMES = {
    "Precision": "toolkit.base.precision",
    "QtoolError": "toolkit.base.errors",
    "ShapeProfile": "toolkit.base.profiles",
    "Profiles": "toolkit.base.profiles",
    "Extent": "toolkit.base.profiles",
    "Model": "toolkit.graph.model",
    "Journal": "toolkit.contract.journal",
    "PrecisionPlan": "toolkit.contract.plan",
    "Pass": "toolkit.contract.passes",
    "Context": "toolkit.contract.context",
    "Sequence": "toolkit.contract.passes",
    "CalibrationData": "toolkit.data.dataset",
    "Ranges": "toolkit.contract.ranges",
    "Calibrator": "toolkit.calibration.provider",
    "Recipe": "toolkit.run.recipe",
    "run": "toolkit.run.pipeline",
}

__all__ = ["__version__", *_HOMES]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'toolkit' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted(__all__)
