"""The image settings of a new recipe for a folder of images."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from toolkit.base.errors import DataError
from toolkit.base.text import plain
from toolkit.contract.findings import Finding
from toolkit.data.images import image_files, image_size
from toolkit.data.sample import input_specs
from toolkit.graph.model import Model
from toolkit.report.codes import ReportCode

_GUESS = (224, 224)
_LARGEST = 640
"""Images with a longer side are probably unscaled photographs, not the size that a model was trained on."""
_CHANNELS = (1, 3)


@dataclass(frozen=True)
class ImageTable:
    """``[calibration] images``, as far as it follows from model and images.

    Attributes:
        lines: lines of the recipe.
        seen: the shapes that the samples will have, by input.
        doubt: the assumption about preprocessing; None for integer inputs, which the model scales itself.
    """

    lines: list[str]
    seen: dict[str, list[tuple[int, ...]]]
    doubt: Finding | None


def image_table(model: Model, folder: Path) -> ImageTable:
    """Settings for a folder of images; the size, unless the model fixes it, is the first image's if plausible.

    Raises:
        DataError: there are no images, the first cannot be read, or the model's input does not take images.
    """
    first = image_files(folder)[0]
    specs = input_specs(model)
    spec = next(iter(specs.values()))
    dims = spec.dims if spec.dims is not None else (None,) * 4
    if len(specs) > 1 or len(dims) != 4:
        shapes = ", ".join(f"'{one.name}' {list(one.dims or ())}" for one in specs.values())
        raise DataError(
            f"images can feed a model with one input of 4 dimensions; this one has {shapes}",
            where=str(folder),
            remedy="save the samples as .npz instead",
        )
    last = dims[3] in _CHANNELS and dims[1] not in _CHANNELS
    declared, channels = (dims[1:3], dims[3]) if last else (dims[2:], dims[1])
    colours = 1 if channels == 1 else 3
    fixed = [side for side in declared if isinstance(side, int)]
    measured = image_size(first) if len(fixed) < 2 else None
    small = measured is not None and max(measured) <= _LARGEST
    sides = measured if measured is not None and small else _GUESS
    size = [known if isinstance(known, int) else side for known, side in zip(declared, sides)]
    settings = [f"size = {size}"] if len(fixed) < 2 else []
    settings += ['layout = "nhwc"'] if last else []
    settings += ['colour = "gray"'] if colours == 1 else []
    settings += [f"mean = {[0.0] * colours}", f"std = {[1.0] * colours}"]
    lines = [
        "# Each image is scaled to cover the size, cropped to its centre, multiplied by scale (1/255, for integer",
        "# inputs 1); then mean is subtracted and the result divided by std: set them as in training.",
    ]
    if len(fixed) < 2:
        found = f"{plain(first.name)} has {list(measured)}" if measured is not None else "Pillow is not installed"
        where_from = "the first image's" if small else "a guess"
        lines.append(f"# The size, height and width, is {where_from}: check it ({found}).")
    shape = (1, *size, colours) if last else (1, colours, *size)
    doubt = ReportCode.NEW_IMAGES(colour="gray" if colours == 1 else "RGB") if spec.dtype.kind not in "iu" else None
    return ImageTable([*lines, f"images = {{ {', '.join(settings)} }}"], {spec.name: [shape]}, doubt)
