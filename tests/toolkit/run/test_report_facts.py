"""Types and shapes in the report are those of the final graph, and of the one before it only where these are lost."""

from __future__ import annotations

from tests.conftest import build, node, normal
from toolkit import Model
from toolkit.base.profiles import Extent, Profiles, ShapeProfile
from toolkit.graph.shape_inference.facts import Facts
from toolkit.run.steps import report

PROFILES = Profiles((ShapeProfile("p", {"x": Extent((1, 4), (2, 4), (8, 4))}),))


def linear(inner: str = "h") -> Model:
    nodes = [node("MatMul", ["x", "w"], [inner]), node("Relu", [inner], ["y"])]
    return Model.from_proto(build(nodes, {"x": ["n", 4]}, {"y": ["n", 3]}, {"w": normal(4, 3)}))


def asked(monkeypatch, lost: str = "") -> list[Model]:
    """The models that are asked for their facts; a tensor's shape is lost in the first."""
    models: list[Model] = []
    whole = Model.facts

    def facts(self: Model, profiles: Profiles | None = None) -> Facts:
        models.append(self)
        found = whole(self, profiles)
        if len(models) == 1:
            found.shapes.pop(lost, None)
        return found

    monkeypatch.setattr(Model, "facts", facts)
    return models


def test_the_graph_before_lowering_is_not_asked_where_all_shapes_are_known(monkeypatch):
    final, prepared = linear(), linear()
    models = asked(monkeypatch)
    assert report._facts(final, prepared, PROFILES).shapes["h"] == [(2, 3)]
    assert models == [final]


def test_a_shape_that_is_lost_is_that_of_the_graph_before_lowering(monkeypatch):
    final, prepared = linear(), linear()
    models = asked(monkeypatch, "h")
    assert report._facts(final, prepared, PROFILES).shapes["h"] == [(2, 3)]
    assert models == [final, prepared]
