"""The samples that a new recipe is written for, with the input shapes that they have."""

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
        shapes: the shape of each sample, by input.
        arrays: the sources other than image folders.
        images: settings for the first image folder; None without one.
    """

    shapes: dict[str, list[tuple[int, ...]]]
    arrays: list[Path]
    images: ImageTable | None

    @classmethod
    def of(cls, model: Model, sources: Sequence[Path]) -> GivenSamples:
        """Read the shapes of all samples in the sources, and of the first image of a folder.

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
        """Lines for ``[calibration]`` about the preprocessing of images."""
        return self.images.lines if self.images is not None else []

    @property
    def doubt(self) -> Finding | None:
        """The assumption about the preprocessing of images in training; None without one."""
        return self.images.doubt if self.images is not None else None

    def fixed_inputs(self, model: Model) -> tuple[list[str], list[Finding]]:
        """See ``fixed_input_lines``; empty without arrays."""
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
