"""When an answer counts as unchanged, by task, in words."""

from __future__ import annotations

from toolkit.evaluation.codes import EvaluationCode
from toolkit.report.findings.table import Table
from toolkit.report.findings.words import percent


def _embedding(floor: float, near: float, among: str = "") -> str:
    sample = f"vector of '{among}'" if among else "sample"
    return (
        f"An embedding is kept if its cosine with the float model's is at least {floor:g} and the {sample} that is "
        f"nearest now was the float model's nearest, or short of it by at most {percent(near, 0)} of the gap between "
        f"the nearest and the median {'vector' if among else 'sample'}."
    )


def _mask(floor: float, small: float, several: bool = False, lost: float = 0.0, share: float = 0.0) -> str:
    mean = ", the mean over channels, each a mask of its own" if several else ""
    of = "masks" if several else "classes"
    each = f", and at least {percent(share)} of the {of} have an IoU of {lost:g} or more" if lost else ""
    size = f"; classes of less than {percent(small)} of the pixels are left out" if small else ", however small it is"
    return f"A mask is kept if its mean IoU with the float model's is at least {floor:g}{mean}{each}{size}."


def _detections(
    threshold: float, slack: float, iou: float, floor: float = 1.0, scored: bool = True, activation: str = "",
    background: int | None = None, offsets: bool = False,
) -> str:  # fmt: skip
    over = f" that scores over {threshold:.3g}" if scored else ""
    weaker = f", a score over {slack * threshold:.3g}" if scored else ""
    how = [f"as logits, by {activation}"] if activation else []
    how += [f"with class {background} as «no object»"] if background is not None else []
    read = f" Scores are read {', '.join(how)}." if how else ""
    if offsets:
        read = (
            " Boxes are offsets from anchors that the model does not hold, so each anchor counts as a detection of its "
            f"own, matched by the same anchor.{read}"
        )
    return (
        f"A detection of either model{over} is matched by one of the other's: the same class, IoU {iou:g} or "
        f"more{weaker}. A sample's detections are kept if at least {floor:.3g} of them are matched.{read}"
    )


def _points(floor: float, seen: float, slack: float, near: float, several: float = 0.0) -> str:
    where = (
        f"A key point is each separate peak of a map that is at least {several:g} of the map's highest one, and at "
        f"least {seen:g} of the usual height above the map's median."
        if several
        else f"A key point is the maximum of its map, if it is at least {seen:g} of the usual height above the map's "
        "median; other peaks of the map are not compared."
    )
    return (
        f"{where} It is matched if the other model has it at most one cell, or {percent(near, 0)} of the map's side, "
        f"away, at {slack:g} of that height or more. A sample's points are kept if at least {floor:.3g} of them are "
        "matched."
    )


RULES: Table = {
    EvaluationCode.RULE_EMBEDDING: _embedding,
    EvaluationCode.RULE_DETECTION: _detections,
    EvaluationCode.RULE_INDICES: (
        "The model returns the indices of the chosen boxes, not the boxes: an index of either model is matched if the "
        "other model chose the same one, with the same class if there is one, in any order. A sample's choice is kept "
        "if at least {floor:.3g} of it is matched. Another box of the same object counts as lost: add boxes and scores "
        "to the outputs to compare these."
    ),
    EvaluationCode.RULE_POINTS: _points,
    EvaluationCode.RULE_MASK: _mask,
    EvaluationCode.RULE_LABELS: lambda threshold, single: (
        f"An answer is kept if its score stays on the same side of {threshold:.3g}."
        if single
        else f"Labels are kept if the same classes score over {threshold:.3g}."
    ),
    EvaluationCode.RULE_READING: (
        "A reading is kept if it is the same, with repeats collapsed and class {blank} left out."
    ),
    EvaluationCode.RULE_SNR: lambda floor, few, quiet, each=True: (
        f"Values are kept if the sample's SNR is at least {floor:g} dB: 10 log10(variance of the float model's "
        "values / mean squared difference from them), with the variance "
        + (
            f"of {'each value' if each else 'all values'} over all samples."
            if few
            else f"within the sample, or {percent(quiet, 0)} of the usual one if that is more."
        )
        + " The SNR shown is the mean over samples."
    ),
    EvaluationCode.RULE_SNR_PAIRS: (
        "A similarity is kept if its SNR is at least {floor:g} dB: 10 log10(variance of the float model's "
        "similarities / squared difference from them), with the variance over all pairs of samples. The SNR shown is "
        "the mean over samples."
    ),
    EvaluationCode.RULE_PSNR: (
        "An image is kept if its PSNR is at least {floor:g} dB: 10 log10(range squared / mean squared difference "
        "from the float model's), with a range of {peak:.4g}. The PSNR shown is the mean over images."
    ),
}
