"""A collection of another model is refused by ``check`` as by ``run``, also behind passes that read samples."""

from __future__ import annotations

import re
from typing import ClassVar

import pytest

from passes.insert_qdq import InsertQDQ
from passes.strip_qdq import StripQDQ
from tests.conftest import digits_recipe
from toolkit import Pass, Recipe, run
from toolkit.base.errors import QtoolError
from toolkit.cli.main import invoke
from toolkit.run.checks.dry_run import dry_run

FOREIGN, OWN = "float.npz", "paired.npz"


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a quantized model, and the collections of that model without its pairs and of the float model."""
    folder = tmp_path_factory.mktemp("paired")
    text = digits_recipe(folder).replace('"auto"', '"none"')
    text = re.sub(r'\[\[pass\]\]\nuse = "fold_\w+"\n', "", text)
    (folder / "float.toml").write_text(text)
    assert invoke(["calibrate", str(folder / "float.toml"), "--out", str(folder / FOREIGN)]) == 0
    run(folder / "float.toml", folder / "out")
    text = text.replace("digits.onnx", "out/model.onnx").replace("[[pass]]", '[[pass]]\nuse = "strip_qdq"\n[[pass]]', 1)
    (folder / "paired.toml").write_text(text)
    assert invoke(["calibrate", str(folder / "paired.toml"), "--out", str(folder / OWN)]) == 0
    return folder


def recipe(place, name, samples, passes=None):
    """The recipe of the quantized model, with a collection and with or without calibration samples."""
    data, given = 'data = "digits_calibration.npz"', f'collection = "{name}"'
    text = (place / "paired.toml").read_text()
    assert data in text
    path = place / f"{'with' if samples else 'without'}_{name}.toml"
    path.write_text(text.replace(data, f"{data}\n{given}" if samples else given))
    return Recipe.load(path).with_objects(passes=passes or [StripQDQ(), InsertQDQ()])


@pytest.mark.parametrize("samples", [True, False])
def test_a_collection_of_another_model_is_refused_behind_strip_qdq_too(place, samples, tmp_path):
    given = recipe(place, FOREIGN, samples)
    with pytest.raises(QtoolError, match="another model") as refused:
        dry_run(given)
    with pytest.raises(QtoolError) as stopped:
        run(given, tmp_path / "out")
    assert str(stopped.value) == str(refused.value)
    assert refused.value.where == given.locate("calibration", "collection")


@pytest.mark.parametrize("samples", [True, False])
def test_the_collection_of_the_model_without_its_pairs_is_taken(place, samples):
    assert dry_run(recipe(place, OWN, samples)).asked["int8"] > 0


class Requests(Pass):
    """A pass that requests ranges and does not declare it."""

    supports_dry_run = True

    def reads_evaluation(self):
        return False

    def measures_engines(self):
        return False

    def apply(self, model, context):
        context.ranges(model)


class Measures(Pass):
    """A pass that measures, unless this is a dry run."""

    supports_dry_run = True

    def apply(self, model, context):
        assert context.dry_run


@pytest.mark.parametrize("unknown", [Requests(), Measures()], ids=["requests", "measures"])
def test_nothing_is_refused_where_the_form_that_a_run_calibrates_is_not_known(place, unknown):
    assert dry_run(recipe(place, FOREIGN, True, [StripQDQ(), unknown, InsertQDQ()])).asked["int8"] > 0


class Declared(Pass):
    """A user's pass that measures nothing, by its declaration."""

    supports_dry_run = True
    calls: ClassVar[list[bool]] = []

    def reads_evaluation(self):
        return False

    def measures_engines(self):
        return False

    def apply(self, model, context):
        self.calls.append(context.dry_run)


class OfTheGraph(Pass):
    """A user's pass that depends on the graph alone."""

    supports_dry_run = graph_only = True

    def apply(self, model, context):
        pass


def test_a_users_pass_is_applied_in_dry_runs_only_unless_it_depends_on_the_graph_alone(place):
    assert dry_run(recipe(place, FOREIGN, True, [StripQDQ(), Declared(), InsertQDQ()])).asked["int8"] > 0
    assert Declared.calls == [True]
    with pytest.raises(QtoolError, match="another model"):
        dry_run(recipe(place, FOREIGN, True, [StripQDQ(), OfTheGraph(), InsertQDQ()]))
