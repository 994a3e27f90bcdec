"""A pass that does again what one before it did is an error that names both; one that finds nothing left says so."""

from __future__ import annotations

import pytest

from tests.conftest import MODELS
from toolkit import Pass, Recipe
from toolkit.base.errors import RecipeError
from toolkit.run.checks.dry_run import dry_run
from toolkit.run.recipe.passes import passes_of

START = f"""[model]
path = "{MODELS / "digits_cnn.onnx"}"
[calibration]
data = "{MODELS / "digits_calibration.npz"}"
samples = 64
"""
FIRST = START.count("\n") + 2
"""The line of the first pass's use; each pass takes two and one for each setting."""


def written(folder, *passes):
    text = START + "".join(f"[[pass]]\n{one}\n" for one in passes) + '[engine]\nbackend = "none"\n'
    (folder / "r.toml").write_text(text)
    return folder / "r.toml"


def use(name, **settings):
    return "\n".join([f'use = "{name}"', *(f"{key} = {value}" for key, value in settings.items())])


INT8, STRIP, SEARCH = use("insert_qdq"), use("strip_qdq"), use("search_precision")
GUARD, FOLD = use("guard_fp16"), use("fold_constants")
HEAD = use("keep_precision", ops='["Gemm"]')


@pytest.mark.parametrize(
    ("passes", "name", "first", "again"),
    [
        ([INT8, INT8], "insert_qdq", 0, 2),
        ([INT8, GUARD, INT8], "insert_qdq", 0, 4),
        # a setting that is the default is none of its own
        ([INT8, use("insert_qdq", dtype='"int8"')], "insert_qdq", 0, 2),
        ([SEARCH, SEARCH], "search_precision", 0, 2),
        ([STRIP, STRIP, INT8], "strip_qdq", 0, 2),
        ([HEAD, INT8, HEAD], "keep_precision", 0, 5),
        ([GUARD, GUARD], "guard_fp16", 0, 2),
        ([FOLD, FOLD, INT8], "fold_constants", 0, 2),
    ],
)
def test_a_repeat_is_an_error_that_names_both_lines(passes, name, first, again, tmp_path):
    path = written(tmp_path, *passes)
    with pytest.raises(RecipeError) as error:
        passes_of(Recipe.load(path), False)
    assert f"{name} has no effect" in error.value.what and f"r.toml:{FIRST + first}" in error.value.what
    assert str(error.value.where).endswith(f"r.toml:{FIRST + again}")


@pytest.mark.parametrize(
    "passes",
    [
        [use("insert_qdq", include='["/stem/*"]'), use("insert_qdq", include='["/head/*"]', dtype='"fp8"')],
        [FOLD, use("fold_batchnorm"), FOLD, INT8],
        [GUARD, INT8, GUARD],
        # the budget has room again
        [SEARCH, HEAD, SEARCH],
        [SEARCH, use("correct_bias"), SEARCH],
        # weights that are constants only now
        [INT8, FOLD, INT8],
        [use("strip_qdq", nodes='["/stem/*"]'), use("strip_qdq", nodes='["/head/*"]')],
        [HEAD, use("keep_precision", ops='["Gemm"]', precision='"fp32"'), HEAD],
        # a pattern that fits what was inserted
        [use("keep_precision", ops='["Mul"]'), use("smooth"), use("keep_precision", ops='["Mul"]'), INT8],
        # measured each time
        [use("equalize"), use("equalize"), INT8],
    ],
)
def test_what_may_have_another_effect_the_second_time_is_taken(passes, tmp_path):
    assert len(passes_of(Recipe.load(written(tmp_path, *passes)), False)) == len(passes)


class Counter(Pass):
    """A pass of one's own without a role."""

    def apply(self, model, context):
        """Nothing."""


def test_passes_of_which_nothing_is_known_may_be_repeated():
    made = Recipe.build("own", model={"path": MODELS / "digits_cnn.onnx"}, passes=[Counter(), Counter()])
    assert len(passes_of(made, True)) == 2


@pytest.mark.parametrize("name", ["insert_qdq", "search_precision", "strip_qdq", "keep_precision", "fold_constants"])
def test_a_pass_of_which_nothing_is_known_gives_a_repeat_a_meaning(name):
    head = {"ops": ["Gemm"]} if name == "keep_precision" else {}
    passes = [{"use": name, **head}, Counter(), {"use": name, **head}]
    assert len(passes_of(Recipe.build("own", model={"path": MODELS / "digits_cnn.onnx"}, passes=passes), True)) == 3


@pytest.mark.parametrize(
    "second",
    [use("insert_qdq", dtype='"fp8"'), use("insert_qdq", weights='"mse"'), use("insert_qdq", activation_matmul="true")],
)
def test_inserting_where_every_layer_has_its_pairs_is_a_warning(second, tmp_path):
    found = dry_run(Recipe.load(written(tmp_path, INT8, second)))
    assert any("inserted nothing: 11 layers" in one for one in found.warnings)


def test_inserting_the_rest_is_none(tmp_path):
    found = dry_run(Recipe.load(written(tmp_path, use("insert_qdq", include='["/stem/*"]'), INT8)))
    assert not any("inserted nothing" in one for one in found.warnings)


@pytest.mark.parametrize(
    "second", [use("insert_qdq", exclude_ops='["Conv", "Gemm"]'), use("insert_qdq", include_ops='["Relu"]')]
)
def test_what_its_own_settings_leave_out_is_not_for_pairs_of_another(second, tmp_path):
    found = dry_run(Recipe.load(written(tmp_path, INT8, second)))
    assert not any("inserted nothing" in one for one in found.warnings)
