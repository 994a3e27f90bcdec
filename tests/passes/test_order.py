"""Passes in an order in which one of them has no effect say so."""

from __future__ import annotations

import pytest

from tests.conftest import MODELS
from toolkit import CalibrationData, Calibrator, Context, Model
from toolkit.cli.main import invoke
from toolkit.contract.order import OrderCode
from toolkit.contract.registry import find_pass

RECIPE = """
[model]
path = "{model}"
[calibration]
data = "{data}"
samples = 64
method = "minmax"
{passes}
[engine]
backend = "none"
"""


def applied(*names, exclude=()):
    """The findings about the order of passes on the digits network, and whether the last pass changed the graph."""
    model = Model.load(MODELS / "digits_cnn.onnx")
    data = CalibrationData.open(MODELS / "digits_calibration.npz", model)
    context = Context(provider=Calibrator(data.first(16), method="minmax"))
    before = b""
    for name in names:
        before = model.to_bytes()
        settings = {"exclude": list(exclude)} if name == "insert_qdq" else {}
        find_pass(name, False)(**settings)(model, context)
    return [e.why for e in context.journal if e.why.code is OrderCode.AFTER_PAIRS], model.to_bytes() != before


@pytest.mark.parametrize("late", ["fold_batchnorm", "equalize", "smooth", "shift"])
def test_what_works_on_layers_without_pairs_is_told_to_come_before_them(late):
    (said,), changed = applied("insert_qdq", late)
    assert not changed
    assert (said.values["by"], said.values["layers"], said.values["node"]) == (late, 11, "/stem/conv/Conv")
    assert applied("fold_batchnorm", late, "insert_qdq")[0] == []


def test_where_it_still_has_an_effect_nothing_is_said():
    assert applied("insert_qdq", "fold_batchnorm", exclude=["/stem/*"]) == ([], True)
    # neither needs an order: a request takes pairs out again, and constants are folded beside them
    for name in ("keep_precision", "guard_fp16", "fold_constants", "correct_bias", "compensate"):
        settings = {"ops": ["Gemm"]} if name == "keep_precision" else {}
        model = Model.load(MODELS / "digits_cnn.onnx")
        context = Context(provider=Calibrator(CalibrationData.open(MODELS / "digits_calibration.npz", model).first(8)))
        find_pass("insert_qdq", False)()(model, context)
        find_pass(name, False)(**settings)(model, context)
        assert OrderCode.AFTER_PAIRS not in {event.why.code for event in context.journal}


@pytest.mark.parametrize("left", ["/stem/*", ""])
def test_a_dry_run_does_not_say_what_only_a_run_can_tell(left):
    model = Model.load(MODELS / "digits_cnn.onnx")
    data = CalibrationData.open(MODELS / "digits_calibration.npz", model)
    context = Context(provider=Calibrator(data.first(8), method="minmax"), dry_run=True)
    find_pass("insert_qdq", False)(exclude=[left] if left else [])(model, context)
    find_pass("smooth", False)()(model, context)
    said = OrderCode.AFTER_PAIRS in {event.why.code for event in context.journal}
    # of the stem a run may smooth the input, of layers with pairs it does not
    assert said == (left == "")


def test_a_request_for_float_takes_pairs_out_whatever_the_order():
    def pairs(*names):
        model = Model.load(MODELS / "digits_cnn.onnx")
        data = CalibrationData.open(MODELS / "digits_calibration.npz", model)
        context = Context(provider=Calibrator(data.first(8), method="minmax"))
        for name in names:
            find_pass(name, False)(**({"ops": ["Gemm"]} if name == "keep_precision" else {}))(model, context)
        return {node.inputs[0].name for node in model.nodes if node.op == "QuantizeLinear"}

    kept = {"head.weight", "/flatten/Flatten_output_0"}
    assert kept <= pairs("insert_qdq")
    assert not kept & pairs("insert_qdq", "keep_precision") and not kept & pairs("keep_precision", "insert_qdq")


@pytest.mark.parametrize(
    ("order", "message"),
    [
        (("fold_batchnorm", "insert_qdq", "smooth"), "smooth changed nothing. It works on layers without Q/DQ pairs, and "
         "11 layers, such as '/stem/conv/Conv', have theirs already: put smooth before the pass that inserts them."),
        (("fold_batchnorm", "correct_bias", "insert_qdq"), "No layer has quantized weights: put insert_qdq before, or see "
         "in the journal why it declined the layers."),
    ],
)  # fmt: skip
def test_check_and_run_warn_of_it(tmp_path, capsys, order, message):
    passes = "\n".join(f'[[pass]]\nuse = "{name}"' for name in order)
    recipe = tmp_path / "recipe.toml"
    places = {"model": MODELS / "digits_cnn.onnx", "data": MODELS / "digits_calibration.npz"}
    recipe.write_text(RECIPE.format(passes=passes, **places))
    for command in (["check", str(recipe)], ["run", str(recipe), "--out", str(tmp_path / "out")]):
        assert invoke(command) in (0, 1)
        said = " ".join(capsys.readouterr().out.split())
        assert f"arning: {message}" in said
