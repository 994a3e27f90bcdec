from __future__ import annotations

from toolkit.search.budget import spending
from toolkit.search.budget.spending import PLENTY, Spending


def test_what_is_left_is_what_was_not_paid():
    account = Spending(10.0)
    account.pay(4.0)
    assert account.limited and account.left(2.0) == 3 and account.left(2.0, reserve=3.0) == 1
    account.pay(7.0)
    assert account.left(0.1) == 0
    free = Spending()
    free.pay(1e6)
    assert not free.limited and free.left(1.0) == PLENTY


def test_nothing_is_left_when_the_minutes_are_over():
    now = [0.0]
    account = Spending(minutes=2.0, clock=lambda: now[0])
    now[0] = 119.0
    assert account.left(1.0) == PLENTY
    now[0] = 120.0
    assert account.left(1.0) == 0


def test_a_model_that_takes_no_time_may_have_more_inferences_unless_they_are_given():
    usual, given = Spending.of_search(None, None), Spending.of_search(24.0, None)
    assert usual.inferences == given.inferences and usual.inferences < 24
    for account in (usual, given):
        account.know(1e6)
    assert usual.inferences > 100 and given.inferences < 24
    large = Spending.of_search(None, None)
    large.know(1e12)
    assert large.inferences == given.inferences


def test_a_search_without_a_limit_of_its_users_may_go_on_once():
    usual, own = Spending.of_search(None, None), Spending.of_search(10.0, None)
    before = usual.inferences
    assert usual.more() and usual.inferences == 3 * before and not usual.more()
    assert not own.more() and not Spending().more()


def test_a_search_whose_plans_miss_the_budget_otherwise_may_look_at_a_few_more_once():
    usual, own = Spending.of_search(None, None), Spending.of_search(10.0, None)
    for account in (usual, own):
        account.pay(account.remaining)
        account.again()
    assert usual.left(1.0) >= 5 and own.left(1.0) == 0
    usual.pay(usual.remaining)
    usual.again()
    assert usual.left(1.0) == 0


def test_a_search_that_nobody_limited_ends_after_some_minutes_too():
    assert Spending.of_search(None, None).minutes == 3 and Spending.of_search(None, 7.0).minutes == 7
    assert Spending.of_search(10.0, None).minutes is None
    now = [0.0]
    account = Spending(10.0, minutes=1.0, clock=lambda: now[0])
    assert not account.over
    now[0] = 60.0
    assert account.over and not account.more()


def test_threads_do_not_make_up_for_time_spent_waiting(monkeypatch):
    wall, own = [0.0], [0.0]
    monkeypatch.setattr(spending.time, "monotonic", lambda: wall[0])
    monkeypatch.setattr(spending.time, "process_time", lambda: own[0])
    account = Spending.of_search(None, None)
    with account.waiting():
        # another process builds an engine
        wall[0], own[0] = 600.0, 1.0
    assert not account.over
    # 64 threads
    wall[0], own[0] = 600.0 + 178.0, 64 * 178.0
    assert not account.over
    wall[0], own[0] = wall[0] + 2.0, own[0] + 2.0
    assert account.over


def test_a_search_that_nobody_limited_gets_its_minutes_twice_where_it_has_found_nothing(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(spending, "at_work", lambda: lambda: now[0])
    usual, given = Spending.of_search(None, None), Spending.of_search(None, 3.0)
    now[0] = 200.0
    assert usual.over and usual.more() and not usual.over and usual.minutes == 6
    now[0] = 361.0
    assert usual.over and not usual.more() and given.minutes == 3
