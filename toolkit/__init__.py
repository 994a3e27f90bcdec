"""qtool: from a float ONNX model to a mixed-precision TensorRT engine, with the precision of every layer explained.

Everything public is here and is loaded when first used, so that ``import toolkit`` stays light.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

_HOMES = {
    "Precision": "toolkit.precision",
    "QtoolError": "toolkit.errors",
    "ShapeProfile": "toolkit.profiles",
    "Profiles": "toolkit.profiles",
    "Extent": "toolkit.profiles",
    "Model": "toolkit.model",
    "Journal": "toolkit.journal",
    "PrecisionPlan": "toolkit.plan",
    "Pass": "toolkit.graph_pass",
    "Context": "toolkit.graph_pass",
    "Sequence": "toolkit.graph_pass",
    "CalibrationData": "toolkit.data",
    "Ranges": "toolkit.calibration.ranges",
    "Calibrator": "toolkit.calibration.provider",
    "Recipe": "toolkit.recipe",
    "run": "toolkit.pipeline",
}

__all__ = ["__version__", *_HOMES]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'toolkit' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted(__all__)
