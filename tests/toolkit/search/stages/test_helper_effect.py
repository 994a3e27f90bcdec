"""What a helper does to the layers that it changed, where all together neither gain nor lose by it."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from toolkit.evaluation.comparison.outcome import Outcome
from toolkit.search.plans.range_methods import Standing
from toolkit.search.stages.helper_effect import HelperEffect


class Planted(Standing):
    """A model whose noise is 1 with all layers quantized, and planted for each layer alone."""

    def only(self, groups, pay=lambda price: None):
        pay(1.0)
        return Outcome(sum(self.simulation.noise[name] for name in groups))


def planted(distance: float = 1.0, total: float = 1.0, step: float = 0.0, **noise: float) -> Planted:
    """All of the distance is by answers."""
    model = SimpleNamespace(names=list(noise), noise=noise)
    return Planted(distance, Outcome(total), model, step=step, by_answers=distance)


@pytest.mark.parametrize(("after", "helps"), [(0.1, True), (0.4, False)])
def test_layers_that_were_changed_are_looked_at_alone(after, helps):
    paid = []
    effect = HelperEffect.of(planted(a=0.4, b=0.6), planted(a=after, b=0.6), ["a", "front"], paid.append)
    assert effect.alone == (1, Outcome(0.4), Outcome(after)) and effect.helps is helps
    assert paid == [1.0, 1.0]


def test_a_layer_that_only_one_side_quantizes_is_not_compared():
    before, after = planted(a=0.4, b=0.6), planted(a=0.1, new=0.5, b=0.6)
    assert HelperEffect.of(before, after, ["a", "new"], lambda price: None).alone == (1, Outcome(0.4), Outcome(0.1))
    assert HelperEffect.of(before, after, ["new"], lambda price: None).alone is None


@pytest.mark.parametrize(("total", "helps"), [(1.2, True), (1.3, False)])
def test_layers_that_gain_alone_do_not_make_up_for_all_of_them_getting_noisier(total, helps):
    # as shift did to a detector: 7 dB better alone, 9 dB worse with the others
    effect = HelperEffect.of(planted(a=0.4, b=0.6), planted(1.0, total, a=0.1, b=0.6), ["a"], lambda price: None)
    assert effect.helps is helps


def test_a_helper_that_takes_all_layers_further_from_the_budget_is_not_looked_at_further():
    effect = HelperEffect.of(planted(a=0.4, b=0.6), planted(1.1, a=0.1, b=0.6), ["a"], lambda price: None)
    assert effect.alone is None and not effect.helps


@pytest.mark.parametrize(
    ("distance", "total", "helps"), [(0.6, 0.9, False), (0.6, 0.75, True), (0.4, 0.95, True), (1.2, 0.75, True)]
)
def test_a_budget_that_is_missed_by_less_speaks_for_a_helper_where_it_is_much_less_or_noise_says_so_too(
    distance, total, helps
):
    # of few samples one answer more that stays is a third of what is missed
    after = planted(distance, total, a=0.4, b=0.6)
    assert HelperEffect.of(planted(a=0.4, b=0.6), after, [], lambda price: None).helps is helps


@pytest.mark.parametrize(
    ("distance", "total", "alone", "helps"),
    [(24.0, 1.1, True, True), (9.0, 0.95, True, True), (50.0, 1.1, False, False), (24.0, 0.75, False, True)],
)
def test_an_answer_or_two_of_few_speak_neither_for_a_helper_nor_against_it(distance, total, alone, helps):
    """Of eight samples one answer moved a share by 12 times its limit, and a helper's 6 dB were not looked at."""
    before, after = planted(12.0, step=12.5, a=0.4, b=0.6), planted(distance, total, 12.5, a=0.1, b=0.6)
    effect = HelperEffect.of(before, after, ["a"], lambda price: None)
    assert (effect.alone is not None, effect.helps) == (alone, helps)
    # answers that all come back are no chance
    assert planted(0.0, 1.0, 12.5).clearly_better(planted(75.0, step=12.5))


def test_what_is_measured_is_no_chance_beside_a_limit_on_answers():
    """An error that is missed by more than before was forgiven as two answers of few are."""
    before = Planted(12.0, Outcome(1.0), SimpleNamespace(), step=12.5)
    after = Planted(24.0, Outcome(0.5), SimpleNamespace(), step=12.5)
    assert after.is_further(before) and not after.clearly_better(before)
    # half of what is missed, to which answers add nothing
    assert Planted(5.0, Outcome(1.0), SimpleNamespace(), step=12.5).clearly_better(before)


def test_answers_that_come_back_excuse_nothing_that_is_measured():
    """They may have come back by chance, and an error that is missed by 20 more was forgiven for it."""
    before = Planted(12.0, Outcome(1.0), SimpleNamespace(), step=12.0, by_answers=12.0)
    after = Planted(20.0, Outcome(0.5), SimpleNamespace(), step=12.0, by_answers=0.0)
    assert after.is_further(before) and not after.clearly_better(before)
    # nor do answers that are lost count for one that is much nearer by what is measured
    found, lost = (
        Planted(far, Outcome(1.0), SimpleNamespace(), step=12.0, by_answers=by)
        for far, by in ((100.0, 0.0), (45.0, 12.0))
    )
    assert lost.clearly_better(found)
