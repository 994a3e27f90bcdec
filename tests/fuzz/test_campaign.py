"""Five hundred broken inputs: none is called a bug, hangs, or takes a gigabyte. ``tests/fuzz/campaign.py`` has the long form."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fuzz.campaign import corpus, try_input
from tests.fuzz.mutate import mutated

INPUTS, BLOCK = 500, 50


@pytest.mark.parametrize("block", range(INPUTS // BLOCK))
def test_broken_inputs_end_well(block: int, tmp_path: Path) -> None:
    # in one block what check accepts is run too, which must not refuse it
    results = [try_input(seed, tmp_path, deep=block == 0) for seed in range(block * BLOCK, (block + 1) * BLOCK)]
    faults = [
        f"seed {r.seed}, {r.name}, qtool {' '.join(r.command)}: {r.fault}: {r.said.strip()[-300:]}"
        for r in results
        if r.fault
    ]
    assert not faults, "\n".join(faults)


def test_the_corpus_is_sound_and_seeds_break_it(tmp_path: Path) -> None:
    broken = [mutated(sound.kind, sound.content, seed) for seed, sound in enumerate(corpus())]
    assert sum(one != sound.content for one, sound in zip(broken, corpus())) > 0.9 * len(broken)
    again = [mutated(sound.kind, sound.content, seed) for seed, sound in enumerate(corpus())]
    # archives hold the time of day
    assert all(a == b for a, b, sound in zip(broken, again, corpus()) if sound.kind not in ("npz",))
