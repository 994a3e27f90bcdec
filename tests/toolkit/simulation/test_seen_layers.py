"""What is kept of layers that samples were seen of: not more with every trial."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from tests.conftest import normal
from toolkit.simulation.seen_layers import SeenLayer, SeenOnSamples, remember

KEY = ("layer", "x", "w", "int8", 0)


def test_what_more_samples_show_of_the_same_weights_stands_for_what_fewer_did():
    known: SeenOnSamples = {}
    few = SeenLayer(8, normal(6, 4), None)
    remember(known, KEY, few)
    # the last bits differ where a helper is applied again
    more = SeenLayer(64, few.weight * np.float32(1 + 1e-6), None)
    remember(known, KEY, more)
    assert known[KEY] == [more]
    # other weights, or another mean of what the layer reads, are another form
    others = [SeenLayer(8, normal(6, 4, seed=1), None), replace(few, mean=np.ones(6)), SeenLayer(8, normal(4, 6), None)]
    for one in others:
        remember(known, KEY, one)
    assert known[KEY] == [more, *others]
    # fewer samples take nothing away
    remember(known, KEY, few)
    assert more in known[KEY] and len(known[KEY]) == 5


def test_the_latest_forms_are_kept_however_many_are_tried():
    known: SeenOnSamples = {}
    forms = [SeenLayer(8, normal(6, 4, seed=seed), None) for seed in range(40)]
    for one in forms:
        remember(known, KEY, one)
    assert known[KEY] == forms[-8:]
