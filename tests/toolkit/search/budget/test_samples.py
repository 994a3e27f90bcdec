from __future__ import annotations

from tests.toolkit.search.planted import chain, feeds, simulation
from toolkit.search.budget import samples as data


def test_a_slow_model_is_decided_on_fewer_samples(monkeypatch):
    quick = simulation(chain(2), feeds(128), batch=16)
    assert data.limited_where_slow(quick) is quick
    monkeypatch.setattr(data, "_MOST_MACS", quick.macs / 2)
    half = data.limited_where_slow(quick)
    assert sum(feed.count for feed in half.feeds) == 64 and half.settings.batch == 8
    assert half.macs < quick.macs
    monkeypatch.setattr(data, "_MOST_MACS", 1.0)
    assert sum(feed.count for feed in data.limited_where_slow(quick).feeds) == 32


def test_many_layers_are_looked_at_on_small_parts():
    settings = simulation(chain(2), feeds(64), batch=32).settings
    assert [data.in_parts(settings, 256, layers).batch for layers in (12, 24, 96, 3000)] == [32, 32, 8, 1]
