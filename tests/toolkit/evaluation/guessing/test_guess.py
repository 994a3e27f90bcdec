"""What a model is taken to be for, by what is seen of its outputs."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests.conftest import build, node
from toolkit import Model
from toolkit.base.errors import RecipeError
from toolkit.evaluation.codes import EvaluationCode
from toolkit.evaluation.comparison.answers import Answers
from toolkit.evaluation.guessing.guess import guess
from toolkit.evaluation.guessing.judged import judged_by
from toolkit.evaluation.guessing.parts import bins_among, parts_for
from toolkit.evaluation.metrics.options import options_for
from toolkit.evaluation.observation.observe import observe
from toolkit.evaluation.observation.observed import SeenModel, SeenOutput
from toolkit.evaluation.tasks import reader
from toolkit.report.findings import sentence
from toolkit.report.findings.outputs.tasks import figure_words

RNG, OTHER = np.random.default_rng(1), np.random.default_rng(2)
IMAGE = {"image": np.zeros((3, 64, 64), np.float32)}
TOKENS = {"ids": np.zeros(16, np.int64)}
LINE = {"image": np.zeros((1, 32, 160), np.float32)}
AUDIO = {"audio": np.zeros((1, 16000), np.float32)}


def softmax(values, axis=-1):
    powers = np.exp(values - values.max(axis=axis, keepdims=True))
    return powers / powers.sum(axis=axis, keepdims=True)


def normal(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


def out(name, values, *ops, declared=None):
    """An output with its samples: values [samples, ...]; as the model declares it, the batch is free."""
    samples = [np.asarray(one, one.dtype if one.dtype.kind in "iub" else np.float32) for one in values]
    return SeenOutput(name, declared or ("n", *values.shape[1:]), samples, 0, frozenset(ops))


def seen(*outputs, inputs=IMAGE, ops=()):
    return SeenModel(list(outputs), inputs, frozenset(ops) | {op for one in outputs for op in one.ops})


def boxes(samples=8, anchors=100, scale=60.0):
    return RNG.uniform(2, scale, (samples, anchors, 4))


def few(samples=8, anchors=100, classes=6):
    scores = RNG.uniform(0, 0.03, (samples, anchors, classes))
    scores[:, ::25, 2] = RNG.uniform(0.6, 0.9, (samples, 4))
    return scores


def blanks(samples=8, positions=40, classes=30):
    scores = normal(samples, positions, classes)
    scores[..., 0] += np.where(RNG.random((samples, positions)) < 0.7, 8, 0)
    return scores


CASES = {
    "logits of classes": (seen(out("logits", normal(8, 10), "Gemm")), "classification"),
    "shares of classes": (seen(out("output", softmax(normal(8, 1000)), "Softmax")), "classification"),
    "labels": (seen(out("output", 1 / (1 + np.exp(-normal(8, 20))), "Sigmoid")), "classification"),
    "a sentence encoder": (
        seen(out("sentence_embedding", normal(8, 384), "Div"), inputs=TOKENS, ops=["LayerNormalization"]), "embedding",
    ),
    "normalized vectors": (
        seen(out("output", (lambda v: v / np.linalg.norm(v, axis=1, keepdims=True))(normal(8, 256)), "Div")), "embedding",
    ),
    "hidden states": (
        seen(out("last_hidden_state", normal(8, 16, 768), "LayerNormalization"), inputs=TOKENS), "embedding",
    ),
    "a label a token": (seen(out("logits", normal(8, 16, 9), "Add"), inputs=TOKENS), "sequence"),
    "a decoder": (seen(out("logits", normal(2, 16, 8192), "MatMul"), inputs=TOKENS), "generation"),
    "a text recogniser": (seen(out("output", softmax(blanks()), "Softmax"), inputs=LINE, ops=["LSTM"]), "ctc"),
    "labels of positions": (seen(out("output", RNG.integers(0, 9, (8, 16)), "ArgMax"), inputs=TOKENS), "sequence"),
    "masks of classes": (seen(out("output", normal(4, 21, 64, 64), "Resize")), "segmentation"),
    "a mask": (
        seen(out("output", (normal(4, 1, 64, 64) > 0).astype(np.float32), "Sigmoid")), "segmentation",
    ),
    "an image": (seen(out("output", RNG.random((4, 3, 128, 128)), "Clip")), "regression"),
    "a value": (seen(out("output", normal(8, 1), "Gemm")), "regression"),
    "a value for each frame": (seen(out("pitch", OTHER.standard_normal((8, 62)), "Pow", declared=("n", "frames")), inputs=AUDIO), "regression"),
    "a piano roll": (
        seen(out("notes", OTHER.random((8, 172, 88)), "Sigmoid", declared=("n", 172, 88)), inputs=AUDIO), "segmentation",
    ),
    "speech": (seen(out("enhanced", normal(4, 1, 16000), "ConvTranspose"), inputs=AUDIO), "regression"),
    "boxes and scores in one": (seen(out("output0", np.concatenate([boxes(), few()], axis=2), "Concat")), "detection"),
    "channels before anchors": (
        seen(out("output0", np.moveaxis(np.concatenate([boxes(), few()], axis=2), 1, 2), "Concat")), "detection",
    ),
    "boxes and scores apart": (seen(out("boxes", boxes()), out("scores", few(), "Sigmoid")), "detection"),
    "suppressed rows": (
        seen(out("detections", np.concatenate([
            np.sort(boxes(8, 20).reshape(8, 20, 2, 2), axis=2).reshape(8, 20, 4),
            RNG.uniform(0.1, 0.9, (8, 20, 1)), RNG.integers(0, 5, (8, 20, 1)),
        ], axis=2)), ops=["NonMaxSuppression"]), "detection",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_what_is_seen_tells_the_task(name):
    model, task = CASES[name]
    found = guess(model)
    assert found.task == task and found.parts[0].task == task
    assert {clue.values["kind"] for clue in found.clues} <= {"shape", "values", "name", "operator"}
    # never by one kind of clue alone
    assert found.sure == (len({clue.values["kind"] for clue in found.clues}) >= 2 and not found.others)


def test_chances_of_as_many_labels_as_positions_are_compared_as_a_mask():
    lengths = RNG.integers(60, 200, 12)
    chances = [(np.sin(np.arange(one) / 9) > 0).astype(np.float32) * 0.9 + 0.05 for one in lengths]
    speech = SeenOutput("speech_probs", ("frames",), chances, None, frozenset({"Sigmoid"}))
    found = guess(seen(speech, inputs=AUDIO))
    assert found.task == "segmentation" and found.sure
    (part,) = found.parts
    judge = reader(part)
    # one position in 60 differs, on the border of a stretch: as labels of the whole sample none would be unchanged
    rows = judge.compare([chances[0][None]], [np.where(np.arange(lengths[0]) == 29, 0.95, chances[0])[None]])
    assert float(rows["level"][0]) > 0.95


@pytest.mark.parametrize(
    ("name", "words"),
    [("logits_per_image", {"logits"}), ("image_embeds", {"image", "embeds"}), ("per_image", {"per", "image"})],
)
def test_what_a_value_is_given_for_does_not_name_the_value(name, words):
    assert SeenOutput(name, None).words == words


def ragged(lengths, values):
    return SeenOutput(
        "scores", ("labels",), [values(one).astype(np.float32) for one in lengths], None, frozenset({"Sigmoid"})
    )


@pytest.mark.parametrize("most", [0.008, 0.3, 1.0])
def test_chances_of_as_many_labels_as_were_asked_for_are_no_mask(most):
    """The likeliest label is the answer, also where none is likely, so that the mask would always be empty."""
    found = guess(seen(ragged(OTHER.integers(3, 12, 12), lambda one: OTHER.random(one) * most)))
    assert found.task == "classification" and "segmentation" not in found.others


def test_a_metric_of_masks_reads_the_mask_beside_the_sorted_scores_of_detections():
    scores = ragged(OTHER.integers(20, 60, 8), lambda one: np.sort(OTHER.random(one))[::-1])
    mask = out("mask", (normal(8, 1, 64, 64) > 0).astype(np.float32), "Sigmoid")
    found = guess(seen(scores, mask), "segmentation")
    assert [part.outputs for part in found.parts if part.task == "segmentation"] == [("mask",)]


def test_values_of_which_one_is_always_the_largest_are_judged_as_values_too():
    quality = OTHER.standard_normal((8, 3)) + np.float32([3, 30, 9])
    found = guess(seen(out("quality", quality, "Add"), inputs=AUDIO))
    assert (found.task, found.others, found.sure) == ("classification", ["regression"], False)
    # an exporter that lost the extent says nothing of it, and few samples say nothing of the largest
    for declared, count in ((("n", "quality_dim_1"), 8), (("unk__1", "unk__2"), 8), (("n", 3), 7)):
        values = OTHER.standard_normal((count, 3)) + (0 if count == 8 else np.float32([3, 30, 9]))
        found = guess(seen(out("quality", values, "Add", declared=declared), inputs=AUDIO))
        assert (found.task, found.others) == ("classification", [])


def test_details_of_a_detector_are_read_off():
    (part,) = guess(CASES["channels before anchors"][0]).parts
    assert (part.settings["layout"], part.settings["axis"], part.settings["format"]) == ("joint", -2, "cxcywh")
    assert 0.03 < part.settings["threshold"] <= 0.6
    (part,) = guess(CASES["boxes and scores apart"][0]).parts
    assert part.outputs == ("boxes", "scores") and part.settings["layout"] == "apart"


@pytest.mark.parametrize("first", ["logits", "pred_boxes"])
@pytest.mark.parametrize("reach", [1, 640])
def test_scores_of_four_classes_are_no_boxes(first, reach):
    """A detector with queries (DETR): logits of three classes and none, and as many boxes by their centres."""
    logits = OTHER.standard_normal((8, 30, 4)) * 4
    centres = np.concatenate([OTHER.uniform(0.3, 0.7, (8, 30, 2)), OTHER.uniform(0.1, 0.5, (8, 30, 2))], axis=2)
    outputs = [out("logits", logits, "Add"), out("pred_boxes", centres * reach, "Sigmoid")]
    (part,) = guess(seen(*(outputs if first == "logits" else outputs[::-1]))).parts
    assert part.outputs == ("pred_boxes", "logits") and part.settings["format"] == "cxcywh"


def test_four_chances_beside_four_sides_are_told_by_the_name():
    scores, sides = OTHER.random((8, 30, 4)), OTHER.uniform(0.1, 0.5, (8, 30, 4))
    (part,) = guess(seen(out("scores", scores, "Sigmoid"), out("bboxes", sides, "Sigmoid"))).parts
    assert part.outputs == ("bboxes", "scores")


@pytest.mark.parametrize("objects", [True, False])
def test_a_score_that_is_high_where_a_class_is_tells_that_there_is_an_object(objects):
    """One class whose score means nothing where there is no object; and two classes that exclude each other."""
    scores = np.zeros((8, 100, 2))
    scores[..., 1] = RNG.uniform(0, 0.6 if objects else 0.03, scores.shape[:2])
    scores[:, ::25, 0] = RNG.uniform(0.9, 1.0, (8, 4))
    scores[:, (0 if objects else 5) :: 25, 1] = RNG.uniform(0.8, 0.9, (8, 4))
    found = guess(seen(out("output", np.concatenate([boxes(), scores], axis=-1))))
    (part,) = found.parts
    assert part.task == "detection"
    assert part.settings["objectness"] is objects


@pytest.mark.parametrize(("weak", "between"), [(1, (0.0, 0.1)), (8, (0.35, 0.6))])
def test_few_weak_detections_are_answers_and_many_are_none(weak, between):
    corners = np.zeros((8, 100, 4))
    corners[..., :2] = 20.0 * np.arange(100)[:, None]
    corners[..., 2:] = corners[..., :2] + 10
    scores = RNG.uniform(0, 0.01, (8, 100, 3))
    scores[:, :10, 1] = RNG.uniform(0.8, 0.9, (8, 10))
    scores[:, 20 : 20 + weak, 1] = RNG.uniform(0.2, 0.4, (8, weak))
    (part,) = guess(seen(out("output", np.concatenate([corners, scores], axis=-1)))).parts
    assert between[0] < part.settings["threshold"] <= between[1]


def test_ctcs_blank_is_found():
    (part,) = guess(CASES["a text recogniser"][0]).parts
    assert part.settings["blank"] == 0


@pytest.mark.parametrize(("length", "tasks"), [(1, {"ctc"}), (2, {"ctc"}), (6, {"sequence"})])
@pytest.mark.parametrize("ops", [[], ["GRU"]])
def test_labels_of_frames_beside_a_background_are_not_judged_by_their_reading(length, tasks, ops):
    """Events of sound in silence: a boundary that moves leaves the reading, with repeats collapsed, as it is."""
    labels = np.zeros((8, 8, 3 * length), np.int64)
    labels[..., length : 2 * length] = OTHER.integers(1, 6, (8, 8, 1))
    scores = normal(8, 24 * length, 6) + 8 * np.eye(6)[labels.reshape(8, -1)]
    parts = guess(seen(out("output", scores, "Add", declared=("n", "t", 6)), inputs=AUDIO, ops=ops)).parts
    assert {part.task for part in parts} == tasks


def test_a_reading_with_a_long_silence_is_ctc():
    """Padding that is read as the end of a word lasts longer than all characters."""
    scores = blanks(positions=60)
    scores[:, 30:, 7] += 20
    parts = guess(seen(out("output", scores, "Add", declared=("n", "t", 30)), inputs=AUDIO)).parts
    assert {part.task for part in parts} == {"ctc"}


def test_an_unsure_guess_is_judged_by_all_that_fit():
    found = guess(seen(out("output", normal(8, 256), "Relu")))
    assert not found.sure and found.finding().values["sure"] is False
    vague = guess(seen(out("output", normal(8, 128), "Gemm")))
    assert not vague.sure and {part.task for part in vague.parts} == {vague.task, *vague.others}
    assert {"classification", "embedding"} <= {part.task for part in vague.parts}


def test_channels_of_unlike_scale_are_judged_one_by_one():
    values = np.concatenate([200 * normal(8, 3, 20), normal(8, 5, 20)], axis=1)
    found = guess(seen(out("y", values, "Concat", declared=("n", 8, "a"))))
    slices = [part.channels for part in found.parts if part.task == "regression"]
    assert slices == [(-2, 0, 2), (-2, 3, 7)] or found.task != "regression"
    named, _ = judged_by(seen(out("y", values, declared=("n", 8, "a"))), "regression", None, None, {}, {})
    assert [part.channels for part in named.parts] == [(-2, 0, 2), (-2, 3, 7)]


@pytest.mark.parametrize(
    ("places", "declared"),
    [((3, 40), ("n", 3, 40, 7)), ((12, 12), ("n", 12, 12, 7)), ((12, 12), ("n", "h", "w", 7)), ((40,), ("n", 40, 7))],
)
def test_channels_of_unlike_scale_are_found_on_the_last_axis(places, declared):
    """A head's values before its Transpose or after a Reshape: the axis is the one along which magnitudes jump."""
    values = np.concatenate([200 * normal(8, *places, 4), normal(8, *places, 3)], axis=-1)
    named, _ = judged_by(seen(out("y", values, declared=declared)), "regression", None, None, {}, {})
    assert [part.channels for part in named.parts] == [(-1, 0, 3), (-1, 4, 6)]


@pytest.mark.parametrize(
    ("shape", "axis"), [((65, 65, 21), -1), ((21, 65, 65), -3), ((33, 65, 21), -3), ((33, 65, 3), -1)]
)
def test_the_classes_of_a_square_map_may_lie_on_its_last_axis(shape, axis):
    """Logits of a model of TensorFlow, which no Softmax tells apart: an argmax over rows is no mask."""
    (part,) = judged_by(seen(out("y", normal(2, *shape), "Resize")), "segmentation", None, None, {}, {})[0].parts
    assert part.settings["axis"] == axis


@pytest.mark.parametrize(
    ("shape", "axis"),
    [
        ((33, 65, 21), -1),
        ((48, 20, 9), -1),
        ((20, 48, 9), -1),
        ((9, 20, 48), -3),
        ((30, 40, 12), -1),
        ((64, 20, 12), -3),
    ],
)
def test_the_classes_of_a_smooth_map_lie_where_neighbours_are_unlike(shape, axis):
    """Logits as a network gives them, without a Softmax: places beside each other are alike, classes are not."""
    values = np.random.default_rng(0).standard_normal((2, *shape))
    for place in {-3, -2, -1} - {axis}:
        for _ in range(6):
            values = (values + np.roll(values, 1, place) + np.roll(values, -1, place)) / 3
    (part,) = judged_by(seen(out("y", values, "Resize")), "segmentation", None, None, {}, {})[0].parts
    assert part.settings["axis"] == axis


@pytest.mark.parametrize(
    ("declared", "axis"), [(("n", "h", "w", 9), -1), (("n", 33, "h", "w"), -3), (("n", 33, 65, 9), -3)]
)
def test_the_classes_of_a_map_lie_along_the_axis_that_the_model_fixes(declared, axis):
    values = np.random.default_rng(0).standard_normal((2, 33, 65, 9))
    found = seen(out("y", values, "Conv", declared=declared))
    (part,) = judged_by(found, "segmentation", None, None, {}, {})[0].parts
    assert part.settings["axis"] == axis


def test_boxes_beside_many_classes_of_unlike_scale_are_judged_apart():
    """Every other class is rare: magnitudes alternate between 0.3 and 0.015, which alone is no reason to cut."""
    scores = normal(8, 40, 20) * np.where(np.arange(20) % 2, 0.015, 0.3)
    values = np.concatenate([200 * normal(8, 40, 4), scores], axis=-1)
    named, _ = judged_by(seen(out("y", values, declared=("n", "a", 24))), "regression", None, None, {}, {})
    assert [part.channels for part in named.parts] == [(-1, 0, 3), (-1, 4, 23)]


def test_uneven_channels_of_one_kind_are_judged_together():
    """A recurrent state of 64 channels: neighbours differ by up to fifty times, and none is of another kind."""
    size = np.exp(np.random.default_rng(0).uniform(np.log(0.02), 0, 64))
    named, _ = judged_by(seen(out("y", normal(8, 64) * size, declared=("n", 64))), "regression", None, None, {}, {})
    assert [part.channels for part in named.parts] == [None]


def test_places_are_no_channels():
    """Magnitudes that fall off along an axis step by step, or end at an empty edge, are one kind of value."""
    fading = normal(8, 5, 16, 16) * np.geomspace(100, 0.1, 16)
    edged = normal(8, 5, 16, 16) * (np.arange(16) > 2)
    for values in (fading, edged):
        named, _ = judged_by(seen(out("y", values, declared=("n", 5, 16, 16))), "regression", None, None, {}, {})
        assert [part.channels for part in named.parts] == [None]


@pytest.mark.parametrize("declared", [("N", "S"), ("N", 32)])
def test_scores_of_where_a_span_starts_and_ends_choose_a_position(declared):
    ends = [out(f"{end}_logits", normal(16, 32), "Squeeze", declared=declared) for end in ("start", "end")]
    found = guess(seen(*ends))
    assert (found.task, found.sure) == ("classification", True)
    assert [part.outputs for part in found.parts] == [("start_logits",), ("end_logits",)]
    assert "where a span starts" in sentence(found.finding())
    # one alone has a value for each position, and so have times
    for others in (ends[:1], [out(f"{end}_time", normal(16, 32), declared=declared) for end in ("start", "end")]):
        assert "span" not in sentence(guess(seen(*others)).finding())


@pytest.mark.parametrize(("value", "told"), [(0.8906, "not measurably better than 0.8281"), (0.8, "no better than")])
def test_a_float_model_that_is_a_little_better_than_none_is_not_called_no_better(value, told):
    known = {"metric": "top1", "value": value, "samples": 64, "useless": 0.8281}
    assert told in sentence(EvaluationCode.FLOAT_MODEL_USELESS(**known))


def test_a_code_of_few_levels_names_no_class():
    values = normal(16, 24)
    found = guess(seen(out("code", np.sign(values), "Sign")))
    assert (found.task, found.sure) == ("embedding", True) and "of few levels" in sentence(found.finding())
    # scores have one largest, and where nothing differs there is no code
    for others in (values, np.zeros((16, 24))):
        assert guess(seen(out("code", others, "Gemm"))).task == "classification"


def test_the_metric_says_the_task():
    values = normal(8, 16, 9)
    found = guess(seen(out("output", values, "Add"), inputs=LINE), "ctc")
    assert found.task == "ctc" and found.sure
    # top1 of positions is a share of positions; what has to stay is the whole sequence
    assert guess(seen(out("output", values, "Add"), inputs=LINE), "classification").task == "sequence"


def test_several_outputs_each_have_their_task():
    found = guess(
        seen(
            out("logits", normal(8, 10), "Gemm"), out("mask", (normal(8, 1, 64, 64) > 0).astype(np.float32), "Sigmoid")
        )
    )
    assert [(part.outputs, part.task) for part in found.parts] == [
        (("logits",), "classification"),
        (("mask",), "segmentation"),
    ]
    assert found.task == "classification"


def test_all_outputs_of_the_task_are_named_whether_it_is_guessed_or_written_out():
    two = seen(out("cos", normal(8, 1), "Div"), out("dist", normal(8, 1), "Sqrt"), out("logits", normal(8, 10), "Gemm"))
    guessed = judged_by(two, None, None, None, {}, {})[1]
    named = judged_by(two, "regression", None, None, {}, {})[1]
    assert guessed.values["outputs"] == named.values["outputs"] == ("cos", "dist")
    assert "by 'cos', 'dist'" in sentence(guessed) and "by 'cos', 'dist'" in sentence(named)


@pytest.mark.parametrize("op", ["Gemm", "Sigmoid"])
def test_the_output_that_a_metric_reads_is_the_same_whether_its_task_is_guessed_or_written_out(op):
    # three values a sample are taken for classes, unless the metric says that they are not
    values = RNG.permutation(np.linspace(0.01, 0.99, 24)).reshape(8, 3)
    two = seen(out("mix", values, op), out("sigma", normal(8, 1), "Softplus"))
    assert "regression" not in {part.task for part in guess(two).parts if part.outputs == ("mix",)}
    for task in (None, "regression"):
        parts = judged_by(two, task, "mse", None, {}, {})[0].parts
        assert options_for("mse", None, parts).output == "mix"


@pytest.mark.parametrize("output", [None, "next6", "next12", "logits"])
@pytest.mark.parametrize("metric", ["mse", "top1", "recall_at_1"])
def test_a_task_that_is_written_out_changes_no_output_beside_the_one_that_the_metric_reads(metric, output):
    """Two horizons of a forecast: by labels of the one, the other was taken for a sequence of tokens."""
    model = seen(
        out("next6", normal(8, 2, 6), "Gemm"), out("next12", normal(8, 2, 12), "Gemm"),
        out("logits", normal(8, 10), "Gemm"), inputs=LINE,
    )  # fmt: skip
    guessed, _ = judged_by(model, None, metric, output, {}, {})
    named, _ = judged_by(model, guessed.task, metric, output, {}, {})
    # of an output that may be either, the task that is written out is the one that counts
    settled = {part.outputs for part in guessed.parts if part.task == guessed.task}
    before, after = ([part for part in one.parts if part.outputs not in settled] for one in (guessed, named))
    assert sorted(map(str, after)) == sorted(map(str, before))
    assert all(any(part.task == guessed.task for part in named.parts if part.outputs == one) for one in settled)
    assert output is None or (output,) in settled
    judged = {part.outputs: part.task for part in named.parts}
    assert metric != "mse" or judged["next6",] == judged["next12",] == "regression"


@pytest.mark.parametrize("task", [None, "regression"])
def test_a_mask_beside_the_values_that_a_metric_reads_stays_a_mask(task):
    """Boxes with labels, and a mask and a class without: the metric of the boxes says little of a plain mask."""
    model = seen(
        out("box", RNG.random((8, 4)), "Sigmoid"),
        out("mask", 1 / (1 + np.exp(-9 * np.sign(normal(8, 1, 64, 64)))), "Sigmoid"),
        out("probability", softmax(normal(8, 5)), "Softmax"),
    )
    found, _ = judged_by(model, task, "mse", "box", {}, {})
    judged = {
        name: {part.task for part in found.parts if part.outputs == (name,)} for name in ("box", "mask", "probability")
    }
    assert judged["box"] == {"regression"} and judged["probability"] == {"classification"}
    assert "segmentation" in judged["mask"]


@pytest.mark.parametrize(("samples", "of"), [(7, "all values"), (8, "each value")])
def test_the_rule_of_few_values_says_whose_variance_it_is(samples, of):
    """Of fewer than 8 samples it is that of all values."""
    (part,) = parts_for("regression", out("y", normal(samples, 3), "Gemm"), seen(out("y", normal(samples, 3))))
    assert f"with the variance of {of} over all samples." in sentence(reader(part).rule())


@pytest.mark.parametrize("few", [True, False])
def test_the_snr_that_is_shown_is_defined_beside_it(few):
    rule = sentence(EvaluationCode.RULE_SNR(floor=20.0, few=few, quiet=0.01))
    assert "10 log10(variance" in rule and rule.endswith("The SNR shown is the mean over samples.")
    assert ("over all samples" in rule) is few
    assert figure_words("snr_db", 62.5) == " (mean SNR 62.5 dB)"


def test_the_recipe_overrules():
    model = CASES["a label a token"][0]
    found, why = judged_by(model, "ctc", None, None, {}, {"blank": 3, "threshold": None})
    assert found.task == "ctc" and found.parts[0].settings["blank"] == 3 and why.code is EvaluationCode.TASK_NAMED
    found, _ = judged_by(CASES["a sentence encoder"][0], "embedding", None, None, {"min_cosine": 0.95}, {})
    assert found.parts[0].settings["floor"] == 0.95
    with pytest.raises(RecipeError, match="no output can be read for the task segmentation"):
        judged_by(CASES["a sentence encoder"][0], "segmentation", None, None, {}, {})


@pytest.mark.parametrize(("metric", "task"), [("miou", "segmentation"), ("cer", "ctc"), ("ctc_exact", "ctc")])
def test_a_metric_that_no_output_can_be_read_for_is_refused(metric, task):
    """Scores of a batch [samples, classes] have the shape of what such metrics take for one sample."""
    classifier = seen(out("logits", normal(8, 10), "Gemm"))
    with pytest.raises(RecipeError, match=f"the metric {metric} is for {task}, but no output fits that task") as told:
        judged_by(classifier, None, metric, None, {}, {})
    assert told.value.value == "metric" and "'logits' [10]" in told.value.what
    assert told.value.remedy == "use one of top1, top5, balanced_accuracy, f1, average_precision, auc"
    # a run that is judged again is not to be mended, and a head of masks beside the classes is one to be read
    assert judged_by(classifier, None, metric, None, {}, {}, strict=False)[0].task == "classification"
    both = seen(out("logits", normal(8, 10), "Gemm"), out("mask", normal(8, 3, 12, 16), "Conv"))
    if metric == "miou":
        assert judged_by(both, None, metric, None, {}, {})[0].task == "segmentation"
        with pytest.raises(RecipeError) as told:
            judged_by(both, None, metric, "logits", {}, {})
        assert told.value.remedy == "set [evaluation] output to 'mask'"


def test_perplexity_reads_the_scores_of_one_next_token():
    assert judged_by(seen(out("logits", normal(8, 10), "Gemm")), None, "perplexity", None, {}, {})[0].parts


@pytest.mark.parametrize(
    ("floors", "given", "place"),
    [({"min_iou": 0.9}, {}, "budget.min_iou"), ({}, {"blank": 0}, "blank"), ({}, {"threshold": 0.3}, "threshold")],
)
def test_what_no_task_reads_is_refused(floors, given, place):
    with pytest.raises(RecipeError) as refused:
        judged_by(CASES["a sentence encoder"][0], None, None, None, floors, given)
    assert refused.value.value == place and "embedding" in refused.value.what


def test_positions_that_are_normalized_are_no_scores():
    values = np.random.default_rng(0).standard_normal((8, 16, 32))
    found = guess(seen(out("y", values, "LayerNormalization"), inputs={"x": np.zeros((12, 20), np.float32)}))
    assert found.task == "embedding" and not found.others


@pytest.mark.parametrize(("count", "both"), [(10, True), (1000, True), (100, False), (384, False)])
def test_a_normalized_head_of_few_classes_is_judged_as_classes_too(count, both):
    found = guess(seen(out("y", normal(8, count), "LayerNormalization")))
    assert ({part.task for part in found.parts} == {"classification", "embedding"}) is both
    assert both or found.task == "embedding"


def test_logits_and_their_shares_are_no_boxes_and_scores():
    """Four classes at every position look like boxes: what a softmax makes of them is no score of theirs."""
    logits = normal(8, 60, 4)
    found = guess(seen(out("a", logits, "Add"), out("b", softmax(logits), "Softmax"), inputs=LINE))
    assert found.task in ("sequence", "ctc") and "detection" not in {part.task for part in found.parts}


def test_four_shares_a_position_are_no_boxes():
    """Labels of letters: three outputs of shares, one of them of four classes, as many as a box has numbers."""
    heads = [
        out(name, softmax(4 * normal(8, 60, classes)), "Softmax") for name, classes in (("N", 16), ("D", 3), ("S", 4))
    ]
    found = guess(seen(*heads, inputs=TOKENS))
    assert {part.task for part in found.parts} == {"sequence"} and found.task == "sequence"


def test_rows_of_characters_hold_no_boxes():
    heads = [out(name, 4 * normal(8, 60, classes), "Add") for name, classes in (("N", 16), ("D", 3), ("S", 4))]
    found = guess(seen(*heads, inputs={"characters": np.zeros(60, np.float32)}))
    assert "detection" not in {part.task for part in found.parts}


@pytest.mark.parametrize("places", [4, 10])
def test_values_beside_shares_of_classes_are_no_classes(places):
    """A face detector's last net: where the box and the eyes are, as plain values, and whether it is a face, as shares."""
    logits = normal(8, 2)
    face = out("prob", softmax(logits), "Softmax")
    parts = guess(seen(out("where", normal(8, places), "Add"), face)).parts
    assert [(part.task, part.outputs) for part in parts] == [("regression", ("where",)), ("classification", ("prob",))]
    # what the shares are made of is scores of classes
    parts = guess(seen(out("scores", logits, "Add"), face)).parts
    assert {part.task for part in parts} == {"classification"}


def test_values_beside_scores_of_the_same_places_are_no_labels():
    """A detector's head before its boxes are decoded: scores of places, and how far the box's sides may lie from each."""
    scores = few(4, 100, 10)
    parts = guess(seen(out("scores", scores, "Sigmoid"), out("sides", normal(4, 100, 32), "Conv"))).parts
    assert {part.task for part in parts if part.outputs == ("sides",)} == {"regression"}
    assert {part.task for part in parts if part.outputs == ("scores",)} != {"regression"}


def test_bands_of_a_spectrum_are_no_classes():
    """The lowest band of a silent frame is its largest, as the blank of a reading is: its neighbours tell them apart."""
    steps = np.cumsum(OTHER.standard_normal((8, 80, 100)), axis=1) / 8
    steps[:, 0, ::2] += 20
    found = guess(seen(out("mel", steps.astype(np.float32), "Transpose", declared=("n", 80, "t")), inputs=AUDIO))
    assert (found.task, found.sure) == ("regression", True)
    found = guess(
        seen(out("y", np.moveaxis(blanks(8, 100, 80), 1, 2), "Transpose", declared=("n", 80, "t")), inputs=AUDIO)
    )
    assert found.task == "ctc"


@pytest.mark.parametrize("ops", [("Tanh",), ("MatMul", "Add")])
def test_a_vector_whose_neighbours_vary_together_is_a_signal_and_no_embedding(ops):
    """A vocoder's samples: as many as a usual width of features, of which no two neighbours vary together."""
    phases, steps = np.random.default_rng(3).uniform(0, 6, (8, 2)), np.arange(192)
    wave = (0.7 * np.sin((0.05 + phases[:, :1] / 40) * steps + phases[:, 1:])).astype(np.float32)
    given = {"mel": normal(16, 24)}
    found = guess(seen(out("y", wave, *ops), inputs=given))
    assert {part.task for part in found.parts} == {"regression"} and found.sure
    features = guess(seen(out("y", np.random.default_rng(3).permuted(wave, axis=1), *ops), inputs=given))
    assert "embedding" in {part.task for part in features.parts}


@pytest.mark.parametrize("found", [(5, 0, 3), (0, 4), (0, 0)])
def test_a_picture_without_any_object_is_a_sample_of_a_detector_too(found):
    """Boxes that are suppressed already: as many rows as objects were found, hence none in an empty picture."""
    corners = [np.cumsum(abs(normal(count, 4)), axis=1) for count in found]
    one = SeenOutput("boxes", ("n", 4), corners, None), SeenOutput("scores", ("n",), [x[:, 0] for x in corners], None)
    assert guess(seen(*one)).task == "detection"


def test_rows_that_are_four_by_chance_are_no_boxes():
    """A memory of as many rows as the first text has letters, beside a state of another width."""
    memory = [normal(length, 64) for length in (4, 5, 7)]
    outputs = SeenOutput("memory", ("n", "length", 64), memory, 0), out("hidden", normal(3, 2, 64), "Concat")
    assert "detection" not in {part.task for part in guess(seen(*outputs, inputs=TOKENS)).parts}


@pytest.mark.parametrize(
    ("read", "made"), [("hidden", "hidden_out"), ("state", "stateN"), ("h0", "hn"), ("c_in", "c_out")]
)
def test_a_state_that_the_next_step_reads_holds_no_answer(read, made):
    x, state = normal(4, 8), normal(4, 2, 8)
    proto = build(
        [node("MatMul", ["x", "w"], ["y"]), node("Tanh", [read], [made])],
        {"x": ["n", 8], read: ["n", 2, 8]}, {"y": ["n", 5], made: ["n", 2, 8]}, {"w": normal(8, 5)},
    )  # fmt: skip
    model = observe(Model.from_proto(proto), [({"x": x, read: state}, {"y": x[:, :5], made: np.tanh(state)}, 4)])
    assert model.states == {made}
    found = guess(model)
    assert found.task == "classification" and {p.outputs: p.task for p in found.parts}[(made,)] == "regression"
    # where the recipe says what the model is for, and where nothing else is given
    assert {p.outputs for p in judged_by(model, "classification", None, None, {}, {})[0].parts} >= {(made,), ("y",)}


def test_a_cache_that_a_stream_reads_is_no_image_and_the_next_one_holds_no_key_points():
    """Frames [8, 20] and a cache [layers, frames, features], of which scores [8, 12] seem to have a half and a quarter."""
    chunk, cache = normal(16, 8, 20), 0.05 * normal(16, 2, 16, 48)
    cache[:, :, 5:7, 20:23] += 4
    scores = np.log(softmax(chunk[:, :, :12]))
    proto = build(
        [node("MatMul", ["chunk", "w"], ["s"]), node("LogSoftmax", ["s"], ["log_probs"]),
         node("Tanh", ["cache"], ["cache_out"])],
        {"chunk": ["n", 8, 20], "cache": ["n", 2, 16, 48]},
        {"log_probs": ["n", 8, 12], "cache_out": ["n", 2, 16, 48]}, {"w": normal(20, 12)},
    )  # fmt: skip
    model = observe(
        Model.from_proto(proto), [({"chunk": chunk, "cache": cache}, {"log_probs": scores, "cache_out": cache}, 16)]
    )
    assert (model.states, model.carried, model.images) == ({"cache_out"}, {"cache"}, [])
    found = guess(model)
    assert found.task == "sequence" and "segmentation" not in {part.task for part in found.parts}
    kept = [part for part in found.parts if part.outputs == ("cache_out",)]
    assert kept and all(part.task == "regression" and "height" not in part.settings for part in kept)
    # the same values are key points where they are what the model is asked for
    asked = guess(replace(model, states=frozenset(), carried=frozenset())).parts
    assert any("height" in part.settings for part in asked if part.outputs == ("cache_out",))


def test_caches_of_a_stream_that_are_as_wide_as_boxes_hold_no_detections():
    """Dilated convolutions keep the last 4 and the last 2 of what they read, of 48 channels each."""
    caches = [out("cache1_out", normal(8, 48, 4), "Slice"), out("cache0_out", normal(8, 48, 2), "Slice")]
    model = seen(out("logits", normal(8, 16, 12), "Add"), *caches)
    alone, states = guess(model), replace(model, states=frozenset(one.name for one in caches))
    assert "detection" in {part.task for part in alone.parts}
    assert {part.outputs: part.task for part in guess(states).parts if part.task == "regression"} == {
        ("cache1_out",): "regression", ("cache0_out",): "regression",
    }  # fmt: skip
    assert "detection" not in {part.task for part in guess(states).parts}


@pytest.mark.parametrize("levels", [256, 4])
def test_a_picture_of_8_bits_holds_values_and_a_map_of_few_levels_classes(levels):
    found = guess(
        seen(out("hires", np.random.default_rng(1).integers(0, levels, (8, 16, 16, 3)).astype(np.uint8), "Cast"))
    )
    assert (found.task, found.sure) == ("regression" if levels == 256 else "segmentation", True)
    assert ("whole numbers of many levels, as colours are" in sentence(found.finding())) is (levels == 256)


def test_a_box_in_pixels_is_not_said_to_have_values_from_0_to_1():
    found = guess(seen(out("bbox", np.cumsum(30 * abs(normal(8, 4)), axis=1), "Gemm")))
    said = sentence(found.finding())
    assert found.task == "regression" and "it has four values at a time, as boxes do" in said and "0 to 1" not in said


def test_boxes_that_the_next_stage_refines_are_detections():
    """A cascade's stage reads boxes and gives better ones, with their scores."""
    boxes = out("boxes", np.cumsum(abs(normal(8, 20, 4)), axis=2), "Add")
    model = replace(seen(boxes, out("scores", abs(normal(8, 20, 3)) / 9)), states=frozenset({"boxes"}))
    assert guess(model).task == "detection"


@pytest.mark.parametrize(("read", "made"), [("c0", "classes"), ("s", "scores"), ("h0", "heatmap")])
def test_a_word_that_only_begins_as_a_state_is_an_answer(read, made):
    state = normal(4, 2, 8)
    proto = build(
        [node("Identity", ["x"], ["y"]), node("Tanh", [read], [made])],
        {"x": ["n", 8], read: ["n", 2, 8]}, {"y": ["n", 8], made: ["n", 2, 8]},
    )  # fmt: skip
    found = observe(Model.from_proto(proto), [({"x": normal(4, 8), read: state}, {made: np.tanh(state)}, 4)])
    assert not found.states


def ones(*shape):
    return np.ones(shape, np.float32)


def _stacked_lstm():
    """Two layers, the states of which lie in one tensor, under an exporter's names."""
    nodes = [node("Split", ["11"], ["i0", "i1"], axis=0), node("Split", ["12"], ["d0", "d1"], axis=0)]
    for layer, read in enumerate(("x", "s0")):
        nodes += [
            node("LSTM", [read, "W", "R", "", "", f"i{layer}", f"d{layer}"], [f"o{layer}", f"h{layer}", f"e{layer}"],
                 hidden_size=8),
            node("Squeeze", [f"o{layer}", "one"], [f"s{layer}"]),
        ]  # fmt: skip
    nodes += [node("Concat", ["h0", "h1"], ["91"], axis=0), node("Concat", ["e0", "e1"], ["92"], axis=0)]
    state = [2, 4, 8]
    return build(
        [*nodes, node("MatMul", ["s1", "w"], ["90"])], {"x": [3, 4, 8], "11": state, "12": state},
        {"90": [3, 4, 5], "91": state, "92": state},
        {"W": ones(1, 32, 8), "R": ones(1, 32, 8), "one": np.int64([1]), "w": ones(8, 5)},
    )  # fmt: skip


def _cached_convolution():
    """A stream's convolution, which hands the end of what it read on; and what is no state, called as one."""
    return build(
        [
            node("Concat", ["11", "x"], ["j"], axis=2),
            node("Conv", ["j", "w"], ["90"]),
            node("Slice", ["j", "end", "most", "axis"], ["91"]),
            node("Relu", ["x"], ["11_map"]),
        ],
        {"x": [4, 8, 2], "11": [4, 8, 2]}, {"90": [4, 5, 2], "91": [4, 8, 2], "11_map": [4, 8, 2]},
        {"w": ones(5, 8, 3), "end": np.int64([-2]), "most": np.int64([9]), "axis": np.int64([2])},
    )  # fmt: skip


@pytest.mark.parametrize(
    ("proto", "states"), [(_stacked_lstm(), {"91", "92"}), (_cached_convolution(), {"91"})], ids=["LSTM", "cache"]
)
def test_a_state_is_known_by_the_graph_whatever_it_is_called(proto, states):
    model = Model.from_proto(proto)
    shapes = {one.name: one.shape for one in (*model.graph.inputs, *model.graph.outputs)}
    found = observe(model, [({n: ones(*shapes[n]) for n in model.input_shapes()},
                             {one.name: ones(*one.shape) for one in model.graph.outputs}, 1)])  # fmt: skip
    assert found.states == states


def test_all_that_a_model_gives_is_no_past_of_it():
    """A signal with its continuation, which a single output joins along an open axis."""
    x = normal(4, 5, 8)
    proto = build(
        [node("MatMul", ["x", "w"], ["z"]), node("Concat", ["x", "z"], ["y"], axis=1)],
        {"x": ["n", "length", 8]}, {"y": ["n", "m", 8]}, {"w": normal(8, 8)},
    )  # fmt: skip
    found = observe(Model.from_proto(proto), [({"x": x}, {"y": np.concatenate([x, x], axis=1)}, 4)])
    assert not found.pasts and [one.name for one in found.outputs] == ["y"]


@pytest.mark.parametrize("reduced", [False, True])
def test_a_chance_that_an_if_squeezes_is_a_chance(reduced):
    """torch writes squeeze() as an If whose branches squeeze or hand on; a mean of chances is one still."""
    branch = {"then_branch": [node("Squeeze", ["p", "one"], ["a"])], "else_branch": [node("Identity", ["p"], ["a"])]}
    ends = [helper.make_tensor_value_info("a", TensorProto.FLOAT, None)]
    bodies = {name: helper.make_graph(nodes, name, [], ends) for name, nodes in branch.items()}
    nodes = [node("Gemm", ["x", "w"], ["g"]), node("Sigmoid", ["g"], ["p"]), node("If", ["c"], ["i"], **bodies)]
    nodes.append(node("ReduceMean", ["i"], ["y"], axes=[1], keepdims=1) if reduced else node("Identity", ["i"], ["y"]))
    proto = build(nodes, {"x": ["n", 8]}, {"y": ["n", 1]},
                  {"w": normal(8, 1), "c": np.array(False), "one": np.array([0], np.int64)})  # fmt: skip
    x = normal(8, 8)
    seen = observe(Model.from_proto(proto), [({"x": x}, {"y": 1e-4 / (1 + np.exp(-x[:, :1]))}, 8)])
    assert seen.outputs[0].ops == {"Sigmoid"} and guess(seen).task == "classification"


@pytest.mark.parametrize("shape", [(8, 12, 256), (8, 12, 48), (8, 256), (8, 32)])
def test_what_a_recurrent_layer_gives_is_features(shape):
    """An encoder's memory has no labels, however many its features are: no linear layer has made scores of them."""
    found = guess(seen(out("memory_out", np.tanh(normal(*shape)), "GRU"), inputs=TOKENS))
    assert found.task == "embedding" and {part.task for part in found.parts} == {"embedding"}


@pytest.mark.parametrize(("shape", "rows"), [((4, 3, 8, 8), 4), ((1, 3, 8, 8), 1), ((4, 8), None)])
def test_a_fixed_batch_of_images_is_as_many_samples(shape, rows):
    """The first dimension of images is the batch; that of a matrix may be positions of one sample."""
    proto = build([node("Flatten", ["x"], ["f"]), node("MatMul", ["f", "w"], ["y"])], {"x": shape}, {"y": [shape[0], 6]},
                  {"w": normal(int(np.prod(shape[1:])), 6)})  # fmt: skip
    y = normal(shape[0], 6)
    (output,) = observe(Model.from_proto(proto), [({"x": normal(*shape)}, {"y": y}, 1)] * 3).outputs
    assert (output.batch_axis, len(output.samples)) == ((0, 3 * rows) if rows else (None, 3))


@pytest.mark.parametrize(("classes", "often"), [(4, 6.0), (6, 0.0)])
def test_few_classes_have_no_blank_by_chance(classes, often):
    """Of four states of a signal one is usual; of six classes two ends are a third."""
    values = normal(8, 40, classes)
    values[..., 0] += often
    found = guess(seen(out("output", values, "Add"), inputs=LINE, ops=["LSTM"]))
    assert found.task == "sequence" and not found.sure


def test_the_values_of_a_topk_and_constants_hold_no_answer():
    proto = build(
        [node("TopK", ["x", "k"], ["v", "i"]), node("Constant", [], ["c"], value=numpy_helper.from_array(normal(4, 3)))],
        {"x": ["n", 9]}, {"v": ["n", 3], "i": ["n", 3], "c": [4, 3]}, {"k": np.int64([3])}, types={"i": 7},
    )  # fmt: skip
    x = normal(4, 9)
    order = np.argsort(-x, axis=1)[:, :3]
    made = {"v": np.take_along_axis(x, order, 1), "i": order, "c": normal(4, 3)}
    found = guess(observe(Model.from_proto(proto), [({"x": x}, made, 4)]))
    assert {(part.outputs, part.task) for part in found.parts} == {(("v",), "regression"), (("i",), "sequence")}


def test_the_output_that_the_metric_reads_is_named_whatever_stands_before_it():
    """An age and a gender: labels that are classes are the second's."""
    found = guess(
        seen(out("age", normal(8, 1), "Gemm"), out("gender", normal(8, 2), "Gemm")), "classification", "gender"
    )
    assert found.task == "classification" and found.finding().values["outputs"] == ("gender",)


def test_values_that_never_vary_are_held_against_their_size():
    """Noise beside a variation of nothing would lose any answer, whatever its SQNR."""
    values = np.tile(np.asarray([[100.0, 0.5, 0.0]]), (8, 1))
    named, _ = judged_by(seen(out("y", values, declared=("n", 3))), "regression", None, None, {}, {})
    slices = {part.channels: (part.settings["mean"], part.settings["variance"]) for part in named.parts}
    assert slices == {
        (-1, 0, 0): (0.0, 1e4), (-1, 1, 1): (0.0, 0.25), (-1, 2, 2): (0.0, pytest.approx(np.square(values).mean())),
    }  # fmt: skip
    reader = Answers(named.parts)
    fine, lost = (reader.rows({"y": values}, {"y": values * scale}) for scale in (1.001, 1.5))
    assert all(tally.share == 1.0 for tally in reader.tallies([fine]))
    assert [tally.share for tally in reader.tallies([lost])] == [0.0, 0.0, 1.0]


def test_values_that_vary_little_beside_their_size_are_held_against_that_variation():
    """Of temperatures in kelvin, 300 give or take 0.05, half a degree of noise leaves nothing."""
    values = (300 + 0.05 * normal(64, 1)).astype(np.float32)
    named, _ = judged_by(seen(out("y", values, declared=("n", 1))), "regression", None, None, {}, {})
    reader = Answers(named.parts)
    (lost,) = reader.tallies([reader.rows({"y": values}, {"y": values + np.float32(0.5)})])
    assert lost.share < 0.1 and lost.level < 0


@pytest.mark.parametrize("name", CASES)
def test_a_sure_guess_that_is_written_out_is_judged_as_the_guess_is(name):
    model = CASES[name][0]
    found = guess(model)
    if found.sure:
        named, _ = judged_by(model, found.task, None, None, {}, {})
        assert (named.task, sorted(map(str, named.parts))) == (found.task, sorted(map(str, found.parts)))


def test_a_task_that_nothing_was_guessed_to_be_is_taken_for_all_that_can_be_read_so():
    values = np.random.default_rng(0).standard_normal((16, 1, 12)).astype(np.float32)
    model = seen(out("first", values), out("second", values[::-1]))
    task = next(one for one in ("embedding", "regression", "classification") if one != guess(model).task
                and not any(part.task == one for part in guess(model).parts))  # fmt: skip
    named, _ = judged_by(model, task, None, None, {}, {})
    assert {part.outputs for part in named.parts if part.task == task} == {("first",), ("second",)}


def test_nothing_is_guessed_of_an_output_that_no_sample_has_a_row_of(recwarn):
    """Rows that a threshold leaves: a model that finds nothing was said to give vectors of length 1."""
    nothing = SeenOutput("boxes", (None, 4), [np.zeros((0, 4), np.float32)] * 8, None, frozenset({"Gather"}))
    found = guess(seen(nothing))
    assert (found.task, found.sure, found.clues) == ("regression", False, []) and not recwarn.list
    assert [part.channels for part in found.parts] == [None]


@pytest.mark.parametrize(("width", "told"), [(3.0, True), (0.2, False)])
def test_classes_that_are_bins_of_a_quantity_are_told(width, told):
    """A head pose in 33 bins: argmax moves to a neighbour by next to nothing, and no layer stayed in INT8."""
    random = np.random.default_rng(7)
    angles, noise = random.uniform(0, 33, (64, 1)), random.standard_normal((64, 33))
    logits = 8 * np.exp(-(((np.arange(33) - angles) / width) ** 2)) + 0.3 * noise
    model = seen(out("yaw", logits.astype(np.float32), "Gemm"))
    found = guess(model)
    assert found.task == "classification"
    notes = bins_among(found.parts, model)
    assert [note.values["outputs"] for note in notes] == ([("yaw",)] if told else [])
    assert not told or "Neighbouring classes of 'yaw' vary together" in sentence(notes[0])
