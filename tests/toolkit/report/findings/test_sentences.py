"""Templates that are read once give the sentences that Python's formatter makes of them."""

from __future__ import annotations

import string

import pytest

from toolkit.backends.building.build_config import check_profiles
from toolkit.base.errors import BackendError
from toolkit.base.toml import tomllib
from toolkit.contract.findings import Code, Finding
from toolkit.evaluation.codes import EvaluationCode
from toolkit.report.codes import ReportCode
from toolkit.report.findings import TEMPLATES, sentence, table
from toolkit.report.findings.commands.overview import costs_words
from toolkit.report.findings.words import times
from toolkit.search.codes import SearchEndCode


def filled(template: str, text: object, number: float) -> dict[str, object]:
    """A value for each name in a template, of a kind that its format takes."""
    fields = [(name, spec) for _, name, spec, _ in string.Formatter().parse(template) if name]
    return {name: (round(number) if spec.endswith("d") else number) if spec else text for name, spec in fields}


class Plain(string.Formatter):
    """Python's own, with the same words for lists and for numbers that are not finite."""

    def format_field(self, value, spec):
        return table._formatted(value, spec)


@pytest.mark.parametrize(("text", "number"), [("a node", 1.25), (("a", "b", "c", "d", "e"), 3.0), (7, -0.5)])
def test_every_template_reads_as_pythons_formatter_reads_it(text, number):
    templates = {code: one for code, one in TEMPLATES.items() if isinstance(one, str)}
    assert len(templates) > 100
    for code, template in templates.items():
        finding = Finding(code, filled(template, text, number))
        assert sentence(finding) == Plain().vformat(template, (), finding.values)


def test_a_value_that_is_lacking_is_an_error():
    with pytest.raises(KeyError):
        sentence(Finding(Code.OWN_WORDS, {}))


@pytest.mark.parametrize("values", [{}, {"": 1}, {"passes": 3}])
def test_a_finding_of_a_file_with_other_values_than_its_sentence_takes_is_no_bug(values):
    with pytest.raises(ValueError, match="the values of finding 'new-passes' are not those of its sentence"):
        sentence(Finding(ReportCode.NEW_PASSES, values))


@pytest.mark.parametrize(
    ("ratio", "digits", "said"),
    [
        (3.14159, 2, "3.1"), (11.2, 2, "11"), (99.6, 2, "100"), (112.4, 2, "112"), (1234.5, 3, "1,234"),
        (999999, 3, "999,999"), (3e38, 2, "3e+38"), ("inf", 3, "inf"),
    ],
)  # fmt: skip
def test_how_many_times_is_in_powers_of_ten_only_where_it_is_long(ratio, digits, said):
    assert times(ratio, digits) == said


def test_all_values_clipped_are_a_hundred_percent():
    said = sentence(
        EvaluationCode.LEAVES_RANGE(tensor="t", reach=112.0, share=1.0, calibrated=0.0, level_db=1.0, promised_db=None)
    )
    assert "'t' reaches 112 times its range, and 100.0 % of its values are clipped (0.0 % in calibration)" in said


@pytest.mark.parametrize("name", ["x", "x.1", "input:0", "in put/α", 'a"b'])
def test_the_setting_of_an_inputs_shapes_is_named_as_a_recipe_has_it(name):
    """``shapes.x.1`` is another key, and ``shapes.input:0`` is none."""
    fixed = sentence(ReportCode.NEW_SIZES_FIXED(dimensions=("S",), sizes=(7,), inputs=(name,)))
    with pytest.raises(BackendError) as refused:
        check_profiles({name: [-1, 8]}, [{"name": "p", "shapes": {}}])
    for said, before in ((fixed, "min and max of "), (refused.value.remedy, "add ")):
        key = said.partition(before)[2].partition(" = ")[0].removesuffix(".")
        assert tomllib.loads(f"{key} = 1") == {"shapes": {name: 1}}


@pytest.mark.parametrize(
    ("number", "said"),
    [(1, "'a', by its own error; `qtool sensitivity RECIPE` measures what it costs"), (2, "'a' and")],
)
def test_one_layer_is_told_in_the_singular(number, said):
    assert costs_words(["a", "b"][:number], ()).startswith(said)
    padded = sentence(Code.PATCHES(channels=number, padded=32))
    assert f" {number} input channel{'s' * (number > 1)} as 32" in padded
    nothing = sentence(ReportCode.NOTHING_QUANTIZED(count=number, of=number, rule="kept", node="a", reason="b"))
    assert nothing.startswith("the only layer with weights is" if number == 1 else "both layers with weights are")


@pytest.mark.parametrize(
    ("wide", "of", "said"),
    [
        (0, 6, "Layers run in FP16 unless a pass requests another type."),
        (2, 6, "2 of 6 layers are kept in FP32; the others run in FP16 unless a pass requests another type."),
        (6, 6, "All 6 layers are kept in FP32, since FP16 alone misses the budget."),
        (1, 1, "The only layer is kept in FP32, since FP16 alone misses the budget."),
    ],
)
def test_where_no_plan_is_found_the_types_are_named_that_layers_run_in(wide, of, said):
    found = SearchEndCode.NO_PLAN(
        dtype="int8", plans=3, limits=("min_sqnr_db",), by=(1.0,), rest="fp16", helpers=(), wide=wide, of=of
    )
    assert f"nothing is quantized. {said} To try next" in sentence(found)


@pytest.mark.parametrize(
    ("layers", "total", "said"), [(1, 1, "its only"), (1, 3, "1 of 3"), (2, 2, "both"), (3, 3, "all 3")]
)
def test_an_engine_with_all_layers_of_a_role_is_worded_for_any_number(layers, total, said):
    found = Code.ROLE_SLOWER(
        layers=layers, total=total, role="attention", quantized="int8", profiles=("default",), ms=(2.2,),
        without_ms=(2.0,),
    )  # fmt: skip
    kind = "layer" if total == 1 else "layers"
    assert sentence(found) == f"the engine with {said} attention {kind} in int8 takes 2.2 ms against 2 ms without"
