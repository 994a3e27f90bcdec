"""What every part of the report has in common: no unknown keys, no number that is not finite."""

from __future__ import annotations

import math
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict


def _finite_or_none(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


Finite = Annotated[float | None, BeforeValidator(_finite_or_none)]
"""A float, or null where it would be NaN or infinite."""


class Part(BaseModel):
    """What every part of the report has in common: no unknown keys, no NaN, no infinity."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, populate_by_name=True)
