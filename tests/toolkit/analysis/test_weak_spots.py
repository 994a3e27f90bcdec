from __future__ import annotations

from tests.toolkit.analysis.planted import chain, damage, feeds, simulation
from toolkit.analysis.sensitivity import exact
from toolkit.analysis.weak_spots import weak_spots


def test_an_outlier_channel_is_named_with_what_helps():
    model = chain(6, 64)
    damage(model, "layer3", factor=2000.0)
    samples = feeds(64, 64)
    sim = simulation(model, samples)
    (spot, *_) = weak_spots(sim, exact(sim))
    assert spot.node == "layer3" and spot.blame > 0.5
    assert {cause.kind for cause in spot.causes} >= {"uneven-channels"}
    assert any("smooth" in cause.remedy or "equalize" in cause.remedy for cause in spot.causes)
    assert spot.to_json()["node"] == "layer3"


def test_where_nothing_is_wrong_it_says_so():
    sim = simulation(chain(), feeds())
    spots = weak_spots(sim, exact(sim), worst=2, least=0.0)
    assert len(spots) == 2
    assert all(cause.text and cause.remedy for spot in spots for cause in spot.causes)
