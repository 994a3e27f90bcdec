"""TensorRT's own calibrators (8.6 to 10), fed with qtool's batches through Polygraphy, inside the child process."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from toolkit.backends.building.messages import IN_THE_LOG
from toolkit.backends.processes.channel import Channel
from toolkit.base.errors import BackendError
from toolkit.base.files import sha256_file, write_json
from toolkit.base.reading import own_json
from toolkit.base.text import literal_glob

CLASSES = {
    "entropy2": "IInt8EntropyCalibrator2",
    "entropy": "IInt8EntropyCalibrator",
    "minmax": "IInt8MinMaxCalibrator",
    "legacy": "IInt8LegacyCalibrator",
}
# The legacy calibrator's percentile; Polygraphy's own default of 0.5 would clip half of all values.
_QUANTILE, _CUTOFF = 0.9999, 1.0


class _ServedBatches:
    """Yields the batches from their files, and counts them."""

    def __init__(self, files: list[str]) -> None:
        self.files, self.served = files, 0

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for file in self.files:
            with np.load(file, allow_pickle=False) as stored:
                batch = {name: stored[name] for name in stored.files}
            self.served += 1
            yield batch


class Calibration:
    """One calibration: its calibrator, its profile, and the check that all batches were used.

    Raises:
        BackendError: this version has no such calibrator, or the batches do not have the profile's opt shapes (TensorRT
            would silently end calibration there).
    """

    def __init__(self, trt: Any, request: Mapping[str, Any], inputs: Mapping[str, list[int]]) -> None:
        from polygraphy.backend.trt import Calibrator

        self._trt = trt
        self._where = f'[engine] calibrator = "{request["settings"]["calibrator"]}"'
        name = CLASSES[request["settings"]["calibrator"]]
        if not hasattr(trt, name):
            raise BackendError(
                f"TensorRT {trt.__version__} has no {name}",
                where=self._where,
                remedy='use calibrator = "ranges", or Q/DQ pairs',
            )
        self._batches = _ServedBatches(list(request["batches"]))
        self._shapes = self._opt_shapes(request, inputs)
        self._check()
        self._cache = Path(request["calibration_cache"]) if request["calibration_cache"] else None
        self._made_from = self._fingerprint(request, name)
        self._reused = self._prepare_cache()
        self.calibrator = Calibrator(
            data_loader=self._batches,
            cache=str(self._cache) if self._cache else None,
            BaseClass=getattr(trt, name),
            quantile=_QUANTILE,
            regression_cutoff=_CUTOFF,
        )

    def choose_profile(self, builder: Any, network: Any, config: Any) -> None:
        """Set the calibration profile in the configuration, since Polygraphy uses the last profile."""
        from polygraphy.backend.trt import Profile

        profile = Profile()
        for name, shape in self._shapes.items():
            profile.add(literal_glob(name), min=shape, opt=shape, max=shape)
        config.set_calibration_profile(profile.fill_defaults(network).to_trt(builder, network))

    def finish(self, talk: Channel) -> None:
        """Check that TensorRT read every batch, and write the cache's fingerprint to a file beside it.

        Raises:
            BackendError: calibration ended early; its cache is removed.
        """
        total = len(self._batches.files)
        if self._reused and not self._batches.served:
            talk.log(f"INFO: calibration cache '{self._cache}' was made from the same model and data: it is used")
            return
        if self._batches.served < total:
            if self._cache is not None:
                self._cache.unlink(missing_ok=True)
            raise BackendError(
                f"TensorRT took {self._batches.served} of {total} calibration batches",
                where=self._where,
                remedy=f'{IN_THE_LOG}; calibrator = "ranges" needs no batches',
            )
        if self._cache is not None:
            content = sha256_file(self._cache) if self._cache.is_file() else ""
            write_json(self._sidecar(), {"made_from": self._made_from, "batches": total, "content": content})

    def _opt_shapes(self, request: Mapping[str, Any], inputs: Mapping[str, list[int]]) -> dict[str, tuple[int, ...]]:
        wanted = request["calibration_profile"]
        profiles = request["profiles"]
        chosen = next((p for p in profiles if p["name"] == wanted), profiles[-1] if profiles else {"shapes": {}})
        return {
            name: tuple(chosen["shapes"][name]["opt"]) if name in chosen["shapes"] else tuple(shape)
            for name, shape in inputs.items()
        }

    def _check(self) -> None:
        for number, file in enumerate(self._batches.files):
            with np.load(file, allow_pickle=False) as stored:
                shapes = {name: tuple(stored[name].shape) for name in stored.files}
            if shapes != self._shapes:
                raise BackendError(
                    f"calibration batch {number} has {shapes}, the calibration profile's opt shapes are {self._shapes}",
                    where=self._where,
                    remedy='pad or crop the samples to the profile\'s opt shape, or use calibrator = "ranges"',
                )

    def _fingerprint(self, request: Mapping[str, Any], name: str) -> str:
        digest = hashlib.sha256(f"{name} {self._trt.__version__} {sorted(self._shapes.items())}".encode())
        for file in (request["model"], *self._batches.files):
            digest.update(sha256_file(Path(file)).encode())
        return digest.hexdigest()

    def _sidecar(self) -> Path:
        assert self._cache is not None
        return self._cache.with_name(self._cache.name + ".json")

    def _prepare_cache(self) -> bool:
        """Whether the cache is valid; if damaged or made from anything else, it is removed: TensorRT would use it."""
        if self._cache is None or not self._cache.exists():
            return False
        stored = own_json(self._sidecar())
        wanted = {"made_from": self._made_from, "content": sha256_file(self._cache)}
        if isinstance(stored, dict) and all(stored.get(name) == value for name, value in wanted.items()):
            return True
        self._cache.unlink()
        return False
