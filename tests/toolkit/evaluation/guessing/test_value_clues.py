"""Outputs whose values tell that they are no scores of classes, and outputs of classes that are nearly like them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from onnx import TensorProto

from tests.conftest import build, node, run
from tests.toolkit.evaluation.guessing.test_guess import AUDIO, IMAGE, TOKENS, out, seen, softmax
from toolkit import Model
from toolkit.evaluation.comparison.answers import Answers
from toolkit.evaluation.guessing.guess import guess
from toolkit.evaluation.guessing.judged import judged_by
from toolkit.evaluation.guessing.value_clues import are_boxes, ordered, peak_height, unlike_scales
from toolkit.evaluation.observation.observe import observe
from toolkit.evaluation.tasks import reader
from toolkit.evaluation.tasks.keypoints import separate_peaks
from toolkit.report.findings import sentence

RNG = np.random.default_rng(7)


def normal(*shape):
    return RNG.standard_normal(shape)


def heads(*scales):
    """Maps of [samples, channels, 64, 64] whose channels spread by so much."""
    return normal(4, len(scales), 64, 64) * np.float64(scales)[:, None, None]


def corners(*shape):
    return np.sort(RNG.uniform(0, 1, (*shape, 2, 2)), axis=-2).reshape(*shape, 4)


def centred(*shape):
    middle = RNG.uniform(0.2, 0.8, (*shape, 2))
    return np.concatenate([middle, RNG.uniform(0.05, 0.35, (*shape, 2))], axis=-1)


VALUES = {
    "a heat, offsets and sizes": out("out", heads(1, 0.3, 0.3, 20, 25, 1), "Conv"),
    "the same after a Resize": out("out", heads(0.2, 0.2, 9, 9, 0.1), "Resize"),
    "the same, channels last": out("out", np.moveaxis(heads(0.2, 0.2, 9, 9, 0.1), 1, -1), "Resize", declared=("n", 64, 64, 5)),
    "boxes of queries": out("out", centred(8, 100), "Sigmoid"),
    "corners of queries": out("out", corners(8, 100), "Sigmoid"),
    "boxes before their Transpose": out("out", np.moveaxis(corners(8, 100), -1, 1), "Sigmoid", declared=("n", 4, 100)),
    "a box a sample": out("out", corners(32), "Sigmoid"),
    "quantiles of hours": out("out", np.sort(normal(8, 12, 3), axis=-1), "Add"),
    "quantiles in front": out("out", np.sort(normal(8, 3, 12), axis=1), "Add", declared=("n", 3, 12)),
    "quantiles of a sample": out("out", np.sort(normal(40, 5), axis=-1), "Gemm"),
    "scores before boxes in pixels": out("out", np.concatenate([RNG.beta(0.1, 2, (8, 100, 6)), 40 + 20 * normal(8, 100, 4)], -1), "Concat"),
    "boxes, scores and classes, in the order of the scores": out(
        "out", np.concatenate([40 + 20 * normal(8, 20, 4), np.sort(RNG.uniform(0, 1, (8, 20, 1)), 1), RNG.integers(0, 6, (8, 20, 1))], -1),
        "Concat",
    ),
    "differences of times": out("out", RNG.integers(-900, 900, (8, 16))),
    "times": out("out", RNG.integers(2**30, 2**40, (8, 1))),
    "a picture in bytes": out("out", RNG.integers(0, 256, (4, 3, 64, 64)).astype(np.uint8)),
}  # fmt: skip


@pytest.mark.parametrize("name", VALUES)
def test_values_of_other_kinds_are_no_classes(name):
    found = guess(seen(VALUES[name], inputs=IMAGE if VALUES[name].shape[-1] != 3 else AUDIO))
    assert found.task == "regression" and {part.task for part in found.parts} == {"regression"}


CLASSES = {
    "classes of which some are rare": (out("out", heads(6, 5, 2, 1, 0.8) - np.arange(5)[:, None, None], "Resize"), "segmentation"),
    "a class that is never met": (out("out", np.concatenate([heads(3, 3, 2, 2), np.full((4, 1, 64, 64), -9.0)], axis=1), "Resize"),
                                  "segmentation"),
    "labels of positions, mostly none": (out("out", RNG.beta(0.1, 2, (8, 100, 4)), "Sigmoid"), "segmentation"),
    "scores of rare and of frequent labels": (out("out", normal(8, 16, 5) * np.float64([6, 5, 2, 1, 0.8]), "MatMul"), "sequence"),
    "one class mostly": (out("out", normal(8, 16, 3) + np.float64([0, 1, 4]), "Add"), "sequence"),
    "shares in order": (out("out", np.sort(softmax(normal(40, 5)), axis=-1), "Softmax"), "classification"),
    "labels": (out("out", RNG.integers(-1, 900, (8, 16))), "sequence"),
    "tokens": (out("out", RNG.integers(0, 250_000, (8, 16))), "sequence"),
    "a mask of classes": (out("out", RNG.integers(0, 150, (4, 64, 64))), "segmentation"),
}  # fmt: skip


@pytest.mark.parametrize("name", CLASSES)
def test_classes_that_look_nearly_like_them_stay_classes(name):
    output, task = CLASSES[name]
    picture = task == "segmentation" and min(output.shape[-2:]) >= 64
    assert guess(seen(output, inputs=IMAGE if picture else TOKENS if task == "sequence" else AUDIO)).task == task


def test_what_is_lost_of_scores_beside_boxes_is_judged_apart():
    """The boxes' SQNR, and their place as the largest values, hide scores that are gone."""
    scores, boxes = RNG.beta(0.5, 2, (24, 100, 6)), 40 + 20 * normal(24, 100, 4)
    output = out("out", np.concatenate([scores, boxes], -1), "Concat")
    found = guess(seen(output))
    assert [part.channels for part in found.parts] == [(-1, 0, 5), (-1, 6, 9)]


def test_few_positions_tell_no_order_and_no_box():
    assert not ordered(out("y", np.sort(normal(2, 12, 3), axis=-1)), -1) and ordered(
        out("y", np.sort(normal(3, 12, 3), axis=-1)), -1
    )
    assert not are_boxes(out("y", corners(7)), -1) and are_boxes(out("y", corners(8)), -1)
    assert not unlike_scales(out("y", heads(1, 15)), -3) and unlike_scales(out("y", heads(1, 18)), -3)


def heat(points, axis=1, noise=0.02, missing=0, samples=6, size=(64, 48)):
    """Maps of key points: a bell of a few pixels each, but those that are missing, and noise."""
    rows, columns = np.indices(size)
    found = normal(samples, points, *size) * noise
    for one in found:
        for each in one[: points - missing]:
            at = RNG.integers(4, np.subtract(size, 4))
            each += np.exp(-((rows - at[0]) ** 2 + (columns - at[1]) ** 2) / 8)
    return np.moveaxis(found, 1, axis).astype(np.float32)


POSES = {
    "poses": out("out", heat(17), "Conv"),
    "poses with points out of sight": out("out", heat(17, missing=4), "Conv"),
    "poses, channels last": out("out", heat(21, axis=-1, size=(48, 48)), "Transpose", declared=("n", 48, 48, 21)),
    "poses in other units": out("out", 100 * heat(17) - 30, "Conv"),
    "eyes": out("out", heat(2, samples=8), "Conv"),
}


@pytest.mark.parametrize("name", POSES)
def test_maps_with_one_peak_each_are_key_points_and_no_mask(name):
    found = guess(seen(POSES[name]))
    (part,) = found.parts
    axis = -1 if "last" in name else -3
    assert (found.task, part.task, part.settings["axis"], found.sure) == ("regression", "regression", axis, True)
    answers, values = Answers(found.parts), np.stack(POSES[name].samples)
    spread = part.settings["height"]

    def kept(other):
        (tally,) = answers.tallies([answers.rows({"out": values}, {"out": other.astype(np.float32)})])
        return tally.kept, tally.answers, tally.level, tally.figure

    count = len(values)
    assert kept(values) == (count, count, 1.0, "points")
    # what is nowhere near a peak may change by as much as it likes, as may every peak's height by a little
    assert kept(values + normal(*values.shape) * 0.02 * spread)[0] == count
    moved = np.roll(values, 1, axis=2 if axis == -3 else 1)
    assert kept(moved)[0] == count and kept(np.roll(moved, 4, axis=2 if axis == -3 else 1))[0] == 0
    lost = values.copy()
    lost[0] = np.median(values)
    assert kept(lost)[0] == count - 1 and kept(values * np.nan)[0] == 0


MASKS = {
    "masks of classes": out("out", heads(3, 3, 2, 2), "Resize"),
    "noise": out("out", heads(1, 1, 1, 1, 1, 1), "Conv"),
    "small objects before a background": out("out", np.concatenate([heat(3), 0.3 + heat(1, missing=1)], axis=1), "Conv"),
    "large objects": out("out", heat(1) + np.repeat(np.repeat(normal(6, 5, 4, 3), 16, axis=2), 16, axis=3), "Resize"),
}  # fmt: skip


@pytest.mark.parametrize("name", MASKS)
def test_maps_whose_places_belong_to_classes_are_no_key_points(name):
    output = MASKS[name]
    assert peak_height(output, -3) is None
    assert "height" not in guess(seen(output)).parts[0].settings


def test_samples_without_any_key_point_prove_nothing_of_them():
    (part,) = guess(seen(POSES["poses"])).parts
    answers, blank = Answers([part]), (normal(4, 17, 64, 48) * 0.001).astype(np.float32)
    (tally,) = answers.tallies([answers.rows({"out": blank}, {"out": blank})])
    assert tally.empty and not replace(tally, level=1.0).empty
    assert "at most one cell" in sentence(reader(part).rule())


def crowd(people, samples=8, points=5, size=(96, 128), seed=3):
    """Maps of key points of several people each: peaks of like height, wide apart, and noise."""
    draw = np.random.default_rng(seed)
    rows, columns = np.indices(size)
    found = draw.standard_normal((samples, points, *size)) * 0.02
    places = np.zeros((samples, points, people, 2), int)
    for number, point in np.ndindex(samples, points):
        free = [(r, c) for r in range(10, size[0] - 9, 19) for c in range(10, size[1] - 9, 19)]
        for person, at in enumerate(draw.permutation(len(free))[:people]):
            row, column = places[number, point, person] = free[at]
            bell = np.exp(-((rows - row) ** 2 + (columns - column) ** 2) / 8)
            found[number, point] += draw.uniform(0.8, 1.0) * bell
    return found.astype(np.float32), places


@pytest.mark.parametrize("people", [2, 3, 6])
def test_of_several_people_in_a_map_each_ones_points_are_compared(people):
    """The highest peak alone says nothing of the others, and which one is highest nothing at all."""
    values, places = crowd(people)
    found = guess(seen(out("out", values, "Conv")))
    (part,) = found.parts
    assert (part.task, part.settings["several"], found.sure) == ("regression", True, True)
    assert "each separate peak" in sentence(reader(part).rule())
    answers = Answers(found.parts)

    def kept(other):
        (tally,) = answers.tallies([answers.rows({"out": values}, {"out": other.astype(np.float32)})])
        return tally.kept, tally.level

    assert kept(values) == (8, 1.0)
    # another one is the highest
    assert kept(values + RNG.uniform(-0.02, 0.02, values.shape)) == (8, 1.0)
    changed = values.copy()
    for number, point in np.ndindex(values.shape[:2]):
        heights = [values[number, point, r, c] for r, c in places[number, point]]
        row, column = places[number, point, int(np.argmin(heights))]
        changed[number, point, row - 8 : row + 9, column - 8 : column + 9] = 0
    lost, level = kept(changed)
    # of every map the lowest peak is gone: of both sets together, people and one fewer, one has no match
    assert lost == 0 and level == pytest.approx((2 * people - 2) / (2 * people - 1))
    assert kept(values * np.nan) == (0, 0.0)


def test_one_peak_a_map_is_compared_by_the_highest_alone_and_that_is_said():
    values, _ = crowd(1)
    (part,) = guess(seen(out("out", values, "Conv"))).parts
    assert "several" not in part.settings
    assert "other peaks of the map are not compared" in sentence(reader(part).rule())


def _falls_between(one, first, second):
    """By how much the map falls on the straight way between two places, cell by cell."""
    cells = np.rint(np.linspace(first, second, int(np.abs(first - second).max()) + 1)).astype(int)
    return min(float(one[row, column]) for row, column in cells)


@pytest.mark.parametrize("share", [0.0, 0.5, 0.9])
@pytest.mark.parametrize("shape", [(40, 40), (17, 63)])
def test_peaks_of_noise_are_those_that_a_map_falls_between(shape, share):
    """64 peaks of 1,600 places, each against all higher ones; a share leaves out the lower ones, and nothing else."""
    one = np.float32(normal(*shape))
    places, heights = separate_peaks(one, 0.2, share)
    assert (
        len(places) > (5 if share < 0.9 else 0)
        and (np.diff(heights) <= 0).all()
        and heights.min() >= max(0.2, share * heights[0])
    )
    level = one - np.median(one)
    for place in range(len(places)):
        ways = [_falls_between(level, places[place], places[other]) for other in range(place)]
        assert all(way <= 0.75 * heights[place] for way in ways)
    every, their = separate_peaks(one, 0.2)
    high = their >= share * their[0]
    assert np.array_equal(places, every[high]) and np.array_equal(heights, their[high])
    assert np.allclose(heights, level[places[:, 0], places[:, 1]])


def test_peaks_are_separate_where_the_map_falls_between_them():
    rows, columns = np.indices((64, 64))

    def bells(*columns_of, width=4.0):
        return sum(np.exp(-((rows - 30) ** 2 + (columns - one) ** 2) / (2 * width**2)) for one in columns_of)

    places, heights = separate_peaks(100 * bells(20, 40) + 7, 50)
    assert sorted(map(tuple, places.tolist())) == [(30, 20), (30, 40)] and heights == pytest.approx(
        [100, 100], rel=1e-3
    )
    # a shoulder and noise on a broad top are one peak
    assert len(separate_peaks(bells(20, 27), 0.3)[0]) == 1
    assert len(separate_peaks(bells(30, width=8.0) + 0.02 * normal(64, 64), 0.3)[0]) == 1
    assert len(separate_peaks(np.zeros((8, 8)), 0.3)[0]) == 0
    # a clipped top, wider than all the peaks that are looked at, is one peak
    clipped = np.minimum(bells(15, 48, width=8.0), 0.4)
    assert (clipped == 0.4).sum() > 2 * 64
    places, heights = separate_peaks(clipped, 0.3)
    assert len(places) == 2 and sorted(places[:, 1] > 31) == [False, True]
    assert heights == pytest.approx(0.4 - np.median(clipped), rel=1e-6)


def denoiser(values, number, name="t", image=(1, 32, 32), ops=("Conv",)):
    """A model of one image and one number a sample."""
    return seen(out("out", values, *ops), inputs={"x": np.zeros(image, np.float32), name: number})


@pytest.mark.parametrize("channels", [1, 2, 5])
@pytest.mark.parametrize("number", [np.zeros((), np.float32), np.zeros(1, np.int64)])
def test_the_noise_that_a_diffusion_model_predicts_is_no_mask(channels, number):
    image = (channels, 32, 32)
    found = guess(denoiser(normal(4, *image), number, "level", image))
    assert (found.task, found.sure, [part.task for part in found.parts]) == ("regression", True, ["regression"])
    assert "as the noise that a diffusion model predicts" in sentence(found.finding())
    # by its name alone, whatever the values
    found = guess(denoiser(3 + 9 * normal(4, *image), number, "timestep", image))
    assert (found.task, found.sure) == ("regression", True)


def test_a_mask_beside_a_number_that_is_no_time_may_be_a_mask():
    """Logits of a mask that a model of gray images makes, which reads the size of a pixel too."""
    logits = 6 * normal(4, 1, 32, 32) - 9
    found = guess(denoiser(logits, np.zeros(1, np.float32), "spacing"))
    assert "segmentation" in {part.task for part in found.parts}
    assert (
        guess(denoiser(1 / (1 + np.exp(-logits)), np.zeros(1, np.float32), "t", ops=("Sigmoid",))).task
        == "segmentation"
    )
    # without a number, or of another shape, nothing says noise
    for model in (seen(out("out", normal(4, 1, 32, 32), "Conv"), inputs={"x": np.zeros((1, 32, 32), np.float32)}),
                  denoiser(normal(4, 1, 64, 64), np.zeros(1), "t")):  # fmt: skip
        assert "segmentation" in {part.task for part in guess(model).parts}


@pytest.mark.parametrize("task", [None, "classification"])
def test_a_metric_of_classes_says_nothing_of_the_model_s_other_outputs(task):
    """A digit, whether it is odd, and how much ink it has, which is never below 0 and so would always be class 1."""
    odd = 1 / (1 + np.exp(-normal(16, 1)))
    both = seen(
        out("digit", normal(16, 10), "Gemm"), out("odd", odd, "Sigmoid"), out("ink", 3 + normal(16, 1) / 9, "Gemm")
    )
    found, _ = judged_by(both, task, "top1", None, {}, {})
    read = {part.outputs[0]: part.task for part in found.parts}
    assert found.task == "classification" and read == {
        "digit": "classification",
        "odd": "classification",
        "ink": "regression",
    }
    # that labels are values speaks for values elsewhere too
    found, _ = judged_by(seen(*both.outputs[::-1]), None, "mse", None, {}, {})
    assert {part.task for part in found.parts if part.outputs == ("ink",)} == {"regression"}


def encoder(last):
    """An encoder whose 8 numbers are an output, and what ``last`` makes of them another."""
    weights = {
        "w": RNG.standard_normal((6, 8)).astype(np.float32),
        "d": RNG.standard_normal((8, 12)).astype(np.float32),
    }
    nodes = [node("MatMul", ["x", "w"], ["z"]), *last]
    types = {"y": TensorProto.INT64} if last[-1].op_type == "ArgMax" else {}
    return Model.from_proto(build(nodes, {"x": ["n", 6]}, {"z": None, "y": None}, weights, types=types))


@pytest.mark.parametrize(
    ("last", "task"),
    [
        # the middle of an autoencoder, whose largest number means nothing
        ([node("MatMul", ["z", "d"], ["h"]), node("Sigmoid", ["h"], ["y"])], "regression"),
        ([node("Softmax", ["z"], ["y"], axis=1)], "classification"),
        ([node("Sigmoid", ["z"], ["y"])], "classification"),
        ([node("ArgMax", ["z"], ["y"], axis=1, keepdims=0)], "classification"),
    ],
)
def test_what_other_outputs_are_computed_from_is_no_score_unless_they_choose_by_it(last, task):
    model = encoder(last)
    given = RNG.standard_normal((40, 6)).astype(np.float32)
    values = dict(zip(("z", "y"), run(model, {"x": given}), strict=True))
    looked = observe(model, [({"x": given}, values, 40)])
    assert {one.name: sorted(one.feeds) for one in looked.outputs} == {"z": ["y"], "y": []}
    assert {part.outputs[0]: part.task for part in guess(looked).parts}["z"] == task


def test_an_output_that_no_input_reaches_is_not_judged():
    """Names of classes kept as numbers beside their scores, as exporters write buffers that a model returns."""
    weights = {"w": RNG.standard_normal((6, 8)).astype(np.float32), "ids": np.arange(8, dtype=np.float32)}
    nodes = [node("MatMul", ["x", "w"], ["logits"]), node("Identity", ["ids"], ["classes"])]
    model = Model.from_proto(build(nodes, {"x": ["n", 6]}, {"logits": None, "classes": None}, weights))
    given = RNG.standard_normal((40, 6)).astype(np.float32)
    values = dict(zip(("logits", "classes"), run(model, {"x": given}), strict=True))
    assert [one.name for one in observe(model, [({"x": given}, values, 40)]).outputs] == ["logits"]


@pytest.mark.parametrize(("name", "task"), [("box", "regression"), ("labels", "classification")])
def test_four_values_that_are_called_a_box_are_no_labels(name, task):
    """Beside classes and a mask, from a head that is hardly trained: not all lie within the picture."""
    values = 1 / (1 + np.exp(-3 * normal(12, 4)))
    found = guess(seen(out(name, values, "Sigmoid")))
    assert {part.task for part in found.parts} == {task}
    assert not are_boxes(out(name, values), -1)


def test_a_map_that_is_never_below_0_and_beyond_1_is_no_mask():
    """A depth, whose mask over 0 would be the whole picture."""
    depth = seen(out("disp", 3 + abs(normal(4, 1, 64, 64)), "Mul"))
    assert {part.task for part in guess(depth).parts} == {"regression"}
    assert "segmentation" in {part.task for part in guess(seen(out("disp", normal(4, 1, 64, 64), "Conv"))).parts}


@pytest.mark.filterwarnings("error")
def test_an_output_that_is_nan_throughout_is_no_noise():
    """Without a word from numpy; that it is NaN the evaluation says."""
    found = guess(denoiser(np.full((4, 1, 32, 32), np.nan, np.float32), np.zeros(1), "t"))
    assert "noise" not in str(found.finding().values)


@pytest.mark.parametrize("crossing", [0.0, 0.05])
def test_quantiles_may_cross_by_little_where_scores_of_classes_fall_as_they_rise(crossing):
    """Five quantiles of eight steps ahead, as a linear layer gives them, beside scores of five classes that are as often
    in one order."""
    values = np.cumsum(np.abs(normal(60, 8, 5)) + 0.2, axis=-1)
    rows = np.random.default_rng(2).random((60, 8)) < crossing
    quantiles, scores = values.copy(), values.copy()
    # the middle one is a little above the next
    quantiles[rows, 2] = quantiles[rows, 3] + 0.05
    scores[rows] = scores[rows][:, ::-1]
    found = guess(seen(out("y", quantiles, "Gemm")))
    assert found.task == "regression" and not found.parts[0].settings.get("axis")
    assert ordered(out("y", scores, "Gemm"), -1) is (crossing == 0)


def spots(count, faint=0.0):
    """Maps of which a thousandth is near 1 and the rest is near 0."""
    values = RNG.uniform(0, 1e-3, (count, 1, 64, 64))
    values[::2, :, 10:12, 20:24] = RNG.uniform(0.97, 1, (count // 2, 1, 2, 4))
    values[..., 40, 40:48] = faint
    return values


def test_a_mask_of_few_places_is_the_one_that_a_threshold_of_half_gives():
    """What lies outside a sharp mask was held against the mean, so that noise of 59 dB changed every answer."""
    values = spots(16)
    found = guess(seen(out("mask", values, "Sigmoid")))
    (part,) = found.parts
    assert (found.task, part.settings["threshold"], part.settings["small"]) == ("segmentation", 0.5, 0)
    assert "however small" in sentence(reader(part).rule())

    def kept(of):
        answers = Answers(found.parts)
        rows = answers.rows({"mask": np.float32(values)}, {"mask": np.float32(of)})
        return answers.tallies([rows])[0].kept

    assert kept(np.clip(values + RNG.uniform(-1, 1, values.shape) * 1e-3, 0, 1)) == 16
    # a map that loses its spots is changed wherever there were some
    assert kept(np.minimum(values, 0.4)) == 8
    # where as many places are in between, none is the mask
    (part,) = guess(seen(out("mask", spots(16, faint=0.45), "Sigmoid"))).parts
    assert 0 < part.settings["threshold"] < 0.1 and "small" not in part.settings


@pytest.mark.parametrize("shape", [(8, 32, 32), (32, 32, 8)], ids=["channels first", "channels last"])
def test_channels_without_negative_values_are_features_and_not_scores_of_classes(shape):
    """The prototypes of an instance segmentation were judged by their argmax too, which most of INT8 was lost to."""
    scores = seen(out("output", normal(6, *shape), "Conv"), out("segm", normal(6, 5, 32, 32), "Conv"))
    proto = seen(out("output", np.maximum(normal(6, *shape), 0), "Relu"), out("segm", normal(6, 5, 32, 32), "Conv"))
    tasks = [{part.task for part in guess(one).parts if part.outputs == ("output",)} for one in (scores, proto)]
    assert "segmentation" in tasks[0] and tasks[1] == {"regression"}


@pytest.mark.parametrize("activation", ["Relu", "Softplus"])
def test_maps_without_negative_values_that_are_enlarged_to_the_image_may_be_scores_of_classes(activation):
    """They were judged by their values alone, so a changed class was no difference."""
    values = normal(6, 21, 32, 32)
    values = np.maximum(values, 0) if activation == "Relu" else np.log1p(np.exp(values))
    assert {part.task for part in guess(seen(out("y", values, "Resize"))).parts} == {"segmentation", "regression"}


@pytest.mark.parametrize(("op", "task"), [("Mul", "regression"), ("Sigmoid", "segmentation")])
def test_a_map_of_small_amounts_is_no_mask(op, task):
    """How many there are in a place, 0.02 at most: all its values are close to 0, and none is to 1."""
    found = guess(seen(out("map", np.exp(RNG.standard_normal((8, 1, 64, 64)) - 7), op)))
    assert (found.task, {part.task for part in found.parts}) == (task, {task})


CODES = {
    "codes of audio": (8, 40), "a codebook in a row": (1, 300), "codes of a picture": (16, 16),
}  # fmt: skip


@pytest.mark.parametrize("name", CODES)
def test_numbers_in_codebooks_are_answers_each_for_itself(name):
    """A sample of 320 codes with a wrong one is not wrong."""
    codes = RNG.integers(0, 1024, (6, *CODES[name]))
    given = out("codes" if "row" in name else "out", codes[:, 0] if "row" in name else codes)
    found = guess(seen(given, inputs={"x": np.zeros((3, 64, 64), np.float32)} if "picture" in name else AUDIO))
    (part,) = found.parts
    assert (found.task, part.task, found.sure) == ("generation", "generation", True)
    values = np.stack(given.samples)
    other = values.copy()
    other.reshape(6, -1)[:, 0] += 1
    answers = Answers([part])
    (tally,) = answers.tallies([answers.rows({given.name: values}, {given.name: other})])
    assert tally.share == pytest.approx(1 - 6 / values.size)


def test_the_digits_of_a_postal_code_are_one_answer():
    assert {part.task for part in guess(seen(out("postal_code", RNG.integers(0, 10, (16, 5))))).parts} == {"sequence"}


@pytest.mark.parametrize(("name", "op"), [("item_ids", "Gather"), ("out", "TopK"), ("token_ids", "ArgMax")])
def test_lists_of_ids_are_one_answer(name, op):
    """The best 20 of 1,000 items for each of four queries: with another item, a sample has another answer."""
    ids = RNG.integers(0, 1000, (6, 4, 20))
    found = guess(seen(out(name, ids, op), inputs=AUDIO))
    assert found.task == "sequence"
    other = ids.copy()
    other[0, 0, 0] += 1
    answers = Answers(found.parts)
    (tally,) = answers.tallies([answers.rows({name: ids}, {name: other})])
    assert (tally.kept, tally.answers) == (5, 6)
    assert guess(seen(out("codes_index", ids, op), inputs=AUDIO)).task == "generation"


@pytest.mark.parametrize(("name", "op"), [("indices", "ArgMin"), ("indices", "ArgMax"), ("tokens", "ArgMin")])
def test_the_nearest_entries_of_codebooks_are_codes(name, op):
    """As of a residual vector quantizer, eight codebooks at 75 times a second: one code that differs is one answer."""
    codes = RNG.integers(0, 1024, (6, 8, 75))
    assert {part.task for part in guess(seen(out(name, codes, op), inputs=AUDIO)).parts} == {"generation"}


def test_labels_in_regions_are_no_codes():
    """Of 100 speakers, each for some frames."""
    labels = np.repeat(RNG.integers(0, 100, (8, 4, 25)), 4, axis=2)
    assert guess(seen(out("out", labels), inputs=AUDIO)).task == "sequence"


@pytest.mark.parametrize("form", ["Gemm", "MatMul"])
@pytest.mark.parametrize("dynamic", [True, False])
def test_a_value_for_each_frame_of_one_sample_is_no_class(form, dynamic):
    """[frames, 1], whose axis of length 1 looks like that of samples."""
    frames = "frames" if dynamic else 24
    weights = {"w": RNG.standard_normal((6, 1)).astype(np.float32)}
    proto = build([node(form, ["x", "w"], ["y"])], {"x": [frames, 6]}, {"y": [frames, 1]}, weights)
    model, batches = Model.from_proto(proto), []
    for count in (24, 30, 17, 24, 28, 31, 19, 22) if dynamic else [24] * 8:
        x = {"x": RNG.standard_normal((count, 6)).astype(np.float32)}
        batches.append((x, dict(zip(["y"], run(model, x))), 1))
    found = guess(observe(model, batches))
    assert (found.task, found.others, found.sure) == ("regression", [], True)


def test_scores_of_choices_that_one_layer_computes_each_are_classes():
    """Of four answers to a question, each read with it: a layer with one output channel, reshaped."""
    weights = {"w": RNG.standard_normal((6, 1)).astype(np.float32), "s": np.array([-1, 4])}
    parts = [node("MatMul", ["x", "w"], ["h"]), node("Reshape", ["h", "s"], ["logits"])]
    model = Model.from_proto(build(parts, {"x": ["n", 4, 6]}, {"logits": ["n", 4]}, weights))
    x = {"x": RNG.standard_normal((16, 4, 6)).astype(np.float32)}
    assert guess(observe(model, [(x, {"logits": run(model, x)[0]}, 16)])).task == "classification"


@pytest.mark.parametrize("shape", [(10,), (5, 2)])
@pytest.mark.parametrize(("name", "both"), [("output", True), ("label_probs", False)])
def test_a_sigmoid_whose_values_are_never_near_0_or_1_may_give_coordinates(shape, name, both):
    """Landmarks of a face: by a threshold of half most of them could move as they like."""
    places = np.tile([0.3, 0.35, 0.7, 0.35, 0.45, 0.55, 0.35, 0.75, 0.65, 0.75], (12, 1))
    values = (places + np.random.default_rng(4).uniform(-0.2, 0.2, places.shape)).reshape(12, *shape)
    tasks = {part.task for part in guess(seen(out(name, values, "Sigmoid"))).parts}
    assert ("regression" in tasks) is (both or shape != (10,)) and (tasks != {"regression"} or shape != (10,))
    sure = np.where(values > 0.5, 0.97, 0.03)
    assert "regression" not in {part.task for part in guess(seen(out(name, sure, "Sigmoid"))).parts}


@pytest.mark.parametrize(("name", "task"), [("rgb", "regression"), ("class_probs", "classification")])
def test_three_chances_that_are_called_a_colour_are_values(name, task):
    values = np.random.default_rng(4).uniform(0, 1, (12, 3))
    assert {part.task for part in guess(seen(out(name, values, "Sigmoid"))).parts} == {task}


def landmarks(samples=24, count=68):
    """Places of landmarks around a mean face, from 0 to 1, [samples, count, 2]: all move together, and each a little."""
    draw = np.random.default_rng(6)
    mean = draw.uniform(0.15, 0.85, (count, 2))
    return mean + draw.normal(0, 0.04, (samples, 1, 2)) + draw.normal(0, 0.01, (samples, count, 2))


@pytest.mark.parametrize("shape", [(136,), (68, 2)])
def test_landmarks_are_judged_by_their_places_and_class_scores_by_the_largest_alone(shape):
    """The largest of 136 coordinates is that of the chin, wherever the other landmarks go."""
    places = landmarks().reshape(24, *shape)
    assert "regression" in {part.task for part in guess(seen(out("output", places, "Gemm"))).parts}
    assert {part.task for part in guess(seen(out("landmarks", places, "Gemm"))).parts} == {"regression"}
    # a classifier that prefers some classes
    scores = np.random.default_rng(6).normal(0, 2, (24, *shape)) + np.random.default_rng(7).normal(0, 2, shape[-1])
    scores -= scores.mean(axis=-1, keepdims=True)
    assert "regression" not in {part.task for part in guess(seen(out("output", scores, "Gemm"))).parts}


def test_targets_of_unlike_scales_are_no_class_scores():
    """Twelve properties of a molecule in their units; the largest of them is that of the largest unit."""
    units = np.array([1, 10, 0.1, 0.1, 0.1, 1000, 0.1, 10, 10, 10, 10, 6])
    values = np.random.default_rng(6).standard_normal((24, 12))
    assert {part.task for part in guess(seen(out("output", values * units, "Gemm"))).parts} == {"regression"}
    assert {part.task for part in guess(seen(out("output", values, "Gemm"))).parts} == {"classification"}
    named = {part.task for part in guess(seen(out("class_logits", values * units, "Gemm"))).parts}
    assert named == {"classification", "regression"}


@pytest.mark.parametrize(("width", "task"), [(3, "regression"), (4, "regression"), (128, "embedding")])
def test_a_vector_of_length_1_is_a_direction_if_it_is_short_and_else_an_embedding(width, task):
    values = np.random.default_rng(6).standard_normal((24, width))
    values /= np.linalg.norm(values, axis=1, keepdims=True)
    assert {part.task for part in guess(seen(out("output", values, "Div"))).parts} == {task}


def test_a_pulse_as_long_as_the_clip_that_it_is_read_from_is_a_signal():
    steps, draw = np.arange(625), np.random.default_rng(6)
    pulse = np.sin(steps * draw.uniform(0.05, 0.1, (12, 1)) + draw.uniform(0, 6, (12, 1)))
    clip = {"clip": np.zeros((3, 625, 36, 36), np.float32)}
    assert {part.task for part in guess(seen(out("output", pulse, "Gemm"), inputs=clip)).parts} == {"regression"}


@pytest.mark.parametrize("name", ["depth", "output"])
@pytest.mark.parametrize("task", [None, "segmentation"])
def test_a_metric_of_masks_says_nothing_of_the_depth_beside_them(name, task):
    """Depth is never below 0, so that as a mask it is all of the picture, whatever becomes of it."""
    draw, block = np.random.default_rng(6), np.ones((1, 1, 4, 4), np.float32)
    scores = np.kron(draw.normal(size=(12, 4, 8, 8)), block)
    depth = np.kron(draw.uniform(1, 5, (12, 1, 8, 8)), block)
    two = seen(
        out("seg", scores, "Resize"), out(name, depth, "Resize"), inputs={"rgb": np.zeros((3, 32, 32), np.float32)}
    )
    read = {(part.outputs[0], part.task) for part in judged_by(two, task, "miou", None, {}, {})[0].parts}
    assert read == {("seg", "segmentation"), (name, "regression")}
