"""Regression: pictures are compared by PSNR; signals, maps and single values by SNR."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from toolkit.base.types import Array
from toolkit.contract.findings import Finding
from toolkit.evaluation.codes import EvaluationCode
from toolkit.evaluation.tasks.base import OutputPart, Rows, Task, db, flat, one_each
from toolkit.evaluation.tasks.keypoints import Keypoints

_QUIET = 0.01
"""Least signal power of a sample as a share of the usual power: a silent sample alone has no meaningful SNR."""


class Regression(Task):
    """One answer per sample, which is unchanged if its SNR is at least the floor.

    SNR = 10 log10(mean((w - m)^2) / mean((w - f)^2)) in dB, for the float model's values w, their mean m over all
    samples, and the other model's values f. With few values per sample, each one's variance over all samples, averaged,
    replaces mean((w - m)^2), or that of all values if samples are few too; for similarities of two other outputs, it is
    the variance over all pairs of samples.
    """

    name: ClassVar[str] = "regression"
    floor_name: ClassVar[str] = "min_snr_db"
    floor: ClassVar[float] = 20.0
    figure: ClassVar[str] = "snr_db"

    def rule(self) -> Finding:
        """See ``Task.rule``."""
        if self.settings.get("pairs"):
            return EvaluationCode.RULE_SNR_PAIRS(floor=self.level_needed)
        few, each = (bool(self.settings.get(name)) for name in ("few", "each"))
        return EvaluationCode.RULE_SNR(floor=self.level_needed, few=few, quiet=_QUIET, each=each)

    def compare(self, wanted: Sequence[Array], found: Sequence[Array]) -> Rows:
        """See ``Task.compare``. If the settings have no ``mean`` and ``variance``, those of the batch are used."""
        a, b = (flat(np.asarray(values[0], np.float64)) for values in (wanted, found))
        with np.errstate(invalid="ignore", over="ignore"):
            noise = np.square(a - b).mean(axis=1) if a.shape[1] else np.zeros(len(a))
        # NaN counts as a changed answer without a level
        level = np.where(np.isfinite(noise), db(self._signal(np.where(np.isfinite(a), a, 0.0)), noise), np.nan)
        return one_each(level >= self.level_needed, level)

    def _signal(self, wanted: Array) -> Array:
        mean = float(self.settings.get("mean", wanted.mean() if wanted.size else 0.0))
        usual = float(self.settings.get("variance", np.square(wanted - mean).mean() if wanted.size else 0.0))
        if self.settings.get("few"):
            return np.full(len(wanted), usual)
        own = np.square(wanted - mean).mean(axis=1) if wanted.shape[1] else np.zeros(len(wanted))
        return np.maximum(own, _QUIET * usual)


class Image(Regression):
    """As ``Regression``, by PSNR = 10 log10(peak^2 / mean((w - f)^2)) in dB; ``peak`` is the float model's range."""

    floor_name: ClassVar[str] = "min_psnr_db"
    floor: ClassVar[float] = 30.0
    figure: ClassVar[str] = "psnr_db"

    def rule(self) -> Finding:
        """See ``Task.rule``."""
        return EvaluationCode.RULE_PSNR(floor=self.level_needed, peak=float(self.settings["peak"]))

    def _signal(self, wanted: Array) -> Array:
        return np.full(len(wanted), float(self.settings["peak"]) ** 2)


def regression(part: OutputPart) -> Task:
    """Create the task for a part: ``Keypoints`` if it has a ``height``, ``Image`` if it has a ``peak``, else SNR."""
    if "height" in part.settings:
        return Keypoints(part)
    return Image(part) if "peak" in part.settings else Regression(part)
