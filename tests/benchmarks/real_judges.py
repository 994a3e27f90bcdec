"""Independent judges of trained models' answers: what of them an application would notice. Nothing here is qtool's code."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

Arrays = Mapping[str, np.ndarray]


def only(outputs: Arrays) -> np.ndarray:
    (array,) = outputs.values()
    return array


def same_class(reference: Arrays, tested: Arrays) -> bool:
    return bool(only(reference).argmax() == only(tested).argmax())


def right_class(outputs: Arrays, label: np.ndarray) -> bool:
    return bool(only(outputs).argmax() == int(label))


def reading(scores: np.ndarray) -> list[int]:
    """[T, 1, C] scores: the classes with the largest, repetitions taken once and the blank, 0, left out."""
    row = scores[:, 0].argmax(-1)
    return [int(v) for v, before in zip(row, [-1, *row[:-1]]) if v not in (0, before)]


def same_reading(reference: Arrays, tested: Arrays) -> bool:
    return reading(only(reference)) == reading(only(tested))


def right_reading(outputs: Arrays, label: np.ndarray) -> bool:
    """``label`` [L], filled up with -1."""
    return reading(only(outputs)) == [int(v) for v in label if v >= 0]


def boxes(output: np.ndarray, threshold: float = 0.1, overlap: float = 0.45) -> np.ndarray:
    """[M, 4] corners of one picture's YOLOX output [3549, 6] after suppression, with the threshold that ddddocr sets."""
    cells = [(x, y, s) for s in (8, 16, 32) for y in range(416 // s) for x in range(416 // s)]
    grid, stride = np.float32([(x, y) for x, y, _ in cells]), np.float32([[s] for _, _, s in cells])
    center, size = (output[:, :2] + grid) * stride, np.exp(np.minimum(output[:, 2:4], 10)) * stride
    score, corners = output[:, 4] * output[:, 5], np.concatenate([center - size / 2, center + size / 2], 1)
    order = [i for i in np.argsort(-score) if score[i] > threshold]
    kept: list[int] = []
    for i in order:
        if all(iou(corners[i], corners[k]) < overlap for k in kept):
            kept.append(i)
    return corners[kept]


def iou(a: np.ndarray, b: np.ndarray) -> float:
    low, high = np.maximum(a[:2], b[:2]), np.minimum(a[2:], b[2:])
    both = float(np.prod(np.maximum(high - low, 0)))
    return both / (float(np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2])) - both + 1e-9)


def matched(wanted: np.ndarray, found: np.ndarray) -> bool:
    """Whether each of the wanted has a partner of its own, with an intersection over union of 0.5 and more."""
    left = list(range(len(found)))
    for box in wanted:
        best = max(left, key=lambda i: iou(box, found[i]), default=None)
        if best is None or iou(box, found[best]) < 0.5:
            return False
        left.remove(best)
    return True


def same_boxes(reference: Arrays, tested: Arrays) -> bool:
    """Whether both show the same set of boxes, those of a score about the threshold shown or not.

    A box counts as lost where none with 0.8 of the threshold is left, and as new where it was below that before.
    """
    one, other = only(reference)[0], only(tested)[0]
    return matched(boxes(one), boxes(other, 0.08)) and matched(boxes(other), boxes(one, 0.08))


def right_boxes(outputs: Arrays, label: np.ndarray) -> bool:
    """``label`` [M, 4] corners, filled up with rows of -1."""
    wanted, found = label[label[:, 0] >= 0], boxes(only(outputs)[0])
    return len(wanted) == len(found) and matched(wanted, found)


def overlap(one: np.ndarray, other: np.ndarray) -> float:
    union = int((one | other).sum())
    return 1.0 if union == 0 else int((one & other).sum()) / union


def same_mask(reference: Arrays, tested: Arrays) -> bool:
    """Whether what lies above 0.5 overlaps by an intersection over union of 0.95."""
    return overlap(only(reference) > 0.5, only(tested) > 0.5) >= 0.95


def right_mask(outputs: Arrays, label: np.ndarray) -> bool:
    """Whether what lies above 0.5 overlaps with what was drawn, ``label`` [H, W], by half and more."""
    return overlap(only(outputs)[0, 0] > 0.5, label > 0) >= 0.5
