from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.toolkit.search.planted import chain, damage, feeds, simulation
from toolkit.base.errors import QtoolError
from toolkit.search.sensitivity.bisect import Answer, bisect

NAMES = [f"layer{i}" for i in range(23)]


@settings(max_examples=60, deadline=None)
@given(st.sets(st.sampled_from(NAMES), max_size=5))
def test_exactly_the_needed_layers_whatever_they_are(needed):
    found = bisect(NAMES, lambda kept: needed <= kept)
    assert set(found.kept) == needed
    assert found.kept == sorted(found.kept, key=NAMES.index)


def test_two_layers_only_bad_together_need_one_kept():
    found = bisect(NAMES, lambda kept: bool(kept & {"layer4", "layer17"}))
    assert len(found.kept) == 1 and found.kept[0] in ("layer4", "layer17")


def test_one_layer_takes_few_checks():
    assert bisect(NAMES, lambda kept: "layer11" in kept).checks <= 2 * 5 + 8


def test_flaky_checks_are_noticed():
    answers = itertools.cycle([False, True])
    with pytest.raises(QtoolError, match="flaky: with everything quantized it answers fail, pass"):
        bisect(NAMES, lambda kept: next(answers))


def test_a_check_that_fails_in_float_is_no_question_for_bisection():
    with pytest.raises(QtoolError, match="every layer in float"):
        bisect(NAMES, lambda kept: False)


def test_nothing_to_keep():
    found = bisect(NAMES, lambda kept: True)
    assert found.kept == []


def test_no_verdict_is_lost_or_asked_twice(tmp_path):
    log = tmp_path / "bisect.jsonl"
    needed = {"layer2", "layer19"}
    count = itertools.count(1)

    def killed(kept):
        if next(count) == 9:
            raise KeyboardInterrupt
        return needed <= kept

    with pytest.raises(KeyboardInterrupt):
        bisect(NAMES, killed, log=log, fingerprint="a")
    whole = bisect(NAMES, lambda kept: needed <= kept)
    rest = bisect(NAMES, lambda kept: needed <= kept, log=log, fingerprint="a")
    assert rest.kept == whole.kept and rest.checks == whole.checks - 8
    assert bisect(NAMES, lambda kept: needed <= kept, log=log, fingerprint="a").checks == 0
    assert bisect(NAMES, lambda kept: needed <= kept, log=log, fingerprint="b").checks == whole.checks


def test_sets_of_one_content_share_their_verdicts_and_reasons_are_kept(tmp_path):
    log, needed = tmp_path / "bisect.jsonl", {"layer2", "layer19"}

    def check(kept):
        return Answer(needed <= kept, "" if needed <= kept else f"lacks {sorted(needed - kept)}")

    def content(kept):
        return ",".join(sorted(needed & kept))

    found = bisect(NAMES, check, log=log, content=content)
    # four contents, two of them asked again at the ends; the answer is what "every layer float" is
    assert set(found.kept) == needed and found.checks == 6
    assert found.to_json()["verdicts"][0] == {"kept": [], "passed": False, "reason": "lacks ['layer19', 'layer2']"}
    again = bisect(NAMES, check, log=log, content=content)
    assert again.checks == 0 and again.verdicts == found.verdicts


def test_on_the_simulation():
    model = chain(8)
    damage(model, "layer2")
    damage(model, "layer6", channel=2)
    sim = simulation(model, feeds())
    assert bisect(sim.names, lambda kept: sim.without(kept).sqnr_db > 26).kept == ["layer2", "layer6"]


def test_likely_layers_first_give_the_smaller_set():
    """Any eight of the small ones do as well as the two large ones; in the graph's order the small ones come first."""
    names = [f"small{i}" for i in range(16)] + ["large0", "large1"]

    def check(kept):
        return sum(4 if name.startswith("large") else 1 for name in kept) >= 8

    plain = bisect(names, check, repeats=1)
    ranked = bisect(names, check, repeats=1, likely=["large1", "large0", *names[:16]])
    assert len(plain.kept) > 2 and ranked.kept == ["large0", "large1"]
    assert bisect(names, check, repeats=1, likely=names[:3]).kept == plain.kept
