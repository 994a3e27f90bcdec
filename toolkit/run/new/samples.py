"""The samples that a new recipe is written for, and what they show of the model's inputs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from toolkit.contract.findings import Finding
from toolkit.data.dataset import CalibrationData
from toolkit.data.images import holds_images
from toolkit.graph.model import Model
from toolkit.run.new.fixed_inputs import fixed_input_lines
from toolkit.run.new.images import ImageTable, image_table


@dataclass(frozen=True)
class GivenSamples:
    """Calibration and test data.

    Attributes:
        shapes: by input the shape of each sample.
        arrays: the sources that are no folders of images.
        images: settings for the first folder of images; None without one.
    """

    shapes: dict[str, list[tuple[int, ...]]]
    arrays: list[Path]
    images: ImageTable | None

    @classmethod
    def of(cls, model: Model, sources: Sequence[Path]) -> GivenSamples:
        """Look at every sample of the sources, and at the first image of a folder.

        Raises:
            DataError: a source cannot be read, or does not fit the model.
        """
        folders = [source for source in sources if holds_images(source)]
        images = image_table(model, folders[0]) if folders else None
        shapes: dict[str, list[tuple[int, ...]]] = {}
        for source in sources:
            found = images.seen if images is not None and source in folders else _shapes(model, source)
            for name, seen in found.items():
                shapes.setdefault(name, []).extend(seen)
        return cls(shapes, [source for source in sources if source not in folders], images)

    @property
    def image_lines(self) -> list[str]:
        """Lines for ``[calibration]`` on how images become inputs."""
        return self.images.lines if self.images is not None else []

    @property
    def doubt(self) -> Finding | None:
        """What is assumed of how images were prepared in training."""
        return self.images.doubt if self.images is not None else None

    def fixed_inputs(self, model: Model) -> tuple[list[str], list[Finding]]:
        """See ``fixed_input_lines``; nothing without arrays."""
        opened = (_opened(source, model) for source in self.arrays)
        return fixed_input_lines(model, opened) if self.arrays else ([], [])


def _shapes(model: Model, source: Path) -> dict[str, list[tuple[int, ...]]]:
    found: dict[str, list[tuple[int, ...]]] = {}
    for sample in _opened(source, model).samples():
        for name, value in sample.inputs.items():
            found.setdefault(name, []).append(value.shape)
    return found


def _opened(source: Path, model: Model) -> CalibrationData:
    return CalibrationData.open(str(source.resolve()), model)
