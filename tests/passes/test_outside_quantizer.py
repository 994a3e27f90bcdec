"""A quantizer that this repository does not know gets what insert_qdq gets: search, sensitivity, bisect, timing."""

from __future__ import annotations

import json
import sys

import pytest

from passes.insert_qdq import InsertQDQ
from passes.search_precision import SearchPrecision
from tests.conftest import MODELS, placeholder_context
from tests.toolkit.backends.payoff_stand_in import StandIn
from tests.toolkit.report.engine_samples import network, payoff
from tests.toolkit.report.samples import accuracy, sample
from tests.toolkit.search.planted import chain, damage, feeds
from toolkit import CalibrationData, Calibrator, Context, EngineBench, Model, Precision, RecipeError, run
from toolkit.base.toml import tomllib
from toolkit.cli.main import invoke
from toolkit.report.codes import ReportCode
from toolkit.report.conclusions.advice import advice
from toolkit.report.conclusions.speed import payoff_advice
from toolkit.report.schema.report import Declined
from toolkit.run.recipe.passes import pass_infos
from toolkit.run.recipe.recipe import Recipe

OUTSIDE = '''
from pydantic import Field

from toolkit import Code, Quantizer, place


class EvenLayers(Quantizer):
    """Quantize every layer whose name ends in an even digit, or whatever ``every`` says."""

    name = "even_layers"
    every: int = Field(2, gt=0, description="a layer is quantized where its number is a multiple of this")

    def place(self, model, facts, judge):
        def chosen(node):
            digits = [c for c in node.name if c.isdigit()]
            odd = bool(digits) and int(digits[-1]) % self.every != 0
            return judge(node) or (Code.OWN_WORDS(rule="odd", text="its number is odd") if odd else None)

        return place(model, facts, chosen)
'''
RECIPE = f"""
[model]
path = {str(MODELS / "digits_cnn.onnx")!r}
[calibration]
data = {str(MODELS / "digits_calibration.npz")!r}
method = "minmax"
samples = 48
[[pass]]
use = "fold_batchnorm"
[[pass]]
use = "outside_quantizer:EvenLayers"
[engine]
backend = "none"
"""


@pytest.fixture
def outside(tmp_path, monkeypatch):
    (tmp_path / "outside_quantizer.py").write_text(OUTSIDE)
    (tmp_path / "r.toml").write_text(RECIPE)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "outside_quantizer", raising=False)
    from outside_quantizer import EvenLayers

    yield EvenLayers
    sys.modules.pop("outside_quantizer", None)


def quantized(context):
    return {name for name, ask in context.plan.items() if ask.precision.quantized}


def test_it_inserts_where_it_says_and_declines_the_rest_by_its_own_rule(outside):
    model, context = chain(6), placeholder_context()
    outside()(model, context)
    assert quantized(context) == {"layer0", "layer2", "layer4"}
    assert {e.node for e in context.journal.of("declined") if e.rule == "odd"} == {"layer1", "layer3", "layer5"}


def test_the_search_decides_among_its_layers_alone(outside, tmp_path):
    model = chain(6)
    damage(model, "layer2")
    context = Context(provider=Calibrator(CalibrationData.open(feeds(), model), method="minmax"), folder=tmp_path)
    search = SearchPrecision(quantizer="outside_quantizer:EvenLayers", quantizer_settings={"every": 2}, min_sqnr_db=28)
    search(model, context)
    assert quantized(context) == {"layer0", "layer4"}
    assert json.loads((tmp_path / "search.json").read_text())["best"]["kept"] == ["layer2"]
    with pytest.raises(RecipeError, match="unknown key 'evry': did you mean 'every'"):
        SearchPrecision(quantizer="outside_quantizer:EvenLayers", quantizer_settings={"evry": 2}).plain()


def test_only_if_faster_removes_pairs_that_do_not_pay(outside):
    names = [f"layer{i}" for i in range(6)]
    backend = StandIn(dict.fromkeys(names, 1.0), {**dict.fromkeys(names, 0.5), "layer4": 1.6}, noisy=False)
    model, context = chain(6), placeholder_context()
    context.bench = EngineBench(backend)
    outside(only_if_faster=True)(model, context)
    assert quantized(context) == {"layer0", "layer2"}
    assert {e.node for e in context.journal.of("declined") if e.rule == "not-faster"} == {"layer4"}


def test_run_sensitivity_and_bisect_take_it_from_a_recipe(outside, tmp_path, capsys):
    result = run(tmp_path / "r.toml", tmp_path / "run", allow_code=True)
    heavy = [layer for layer in result.report.layers if layer.op in ("Conv", "Gemm", "MatMul")]
    asked = {layer.node for layer in heavy if layer.asked.by == "even_layers"}
    assert asked and len(asked) < len(heavy)
    for words in (["sensitivity", "--fast"], ["bisect", "--min-sqnr-db", "5"]):
        status = invoke([*words, str(tmp_path / "r.toml"), "--out", str(tmp_path / "run"), "--allow-code", "--json"])
        assert status == 0
        found = json.loads(capsys.readouterr().out)
        if "groups" in found:
            assert {group["name"] for group in found["groups"]} == asked
        else:
            assert found["kept"] == []


def test_the_reports_advice_names_it(outside, tmp_path):
    (tmp_path / "r.toml").write_text(RECIPE.replace('EvenLayers"', 'EvenLayers"\ndtype = "fp8"\nevery = 3'))
    passes = pass_infos(Recipe.load(tmp_path / "r.toml"), allow_code=True)
    report = sample(kind="missed")
    found = advice(report.layers, accuracy("missed"), report.backend, [], [], passes=passes)
    assert found[0].finding == ReportCode.SEARCH_INSTEAD(quantizer="outside_quantizer:EvenLayers")
    (entry,) = tomllib.loads(found[0].fragment)["pass"]
    assert entry.pop("use") == "search_precision"
    assert SearchPrecision(**entry).plain() == outside(dtype="fp8", every=3)
    declined = [Declined(node="layer1", rule="odd", reason="its number is odd", by="even_layers")]
    usable = advice(report.layers, accuracy(), report.backend, declined, [], passes=passes)
    assert "odd" in {one.finding.values.get("rule") for one in usable}
    assert "odd" not in {
        one.finding.values.get("rule") for one in advice(report.layers, accuracy(), report.backend, declined, [])
    }


def test_where_it_does_not_pay_the_report_says_that_it_can_give_layers_back(outside, tmp_path):
    nodes, _, _ = network()
    passes = pass_infos(Recipe.load(tmp_path / "r.toml"), allow_code=True)
    found = payoff_advice(payoff(0.690, 0.579), nodes, True, passes)
    assert found[0].finding.values["quantizer"] == "outside_quantizer:EvenLayers"
    (entry,) = tomllib.loads(found[0].fragment)["pass"]
    assert entry == {"use": "outside_quantizer:EvenLayers", "only_if_faster": True}
    tried = [one.model_copy(update={"settings": {"only_if_faster": True}}) for one in passes]
    assert payoff_advice(payoff(0.690, 0.579), nodes, True, tried) == found[1:]


@pytest.mark.parametrize("kind", [InsertQDQ, SearchPrecision])
def test_ranges_are_calibrated_on_the_grid_of_the_type_that_is_inserted(kind):
    """Mean squared error weighs clipping against the rounding of the type: FP8's grid is fine near 0, and clips later."""
    tensor = "/block2/relu2/Relu_output_0"
    found = {}
    for dtype in ("int8", "fp8"):
        model = Model.load(MODELS / "digits_cnn.onnx")
        context = Context(
            provider=Calibrator(CalibrationData.open(str(MODELS / "digits_calibration.npz"), model), method="mse")
        )
        settings = {} if kind is InsertQDQ else {"min_sqnr_db": 1, "try_ranges": False}
        kind(dtype=dtype, **settings)(model, context)
        found[dtype] = context.known_ranges.tensors["/block1/relu2/Relu_output_0"]
        assert context.known_ranges.fits(tensor, Precision(dtype))
    assert found["int8"].amax == pytest.approx(5.786, abs=2e-3) and found["fp8"].amax == pytest.approx(6.589, abs=2e-3)


def test_tensors_of_two_types_keep_the_ranges_of_their_own():
    model = Model.load(MODELS / "digits_cnn.onnx")
    data = CalibrationData.open(str(MODELS / "digits_calibration.npz"), model)
    context = Context(provider=Calibrator(data, method="mse"))
    context.ranges(model)
    one = "/block1/relu2/Relu_output_0"
    context.ranges(model, [one], Precision.FP8)
    dtypes = {name: known.dtype for name, known in context.known_ranges.tensors.items()}
    assert dtypes.pop(one) == "fp8" and set(dtypes.values()) == {"int8"}
    assert "dtype" not in context.known_ranges.to_json()["tensors"]["image"]
