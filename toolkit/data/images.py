"""A folder of images as samples: decoded, resized, cropped and normalized according to settings. Needs Pillow."""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from toolkit.base.errors import DataError, did_you_mean
from toolkit.base.profiles import Shape
from toolkit.base.reading import FileKind, reading, require_regular
from toolkit.base.types import Array
from toolkit.data.sample import InputsAndLabels, InputSpec, Keep, Specs

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff", ".pgm", ".ppm")
_FORMATS = ("PNG", "JPEG", "BMP", "WEBP", "TIFF", "PPM")
_MOST_PIXELS = 100_000_000
_KIND = FileKind(
    "it cannot be read as an image", DataError, "repair or remove the file, or save its samples as arrays in a .npz"
)
_SUBFILE_TYPE, _REDUCED_OR_MASK = 254, 0b101
"""TIFF 6.0's NewSubfileType, and its bits of a page that is a smaller copy, or the transparency, of another."""
_KNOWN = ("size", "resize", "crop", "layout", "mean", "std", "colour", "scale", "input")


def holds_images(folder: Path) -> bool:
    """Whether a folder holds images and no .npz or .npy files, which take precedence."""
    kinds = {path.suffix.lower() for path in folder.rglob("*")}
    return not kinds & {".npz", ".npy"} and bool(kinds & set(IMAGE_SUFFIXES))


def image_files(folder: Path) -> list[Path]:
    """The images in a folder and its sub-folders, sorted by path.

    Raises:
        DataError: there are none.
    """
    found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES)
    if not found:
        raise DataError("the folder holds no images", where=str(folder), remedy="check the path of the data")
    return found


def image_size(path: Path) -> tuple[int, int] | None:
    """Height and width of an image in pixels; None if Pillow is not installed.

    Raises:
        DataError: the file is not an image.
    """
    if importlib.util.find_spec("PIL") is None:
        return None
    with _opened(path) as image:
        return int(image.height), int(image.width)


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    from PIL import Image

    with reading(path, _KIND), warnings.catch_warnings():
        # Pillow warns of damaged tags; either the pixels are read all the same, or reading them is an error
        warnings.simplefilter("ignore")
        require_regular(path)
        with Image.open(path, formats=_FORMATS) as image:
            if image.mode in ("I", "F") or image.mode.startswith("I;"):
                raise ValueError(f"its pixels have more than 8 bits (Pillow's mode {image.mode}), of an unknown range")
            if image.width * image.height > _MOST_PIXELS:
                raise ValueError(f"it has {image.width} x {image.height} pixels; the limit is {_MOST_PIXELS:,}")
            if (frames := _frames(image)) > 1:
                raise _KIND.fault(
                    path,
                    f"it holds {frames} pages or frames, and a sample is one image",
                    "save each page that is a sample as a file of its own, or the samples as arrays in a .npz",
                )
            yield image


def _frames(image: Any) -> int:
    """How many pages or frames an image file holds, apart from previews and masks of its first."""
    # the further frames of a camera's MPO are previews
    if image.format == "MPO":
        return 1
    frames = getattr(image, "n_frames", 1)
    if frames == 1 or image.format != "TIFF":
        return int(frames)
    pages = 0
    for number in range(frames):
        image.seek(number)
        pages += not image.tag_v2.get(_SUBFILE_TYPE, 0) & _REDUCED_OR_MASK
    image.seek(0)
    return pages


class Images:
    """Every image file of a folder, including its sub-folders, sorted by path.

    Args:
        folder: the folder of the images.
        settings: ``size`` [height, width] in pixels (default: the model's, if fixed). ``crop``: ``center`` (default:
            scale the image until it covers the size, or its shorter side to ``resize`` if given, then crop the center),
            ``none`` (scale to the size, ignoring the aspect ratio) or ``pad`` (scale the image until it fits, and pad
            with zeros). ``layout``: ``nchw`` (default) or ``nhwc``. ``colour``: ``rgb`` (default), ``bgr`` or
            ``gray``. Values are multiplied by ``scale`` (default 1/255 for float inputs, 1 for integer ones), then
            ``mean`` is subtracted and the result divided by ``std``, each one number or one per channel in the model's
            channel order. ``input``: the input that receives the images.

    Raises:
        DataError: there are no images, a setting is unknown or wrong, or no size is known.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any], specs: Specs) -> None:
        self._where = f"images in {folder}"
        for key in settings:
            if key not in _KNOWN:
                raise self._fault(key, "is not an image setting", did_you_mean(key, _KNOWN))
        settings = {key: value for key, value in settings.items() if value is not None and value != []}
        self._files = image_files(folder)
        self._folder, self.cut = folder, 0
        self._spec = self._input(settings, specs)
        self._layout = self._choice(settings, "layout", ("nchw", "nhwc"))
        self._crop = self._choice(settings, "crop", ("center", "none", "pad"))
        self._colour = self._choice(settings, "colour", ("rgb", "bgr", "gray"))
        self._resize = settings.get("resize")
        self._size = self._target(settings)
        is_float = self._spec.dtype.kind not in "iu"
        self._scale = float(settings.get("scale", 1 / 255 if is_float else 1.0))
        self._mean, self._std = self._channels(settings, "mean", 0.0), self._channels(settings, "std", 1.0)

    def _input(self, settings: Mapping[str, Any], specs: Specs) -> InputSpec:
        name = str(settings.get("input", next(iter(specs))))
        if name not in specs or len(specs) > 1:
            raise DataError(
                f"images can feed a model with one input; this one has {', '.join(specs)}",
                where=self._where,
                remedy="save the samples as .npz instead",
            )
        return specs[name]

    def _choice(self, settings: Mapping[str, Any], key: str, known: tuple[str, ...]) -> str:
        value = str(settings.get(key, known[0]))
        if value not in known:
            raise self._fault(key, f"is '{value}'", "one of " + ", ".join(known))
        return value

    def _target(self, settings: Mapping[str, Any]) -> tuple[int, int]:
        size: Any = settings.get("size")
        if size is None and self._spec.dims is not None and len(self._spec.dims) == 4:
            size = self._spec.dims[2:] if self._layout == "nchw" else self._spec.dims[1:3]
        sides = list(size) if isinstance(size, Sequence) and not isinstance(size, str) else []
        if len(sides) != 2 or not all(isinstance(side, int) and side > 0 for side in sides):
            given, declared = settings.get("size"), list(self._spec.dims or ())
            unknown = f"is not given, and the model does not fix it: '{self._spec.name}' has {declared}"
            raise self._fault(
                "size",
                unknown if given is None else f"is {given!r}, not [height, width]",
                "give the size that the model expects, such as images = { size = [224, 224] }",
            )
        return sides[0], sides[1]

    def _channels(self, settings: Mapping[str, Any], key: str, default: float) -> Array:
        value = np.asarray(settings.get(key, default), np.float32).reshape(-1)
        count = 1 if self._colour == "gray" else 3
        if len(value) not in (1, count) or (key == "std" and not value.all()):
            raise self._fault(key, f"is {settings.get(key)!r}", f"give one number or {count}, none of std 0")
        return value

    def _fault(self, key: str, what: str, remedy: str) -> DataError:
        return DataError(f"[calibration] images.{key} {what} ({self._where})", remedy=remedy, value="images")

    def __len__(self) -> int:
        """Number of image files."""
        return len(self._files)

    def shapes(self) -> Sequence[Mapping[str, Shape]]:
        """See ``toolkit.data.sources.Source``: every sample has one row, so none are listed."""
        return ()

    def read(self, keep: Keep) -> Iterator[tuple[int, str, InputsAndLabels]]:
        """See ``toolkit.data.sources.Source``.

        Raises:
            DataError: Pillow is missing, or a file is not an image.
        """
        for index, path in enumerate(self._files):
            if keep(index):
                yield index, str(path), ({self._spec.name: self._load(path)}, {})

    def _load(self, path: Path) -> Array:
        try:
            from PIL import Image
        except ImportError as error:
            raise DataError(
                "reading images needs Pillow",
                where=self._where,
                remedy="install it by pip install 'qtool[images]' (or pillow), or save the samples as .npz",
            ) from error
        with _opened(path) as opened:
            # of a palette with transparent colours, Pillow warns unless they are kept at first
            plain = opened.convert("RGBA") if opened.mode == "P" else opened
            image = plain.convert("L" if self._colour == "gray" else "RGB")
            pixels = np.asarray(self._shaped(image, Image), np.float32)
        pixels = pixels.reshape(*pixels.shape[:2], -1)
        if self._colour == "bgr":
            pixels = pixels[..., ::-1]
        values = (pixels * np.float32(self._scale) - self._mean) / self._std
        if self._spec.dtype.kind in "iu":
            info = np.iinfo(self._spec.dtype)
            values = np.clip(np.rint(values), info.min, info.max)
        if self._layout == "nchw":
            values = values.transpose(2, 0, 1)
        return np.ascontiguousarray(values.astype(self._spec.dtype)[None])

    def _shaped(self, image: Any, pillow: Any) -> Any:
        height, width = self._size
        if self._crop == "none":
            return image.resize((width, height), pillow.Resampling.BILINEAR)
        ratios = width / image.width, height / image.height
        factor = min(ratios) if self._crop == "pad" else max(ratios)
        if self._crop == "center" and self._resize:
            factor = max(factor, float(self._resize) / min(image.width, image.height))
        sides = max(1, round(image.width * factor)), max(1, round(image.height * factor))
        if sides[0] * sides[1] > _MOST_PIXELS:
            raise ValueError(f"scaled to cover {width} x {height} it has {sides[0]} x {sides[1]} pixels")
        scaled = image.resize(sides, pillow.Resampling.BILINEAR)
        left, top = (scaled.width - width) // 2, (scaled.height - height) // 2
        return scaled.crop((left, top, left + width, top + height))
