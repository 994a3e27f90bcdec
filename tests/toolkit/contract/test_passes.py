"""Wrong settings of a pass, and names of passes that are not there, as errors of qtool's own."""

from __future__ import annotations

import pytest

from passes.insert_qdq import InsertQDQ
from passes.search_precision import SearchPrecision
from toolkit.base.errors import RecipeError
from toolkit.contract.registry import configure, find


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: InsertQDQ(exclud=["/head/*"]), ["pass 'insert_qdq'", "'exclud'", "did you mean 'exclude'"]),
        (
            lambda: InsertQDQ(dtype="int9"),
            ["pass 'insert_qdq'", "'dtype' is 'int9'", "'int8', 'fp8', 'int4', 'mxfp8' or 'nvfp4'"],
        ),
        (lambda: SearchPrecision(helpers=["equalise"]), ["'equalise': did you mean 'equalize'? `qtool passes"]),
        (lambda: configure(InsertQDQ, {"exclude": "/a/*"}), ["'exclude' is '/a/*': a list is wanted"]),
        (lambda: configure(InsertQDQ, {"exclud": []}), ["pass 'insert_qdq'", "did you mean 'exclude'"]),
    ],
)
def test_wrong_settings_are_an_error_with_place_value_and_remedy(make, words):
    with pytest.raises(RecipeError) as caught:
        make()
    said = str(caught.value)
    assert all(word in said for word in words) and "lists its settings" in said and "?." not in said


def test_a_pass_of_ones_own_is_named_with_its_module(tmp_path, monkeypatch):
    with pytest.raises(RecipeError, match="a pass of your own is named module:Name"):
        find("keep_narrow")
    (tmp_path / "keep_narrow.py").write_text("from toolkit import Pass\nclass KeepNarrow(Pass):\n    pass\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RecipeError, match="did you mean 'keep_narrow:KeepNarrow'"):
        find("keep_narrow")


def test_a_package_whose_passes_are_not_registered_is_said_to_be(monkeypatch):
    monkeypatch.setattr("toolkit.contract.registry.installed", dict)
    with pytest.raises(RecipeError) as caught:
        find("insert_qdq")
    assert "no pass is called 'insert_qdq'. No pass is registered: install qtool itself anew" in str(caught.value)
