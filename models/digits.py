"""Real digit images, their fixed split, and strips of digits drawn from one split.

The images are scikit-learn's ``load_digits``: 1,797 scans of handwritten digits, 8x8, with values 0..16 that are
divided by 16 here. Every random choice comes from a seed given by the caller or fixed in this file.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from sklearn.datasets import load_digits  # type: ignore[import-untyped]

FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]

SIDE = 8
CLASSES = 10
MIN_LENGTH = 2
MAX_LENGTH = 16

SPLIT_SEED = 20240611
TRAIN_SIZE = 1197
CALIBRATION_SIZE = 100


class Samples(NamedTuple):
    """Labelled images.

    For digits, ``image`` is float32 [N, 1, 8, 8] and ``label`` int64 [N]. For strips of one length L, ``image`` is
    float32 [N, 1, 8, 8 * L] and ``label`` int64 [N, L]. All values of ``image`` lie in 0..1.
    """

    image: FloatArray
    label: IntArray


class Splits(NamedTuple):
    """The three disjoint parts of the data: 1,197 digits to train, 100 to calibrate, 500 to test."""

    train: Samples
    calibration: Samples
    test: Samples


def load_splits() -> Splits:
    """Load the digits and cut them into the same three disjoint parts every time."""
    data = load_digits()
    image = (np.asarray(data.data, dtype=np.float32) / np.float32(16)).reshape(-1, 1, SIDE, SIDE)
    label = np.asarray(data.target, dtype=np.int64)
    order = np.random.default_rng(SPLIT_SEED).permutation(len(label))
    train, calibration, test = np.split(order, [TRAIN_SIZE, TRAIN_SIZE + CALIBRATION_SIZE])
    return Splits(*(Samples(image[index], label[index]) for index in (train, calibration, test)))


def shift_digits(image: FloatArray, rng: np.random.Generator, reach: int = 1) -> FloatArray:
    """Move each image of float32 [N, 1, 8, 8] by up to ``reach`` pixels along both axes and fill the gap with zeros."""
    count = len(image)
    padded = np.pad(image, ((0, 0), (0, 0), (reach, reach), (reach, reach)))
    rows = np.arange(SIDE) + rng.integers(0, 2 * reach + 1, size=(count, 1))
    columns = np.arange(SIDE) + rng.integers(0, 2 * reach + 1, size=(count, 1))
    moved: FloatArray = padded[np.arange(count)[:, None, None], 0, rows[:, :, None], columns[:, None, :]]
    return moved[:, None]


def join_digits(image: FloatArray, rng: np.random.Generator) -> FloatArray:
    """Draw strips from digits that stand side by side.

    ``image`` is float32 [N, L, 8, 8] in 0..1; the result is float32 [N, 1, 8, 8 * L] in 0..1. Each digit is moved
    sideways by -1, 0 or 1 pixel and may reach into its neighbour's cell. Each strip then gets its own contrast and its
    own paper brightness, so that what counts as ink depends on the rest of the strip, and noise on every pixel.
    Values are rounded to 8 bits, as a scanner would.
    """
    count, length = image.shape[:2]
    canvas = np.zeros((count, SIDE, SIDE * length + 2), dtype=np.float32)
    move = rng.integers(-1, 2, size=(count, length))
    for position in range(length):
        padded = np.pad(image[:, position], ((0, 0), (0, 0), (2, 2)))
        columns = np.arange(SIDE + 2) + 1 - move[:, position, None]
        window = np.take_along_axis(padded, columns[:, None, :], axis=2)
        cell = canvas[:, :, SIDE * position : SIDE * (position + 1) + 2]
        np.maximum(cell, window, out=cell)
    ink = canvas[:, :, 1:-1]
    contrast = rng.uniform(0.5, 0.8, size=(count, 1, 1))
    paper = rng.uniform(0.0, 0.2, size=(count, 1, 1))
    noisy = paper + contrast * ink + rng.normal(0.0, 0.04, size=ink.shape)
    strip: FloatArray = (np.round(np.clip(noisy, 0.0, 1.0) * 255) / 255).astype(np.float32)
    return strip[:, None]


def draw_strips(samples: Samples, count: int, length: int, rng: np.random.Generator, shift: bool = False) -> Samples:
    """Draw ``count`` strips of ``length`` digits, with replacement, from ``samples`` only.

    ``shift`` also moves every digit by up to one pixel along both axes first (used to train, not to measure).
    """
    index = rng.integers(0, len(samples.label), size=count * length)
    image = samples.image[index]
    if shift:
        image = shift_digits(image, rng)
    strips = join_digits(image.reshape(count, length, SIDE, SIDE), rng)
    return Samples(strips, samples.label[index].reshape(count, length))


def draw_ragged_strips(samples: Samples, count: int, rng: np.random.Generator) -> list[Samples]:
    """Draw ``count`` single strips (N = 1 each) whose lengths run through 2..16 over and over."""
    spread = MAX_LENGTH - MIN_LENGTH + 1
    return [draw_strips(samples, 1, MIN_LENGTH + number % spread, rng) for number in range(count)]


def save_digits(path: Path, samples: Samples) -> None:
    """Write digits to an npz file with the keys ``image`` and ``label``."""
    np.savez_compressed(path, image=samples.image, label=samples.label)


def save_strips(path: Path, strips: Sequence[Samples]) -> None:
    """Write strips to an npz file with one pair of keys ``image/00000`` and ``label/00000`` per strip."""
    members: dict[str, Any] = {}
    for number, strip in enumerate(strips):
        members[f"image/{number:05d}"] = strip.image
        members[f"label/{number:05d}"] = strip.label
    np.savez_compressed(path, **members)
