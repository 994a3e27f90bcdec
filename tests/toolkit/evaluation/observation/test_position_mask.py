"""Padded positions of sentences hold no answers: which input says so is found by what it does."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests.conftest import build, node, normal
from toolkit import Model, Recipe, run
from toolkit.evaluation.codes import EvaluationCode
from toolkit.evaluation.comparison.answers import Answers
from toolkit.evaluation.comparison.outcome import compare, summed, varying_shares
from toolkit.evaluation.comparison.outputs import OutputComparison
from toolkit.evaluation.observation.observe import observe
from toolkit.evaluation.observation.position_mask import PositionMask, positions_on
from toolkit.evaluation.tasks import OutputPart
from toolkit.graph.sessions.session import session
from toolkit.report.findings import sentence

WORDS, WIDTH, LENGTH, TAGS = 40, 16, 12, 5
IDS = {name: ["batch", "length"] for name in ("ids", "mask", "kinds")}


def tagger(off=0, masked=True, causal=False, head=("MatMul", TAGS)):
    """A layer of attention over the tokens of a sentence, and scores of tags for each; ``mask`` is ``off`` at padding."""
    weights = {
        "words": normal(WORDS, WIDTH, seed=1), "segments": normal(2, WIDTH, seed=2), "q": normal(WIDTH, WIDTH, seed=3),
        "k": normal(WIDTH, WIDTH, seed=4), "h": normal(WIDTH, head[1], seed=5), "one": np.float32(1 - off),
        "far": np.float32(-1e4), "none": np.float32(0), "axes": np.int64([1]), "slope": np.float32(2 * off - 1),
        "past": np.triu(np.full((LENGTH, LENGTH), -1e4, np.float32), 1),
    }  # fmt: skip
    nodes = [
        node("Gather", ["words", "ids"], ["word"]), node("Gather", ["segments", "kinds"], ["kind"]),
        node("Add", ["word", "kind"], ["x"]), node("MatMul", ["x", "q"], ["xq"]), node("MatMul", ["x", "k"], ["xk"]),
        node("Transpose", ["xk"], ["kt"], perm=[0, 2, 1]), node("MatMul", ["xq", "kt"], ["scores"]),
        node("Cast", ["mask"], ["m"], to=1), node("Mul", ["m", "slope"], ["minus"]), node("Add", ["minus", "one"], ["padded"]),
        node("Mul", ["padded", "far"], ["away"]), node("Unsqueeze", ["away", "axes"], ["wide"]),
        node("Add", ["scores", "wide" if masked else "none"], ["hidden"]),
        node("Add", ["hidden", "past" if causal else "none"], ["left"]), node("Softmax", ["left"], ["p"], axis=-1),
        node("MatMul", ["p", "x"], ["seen"]), node("Add", ["seen", "x"], ["state"]),
        node(head[0], ["state", "h"], ["logits"]),
    ]  # fmt: skip
    return build(
        nodes, IDS, {"logits": ["batch", "length", head[1]]}, weights, types=dict.fromkeys(IDS, TensorProto.INT64)
    )


def sentences(count, off=0, seed=0):
    """Sentences of 4 to 12 words, padded with word 0."""
    random = np.random.default_rng(seed)
    lengths = random.integers(4, LENGTH + 1, count)
    on = np.arange(LENGTH) < lengths[:, None]
    ids = np.where(on, random.integers(1, WORDS, (count, LENGTH)), 0)
    kinds = (np.arange(LENGTH) >= lengths[:, None] // 2) & on
    return {"ids": ids, "mask": np.where(on, 1 - off, off), "kinds": kinds.astype(np.int64)}, on


def looked(proto, off=0):
    model = Model.from_proto(proto)
    given, on = sentences(8, off)
    batches = [{name: value[row : row + 1] for name, value in given.items()} for row in range(8)]
    return observe(model, [(one, session(model).run(one), 1) for one in batches]), on


@pytest.mark.parametrize("off", [0, 1])
@pytest.mark.parametrize("causal", [False, True])
def test_the_input_that_turns_positions_off_is_found_by_what_it_does(off, causal):
    seen, on = looked(tagger(off, causal=causal), off)
    assert seen.outputs[0].mask == PositionMask("mask", off, -2, pytest.approx(1 - on.mean()))
    assert [len(one) for one in seen.outputs[0].counted] == on.sum(axis=1).tolist()


@pytest.mark.parametrize("causal", [False, True])
def test_an_input_that_hides_nothing_is_no_mask(causal):
    seen, _ = looked(tagger(masked=False, causal=causal))
    assert seen.outputs[0].mask is None


def tags(masked):
    """The tagger with nothing but the number of each token's tag."""
    proto = tagger(masked=masked)
    proto.graph.node.append(node("ArgMax", ["logits"], ["tags"], axis=-1, keepdims=0))
    del proto.graph.output[:]
    proto.graph.output.append(helper.make_tensor_value_info("tags", TensorProto.INT64, ["batch", "length"]))
    return proto


@pytest.mark.parametrize("seed", range(8))
def test_tags_that_stay_by_chance_show_no_mask(seed):
    given, _ = sentences(8, seed=seed)
    assert observed(tags(False), given).outputs[0].mask is None
    found = observed(tags(True), given).outputs[0].mask
    assert found is None or found.input == "mask"


def observed(proto, given):
    model, rows = Model.from_proto(proto), range(len(next(iter(given.values()))))
    batches = [{name: value[row : row + 1] for name, value in given.items()} for row in rows]
    return observe(model, [(one, session(model).run(one), 1) for one in batches])


def test_the_mask_of_a_tagger_of_numbers_is_found():
    assert observed(tags(True), sentences(8)[0]).outputs[0].mask.input == "mask"


def test_values_that_a_model_fills_in_where_a_mask_says_that_none_was_observed_are_answers():
    nodes = [
        node("Mul", ["x", "seen"], ["known"]), node("Concat", ["known", "seen"], ["c"], axis=1),
        node("MatMul", ["c", "w"], ["h"]), node("Relu", ["h"], ["r"]), node("MatMul", ["r", "v"], ["y"]),
    ]  # fmt: skip
    sizes = ["batch", 24]
    proto = build(
        nodes, {"x": sizes, "seen": sizes}, {"y": sizes}, {"w": normal(48, 32, seed=1), "v": normal(32, 24, seed=2)}
    )
    seen = (np.random.default_rng(0).random((8, 24)) > 0.3).astype(np.float32)
    assert observed(proto, {"x": normal(8, 24), "seen": seen}).outputs[0].mask is None


def formed(dims, kind=TensorProto.INT64, added=False):
    """The tagger with a mask of other dimensions or of another type, or one that is added to the scores as it is."""
    proto = tagger()
    found = next(one for one in proto.graph.input if one.name == "mask")
    found.CopyFrom(helper.make_tensor_value_info("mask", kind, dims))
    far = [
        node("Cast", ["mask"], ["m"], to=1),
        node("Sub", ["one", "m"], ["off"]),
        node("Mul", ["off", "far"], ["raw"]),
    ]
    source, singles = "mask" if added else "raw", [axis for axis, one in enumerate(dims) if one == 1]
    # scores are [batch, positions, positions]
    shaping = [node("Squeeze", [source, "singles"], ["flat"]) if singles else node("Identity", [source], ["flat"]),
               node("Identity", ["flat"], ["wide"]) if dims.count("length") == 2 else node("Unsqueeze", ["flat", "axes"], ["wide"])]  # fmt: skip
    own = [one for one in proto.graph.node if one.output[0] not in ("m", "minus", "padded", "away", "wide")]
    at = next(place for place, one in enumerate(own) if one.output[0] == "hidden")
    nodes = [*own[:at], *([] if added else far), *shaping, *own[at:]]
    read = {name for one in nodes for name in one.input}
    weights = [*proto.graph.initializer, numpy_helper.from_array(np.int64(singles), "singles")]
    for field, values in (
        (proto.graph.node, nodes),
        (proto.graph.initializer, [one for one in weights if one.name in read]),
    ):
        copies = [type(one).FromString(one.SerializeToString()) for one in values]
        del field[:]
        field.extend(copies)
    return proto


NUMBERS, FAR = {TensorProto.INT64: np.int64, TensorProto.FLOAT: np.float32}, -1e4
FORMS = [["batch", 1, "length"], ["batch", "length", 1], ["batch", 1, 1, "length"], ["batch", "length", "length"],
         ["batch", 1, "length", "length"]]  # fmt: skip


def as_form(given, dims, kind=TensorProto.INT64, added=False):
    """The mask [batch, positions] in these dimensions; of two of positions the first are rows, all of which are on."""
    mask = given["mask"].astype(NUMBERS[kind])
    mask = (1 - mask) * FAR if added else mask
    shape = [{"batch": len(mask), "length": 1}.get(one, 1) for one in dims]
    shape[len(dims) - 1 - dims[::-1].index("length")] = LENGTH
    rows = [{"batch": len(mask), "length": LENGTH}.get(one, 1) for one in dims]
    return {**given, "mask": np.ascontiguousarray(np.broadcast_to(mask.reshape(shape), rows)).astype(NUMBERS[kind])}


@pytest.mark.parametrize("dims", FORMS, ids=lambda dims: " x ".join(map(str, dims)))
@pytest.mark.parametrize("kind", [TensorProto.INT64, TensorProto.FLOAT])
def test_a_mask_may_have_more_axes_and_be_of_floats(dims, kind):
    given, on = sentences(8)
    found = observed(formed(dims, kind), as_form(given, dims, kind)).outputs[0]
    assert found.mask == PositionMask("mask", 0, -2, pytest.approx(1 - on.mean()))
    assert [len(one) for one in found.counted] == on.sum(axis=1).tolist()


@pytest.mark.parametrize("dims", [["batch", "length"], *FORMS], ids=lambda dims: " x ".join(map(str, dims)))
@pytest.mark.parametrize("far", [-1e4, -np.inf, float(np.finfo(np.float32).min)])
def test_a_mask_may_be_added_to_the_scores(dims, far):
    given, on = sentences(8)
    form = as_form(given, dims, TensorProto.FLOAT, added=True)
    form["mask"] = np.where(form["mask"] < 0, np.float32(far), np.float32(0))
    found = observed(formed(dims, TensorProto.FLOAT, added=True), form).outputs[0]
    assert found.mask == PositionMask("mask", max(far, np.finfo(np.float32).min), -2, pytest.approx(1 - on.mean()))
    assert [len(one) for one in found.counted] == on.sum(axis=1).tolist()
    said = sentence(EvaluationCode.POSITIONS_OFF(input="mask", off=found.mask.off, outputs=["logits"], share=0.25))
    assert f"is {found.mask.off:g} or less hold" in said


def test_an_empty_past_is_no_mask():
    assert positions_on(np.zeros((1, 2, 0, 4), np.float32), 0) is None
    proto, (given, _) = tagger(), sentences(8)
    proto.graph.input.append(helper.make_tensor_value_info("past", 1, ["batch", "past", 4]))
    assert observed(proto, {**given, "past": np.zeros((8, 0, 4), np.float32)}).outputs[0].mask.input == "mask"


def test_who_sees_whom_is_no_padding():
    given, _ = sentences(8)
    dims = ["batch", 1, "length", "length"]
    past = np.broadcast_to(np.tril(np.ones((LENGTH, LENGTH), np.int64)), (8, 1, LENGTH, LENGTH)).copy()
    assert observed(formed(dims), {**given, "mask": past}).outputs[0].mask is None


@pytest.mark.parametrize("first", [True, False], ids=["vectors", "channels first"])
@pytest.mark.parametrize("kind", [TensorProto.INT64, TensorProto.FLOAT, TensorProto.BOOL])
def test_a_mask_beside_features_is_found(first, kind):
    proto, (given, on) = tagger(), sentences(8)
    dims = ["batch", "length", WIDTH] if first else ["batch", WIDTH, "length"]
    for name, value in (
        ("ids", helper.make_tensor_value_info("ids", 1, dims)),
        ("mask", helper.make_tensor_value_info("mask", kind, IDS["mask"])),
    ):
        next(one for one in proto.graph.input if one.name == name).CopyFrom(value)
    look_up = next(one for one in proto.graph.node if one.output[0] == "word")
    look_up.CopyFrom(
        node("Identity", ["ids"], ["word"]) if first else node("Transpose", ["ids"], ["word"], perm=[0, 2, 1])
    )
    del proto.graph.initializer[[one.name for one in proto.graph.initializer].index("words")]
    vectors = normal(8, LENGTH, WIDTH, seed=7) * on[..., None]
    given |= {"ids": vectors if first else np.ascontiguousarray(vectors.transpose(0, 2, 1))}
    given["mask"] = given["mask"].astype({**NUMBERS, TensorProto.BOOL: np.bool_}[kind])
    found = observed(proto, given).outputs[0].mask
    assert found == PositionMask("mask", 0, -2, pytest.approx(1 - on.mean()))


def blanked():
    """The tagger with the embeddings of padding set to zero before its attention, as DeBERTa and ESM have it."""
    proto = tagger()
    state = next(one for one in proto.graph.node if one.output[0] == "x")
    state.output[0] = "embedded"
    at = list(proto.graph.node).index(state) + 1
    proto.graph.node.insert(at, node("Cast", ["mask"], ["words_on"], to=1))
    proto.graph.node.insert(at + 1, node("Unsqueeze", ["words_on", "last"], ["words_kept"]))
    proto.graph.node.insert(at + 2, node("Mul", ["embedded", "words_kept"], ["x"]))
    proto.graph.initializer.append(numpy_helper.from_array(np.int64([2]), "last"))
    return proto


def scattered(given):
    """The same with a mask of as many tokens that are anywhere in the sentence, as those that a model fills in."""
    random = np.random.default_rng(5)
    return {**given, "mask": np.array([random.permutation(row) for row in given["mask"]])}


def test_padding_is_off_also_where_its_embeddings_are_blanked_first():
    given, on = sentences(8)
    mirrored = {name: value[:, ::-1].copy() for name, value in given.items()}
    for one in (given, mirrored):
        assert observed(blanked(), one).outputs[0].mask == PositionMask("mask", 0, -2, pytest.approx(1 - on.mean()))


def test_tokens_anywhere_and_an_end_of_fixed_length_may_be_what_a_blanked_model_fills_in():
    given, _ = sentences(8)
    horizon = {**given, "mask": np.tile((np.arange(LENGTH) < 8).astype(np.int64), (8, 1))}
    for one in (scattered(given), horizon):
        assert observed(blanked(), one).outputs[0].mask is None


def test_tokens_that_the_data_has_where_they_are_off_are_what_a_blanked_model_is_to_find():
    """The end of each text is hidden from the model, and the data holds it all the same; padding has one token."""
    given, on = sentences(8)
    whole = {**given, "ids": np.where(on, given["ids"], np.random.default_rng(3).integers(1, WORDS, on.shape))}
    assert observed(blanked(), whole).outputs[0].mask is None
    padded = {**given, "ids": np.where(on, given["ids"], 7)}
    assert observed(blanked(), padded).outputs[0].mask is not None


def test_a_vector_as_long_as_its_sentence_has_no_positions():
    proto = tagger(head=("MatMul", LENGTH))
    proto.graph.node.append(node("Gather", ["logits", "start"], ["first"], axis=1))
    proto.graph.initializer.append(numpy_helper.from_array(np.int64(0), "start"))
    del proto.graph.output[:]
    proto.graph.output.append(helper.make_tensor_value_info("first", TensorProto.FLOAT, ["batch", LENGTH]))
    assert observed(proto, sentences(8)[0]).outputs[0].mask is None


def test_positions_that_the_model_blanks_are_off():
    proto = tagger()
    proto.graph.node.append(node("Unsqueeze", ["m", "last"], ["keep"]))
    proto.graph.node.append(node("Mul", ["logits", "keep"], ["y"]))
    proto.graph.initializer.append(numpy_helper.from_array(np.int64([2]), "last"))
    del proto.graph.output[:]
    proto.graph.output.append(helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", "length", TAGS]))
    assert observed(proto, sentences(8)[0]).outputs[0].mask.axis == -2


def test_a_model_is_loaded_once_and_run_a_few_times(monkeypatch):
    given, _ = sentences(8)
    model = Model.from_proto(tagger())
    batches = [({k: v[row : row + 1] for k, v in given.items()}, 1) for row in range(8)]
    made = [(one, session(model).run(one), count) for one, count in batches]
    loads, runs = [], []

    class Counted:
        def __init__(self, inner):
            self.inner = inner
            loads.append(1)

        def run(self, inputs):
            runs.append(1)
            return self.inner.run(inputs)

    monkeypatch.setattr("toolkit.evaluation.observation.observe.own_session", lambda one: Counted(session(one)))
    assert observe(model, made).outputs[0].mask is not None
    # two runs refute each value of each input that is no mask; a mask takes four for each half, but for one in common
    assert len(loads) == 1 and len(runs) <= 2 * 3 + 7


MASKED = {"mask": "mask", "mask_off": 0, "positions": -2, "axis": -1}


@pytest.mark.parametrize("task", ["sequence", "generation", "embedding", "regression"])
def test_what_changes_where_positions_are_off_changes_no_answer(task):
    given, on = sentences(40, seed=3)
    wanted = normal(40, LENGTH, TAGS, seed=4)
    padding = np.where(on[:, :, None], wanted, -wanted)
    words = np.where(on[:, :, None], -wanted, wanted)
    settings = {**MASKED, **({"mean": 0.0, "variance": 1.0} if task == "regression" else {})}
    answers = Answers([OutputPart(task, ("y",), settings)])

    def tally(found, batch=40):
        parts = [slice(start, start + batch) for start in range(0, 40, batch)]
        return answers.tallies([
            answers.rows({"y": wanted[at]}, {"y": found[at]}, {name: value[at] for name, value in given.items()})
            for at in parts
        ])[0]  # fmt: skip

    same, lost = tally(padding), tally(words)
    assert same.answers == same.kept == (on.sum() if task == "generation" else 40)
    assert lost.kept == 0 and lost.answers == same.answers
    # however samples are joined
    assert tally(words, 1) == lost and tally(padding, 7) == same


def test_a_sample_without_a_position_that_is_on_has_no_answer():
    answers = Answers([OutputPart("sequence", ("y",), MASKED)])
    wanted, mask = normal(2, LENGTH, TAGS), np.zeros((2, LENGTH), np.int64)
    mask[1, :3] = 1
    for rows, count in ((slice(0, 2), 1), (slice(0, 1), 0)):
        given = {"mask": mask[rows]}
        (tally,) = answers.tallies([answers.rows({"y": wanted[rows]}, {"y": -wanted[rows]}, given)])
        assert (tally.answers, tally.kept) == (count, 0)


def test_padding_is_not_judged_in_a_run_and_the_report_says_so(tmp_path):
    given, on = sentences(48)
    (tmp_path / "model.onnx").write_bytes(tagger().SerializeToString())
    np.savez(tmp_path / "data.npz", **given)
    made = Recipe.build(
        "padded", model={"path": tmp_path / "model.onnx"}, calibration={"data": str(tmp_path / "data.npz")},
        passes=["insert_qdq"], engine={"backend": "none", "rest": "fp32"},
        evaluation={"data": str(tmp_path / "data.npz"), "task": "generation"},
    )  # fmt: skip
    report = run(made, tmp_path / "out").report
    assert [part.answers for part in report.accuracy.parts] == [on.sum()]
    share = 1 - on[:16].mean()
    said = EvaluationCode.POSITIONS_OFF(input="mask", off=0, outputs=["logits"], share=share)
    assert report.accuracy.task.why.endswith(sentence(said))


@pytest.mark.parametrize("batch", [1, 7, 40])
def test_the_figures_of_an_output_are_those_of_the_positions_that_count(batch):
    """Of a sentence padded to twice its length half of what was compared was padding, all of it the same tag."""
    given, on = sentences(40, seed=3)
    wanted = normal(40, LENGTH, TAGS, seed=4)
    found = wanted + 0.3 * normal(40, LENGTH, TAGS, seed=5)
    found[~on] = -wanted[~on]
    tags_of = {name: one.argmax(axis=-1) for name, one in (("wanted", wanted), ("found", found))}
    parts = [OutputPart("sequence", ("y",), MASKED), OutputPart("sequence", ("t",), {**MASKED, "positions": -1})]
    answers = Answers(parts)
    model = Model.from_proto(
        build([node("Identity", ["x"], ["y"])], {"x": ["n", LENGTH, TAGS]}, {"y": ["n", LENGTH, TAGS]})
    )
    whole, batches, floats, inputs = OutputComparison(model, names=["y", "t"], answers=answers), [], [], []
    for start in range(0, 40, batch):
        rows = slice(start, start + batch)
        floats.append({"y": wanted[rows], "t": tags_of["wanted"][rows]})
        inputs.append({name: value[rows] for name, value in given.items()})
        other = {"y": found[rows], "t": tags_of["found"][rows]}
        whole.add(floats[-1], other, None, len(wanted[rows]), inputs[-1])
        batches.append(compare(floats[-1], other, ["y"], answers, inputs[-1]))
    a, b = wanted[on], found[on]
    sqnr = 10 * np.log10((a.astype(float) ** 2).sum() / ((a - b).astype(float) ** 2).sum())
    same = (a.argmax(axis=-1) == b.argmax(axis=-1)).mean()
    figures = whole.result().outputs
    assert figures["y"].sqnr_db == pytest.approx(sqnr, abs=1e-3)
    assert figures["y"].max_abs == pytest.approx(np.abs(a - b).max())
    for name in ("y", "t"):
        assert (figures[name].agreement, figures[name].positions) == (same, on.sum())
    outcome = summed(batches, varying=varying_shares(floats, answers, inputs), answers=answers)
    assert outcome.sqnr_db == pytest.approx(sqnr, abs=1e-3)
    assert (outcome.agreement, outcome.positions) == (same, on.sum())
    assert outcome.variation_db == pytest.approx(figures["y"].variation_db, abs=1e-6)
    each = [(tags_of["wanted"][i] == tags_of["found"][i])[on[i]].mean() for i in range(40)]
    assert outcome.agreement_error == pytest.approx(np.std(each, ddof=1) / 40**0.5)


def test_a_model_that_answers_every_sentence_alike_varies_no_more_for_its_padding():
    given, on = sentences(40, seed=3)
    wanted = np.repeat(normal(1, LENGTH, TAGS, seed=4), 40, axis=0)
    wanted[~on] = normal(int((~on).sum()), TAGS, seed=6)
    answers = Answers([OutputPart("sequence", ("y",), MASKED)])
    assert varying_shares([{"y": wanted}])["y"] > 0.1
    assert varying_shares([{"y": wanted}], answers, [given]) == {}
