"""Mean average precision by COCO's rules, with pycocotools."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from toolkit.base.errors import DataError, RecipeError
from toolkit.base.types import Array
from toolkit.evaluation.metric import Metric, MetricOptions, label_of
from toolkit.evaluation.numerics.boxes import boxes_known, detections
from toolkit.evaluation.tasks import OutputPart, reader

_LEAST = 0.001


class MeanAveragePrecision:
    """Mean average precision over classes, at IoU 0.50 to 0.95, or only at 0.5.

    Labels are float [batch, objects, 5]: x1, y1, x2, y2 and the class, in the unit of the model's boxes, pixels or
    shares of the image; padded with rows of -1. Labels without the axis of objects have one object per sample; for a
    single sample the batch axis may be missing.

    Raises:
        RecipeError: pycocotools is not installed, or no output holds detections.
    """

    higher_is_better = True

    def __init__(self, options: MetricOptions, overlap: float | None) -> None:
        try:
            from pycocotools import coco, cocoeval  # noqa: F401
        except ImportError as error:
            raise RecipeError("the metric map needs pycocotools, which is not installed",
                              remedy="run pip install 'qtool[detection]'") from error  # fmt: skip
        self.part = OutputPart.from_json(json.loads(options.layout)) if options.layout is not None else None
        self.overlap = overlap
        self.found: list[dict[str, Any]] = []
        self.wanted: list[dict[str, Any]] = []
        self.images = self.answers = 0
        self._evaluated: tuple[int, Any] | None = None

    def update(self, outputs: Mapping[str, Array], labels: Mapping[str, Array]) -> None:
        """Add one batch.

        Raises:
            RecipeError: no output holds detections, or none holds the boxes themselves.
            DataError: labels are not rows of box and class, or not as many samples as the outputs.
        """
        if self.part is None:
            raise RecipeError("map needs detections, and no output of the model was recognised as such",
                              remedy='set [evaluation] task = "detection", or use another metric')  # fmt: skip
        if not boxes_known(self.part.settings):
            held = "indices of boxes" if self.part.settings["layout"] == "indices" else "offsets from anchors"
            raise RecipeError(f"map needs boxes, but {self.part.outputs[0]!r} holds {held}",
                              remedy="make the boxes outputs of the model, or give a metric of your own that "
                              "decodes them")  # fmt: skip
        if not labels:
            raise DataError("the metric needs labels, but the data has none", remedy="store them under the key 'label'")
        label, each = label_of(labels), detections(reader(self.part).samples(outputs), self.part.settings, _LEAST)
        if label.ndim == 2:
            # rows are the objects of a single sample, or one object of each of several samples
            label = label[None] if len(each) == 1 else label[:, None]
        if label.ndim != 3 or label.shape[-1] != 5 or len(label) != len(each):
            raise DataError(f"labels of boxes of {len(each)} samples have shape {list(label.shape)}",
                            remedy="give [samples, objects, 5]: x1, y1, x2, y2, class; pad with -1 rows")  # fmt: skip
        for found, rows in zip(each, label):
            self.images += 1
            for box, score, kind in zip(found.boxes, found.scores, found.classes):
                self.found.append(self._entry(box, kind) | {"score": float(score)})
            for row in rows[rows[:, 4] >= 0]:
                self.answers += 1
                self.wanted.append({**self._entry(row[:4], row[4]), "id": self.answers, "iscrowd": 0})

    def _entry(self, box: Array, kind: float) -> dict[str, Any]:
        width, height = float(box[2] - box[0]), float(box[3] - box[1])
        corner = [float(box[0]), float(box[1]), width, height]
        return {"image_id": self.images, "category_id": int(kind), "bbox": corner, "area": width * height}

    def value(self) -> float:
        """The value over all samples, 0 to 1; NaN if no sample has an object."""
        return self.value_among(np.ones(self.images, bool))

    def reach(self) -> tuple[float, float] | None:
        """Median extent of the model's boxes with at least half of the best score, and of the labels' boxes.

        The extent of a box is the larger of its right and bottom. None if there are no boxes of either.
        """
        if not self.found or not self.wanted:
            return None
        best = max(one["score"] for one in self.found)
        sure = [one for one in self.found if one["score"] >= best / 2]
        found, wanted = (np.array([one["bbox"] for one in some]) for some in (sure, self.wanted))
        return float(np.median(_far(found))), float(np.median(_far(wanted)))

    def units(self) -> Array:
        """Each image is a unit of its own."""
        return np.arange(self.images)

    def value_among(self, kept: Array) -> float:
        """The value over the images that are ``kept``, bool [images]; NaN if none of them has an object."""
        if not any(kept[one["image_id"] - 1] for one in self.wanted):
            return float("nan")
        if not self.found:
            return 0.0
        judged = self._judged()
        # detections are matched with objects only once per image
        every = judged.evalImgs
        judged.evalImgs = [one if one is None or kept[one["image_id"] - 1] else None for one in every]
        with contextlib.redirect_stdout(io.StringIO()):
            judged.accumulate()
        judged.evalImgs = every
        # precision is [IoU, recall, class, area, most]
        precision = judged.eval["precision"]
        precision = precision[precision > -1]
        return float(precision.mean()) if precision.size else 0.0

    def _judged(self) -> Any:
        """The evaluated ``COCOeval`` of all images so far, with detections matched to objects."""
        if self._evaluated is not None and self._evaluated[0] == self.images:
            return self._evaluated[1]
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval

        kinds = sorted({one["category_id"] for one in self.wanted + self.found})
        with contextlib.redirect_stdout(io.StringIO()):
            truth = COCO()
            truth.dataset = {
                "info": {},
                "images": [{"id": number} for number in range(1, self.images + 1)],
                "annotations": self.wanted,
                "categories": [{"id": kind} for kind in kinds],
            }
            truth.createIndex()
            judged = COCOeval(truth, truth.loadRes([dict(one) for one in self.found]), "bbox")
            if self.overlap is not None:
                judged.params.iouThrs = np.asarray([self.overlap])
            # only all areas with at most 100 detections per image: COCO's other figures are not needed
            judged.params.areaRng, judged.params.areaRngLbl = judged.params.areaRng[:1], judged.params.areaRngLbl[:1]
            judged.params.maxDets = judged.params.maxDets[-1:]
            judged.evaluate()
        self._evaluated = self.images, judged
        return judged


def _far(boxes: Array) -> Array:
    """The larger of right and bottom, float64 [n], of boxes as x, y, width and height, [n, 4]."""
    return np.asarray((boxes[:, :2] + boxes[:, 2:]).max(axis=1))


BUILT_IN: dict[str, Callable[[MetricOptions], Metric]] = {
    "map": lambda options: MeanAveragePrecision(options, None),
    "map50": lambda options: MeanAveragePrecision(options, 0.5),
}
