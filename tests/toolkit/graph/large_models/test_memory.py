"""What is loaded into onnxruntime part by part: side by side, within a limit, and given back."""

from __future__ import annotations

from threading import Event, Thread

import pytest

from tests.conftest import HANG
from toolkit.graph.large_models.memory import LoadedSessions, least_limit


@pytest.fixture
def own():
    """What is loaded of nobody else, under a limit of 100 bytes."""
    made = LoadedSessions()
    made.limit = least_limit(100)
    return made


def opened(loaded, owner, part, size, most=None):
    with loaded.use(owner, part, lambda: (size, lambda: part), most) as found:
        return found


def parts(loaded):
    return "".join(part for _, part in loaded._known)


def test_parts_make_room_for_each_other_and_go_with_their_owner(own):
    class Owner:
        pass

    first, second = Owner(), Owner()
    one, other = own.join(first), own.join(second)
    assert [opened(own, one, part, 30, most=60) for part in "abc"] == ["a", "b", "c"]
    assert parts(own) == "bc" and own.count(one) == 2
    opened(own, one, "b", 30, most=60)
    opened(own, other, "d", 60)
    # what was used last stays
    assert parts(own) == "bd"
    opened(own, one, "b", 30)
    own.reserve(other, 50)
    opened(own, one, "e", 10)
    assert parts(own) == "be" and (own.count(one), own.count(other)) == (2, 0)
    own.drop(other)
    opened(own, other, "f", 60)
    assert parts(own) == "bef"
    del first
    assert parts(own) == "f"
    own.clear()
    assert not own._known


def test_arrays_beside_the_sessions_take_their_room_for_a_while(own):
    class Owner:
        pass

    owner = Owner()
    one = own.join(owner)
    assert [opened(own, one, part, 30) for part in "abc"] == ["a", "b", "c"]
    with own.holding(50):
        opened(own, one, "d", 20)
        assert parts(own) == "cd"
        with own.holding(10):
            assert own.reserved == 60
    assert own.reserved == 0
    opened(own, one, "e", 50)
    assert parts(own) == "cde"


def test_what_a_thread_computes_with_is_counted_until_it_is_done(own):
    class Owner:
        pass

    first, second = Owner(), Owner()
    one, other = own.join(first), own.join(second)
    using, in_use = [], []

    def load():
        in_use.append(list(using))
        return "b"

    def another():
        with own.use(other, "b", lambda: (80, load)):
            in_use.append(parts(own))

    thread = Thread(target=another)
    with own.use(one, "a", lambda: (60, lambda: "a")):
        using.append("a")
        # nobody else would make room for this, so that it does not wait
        assert opened(own, one, "c", 60) == "c" and parts(own) == "ac"
        thread.start()
        thread.join(0.2)
        using.clear()
    thread.join(HANG)
    assert in_use == [[], "b"]


@pytest.mark.parametrize("limited", [False, True])
def test_while_one_part_is_loaded_others_are_used_and_without_a_limit_loaded(own, limited):
    class Owner:
        pass

    if not limited:
        own.limit = None
    owner = Owner()
    one, begun, free, loads = own.join(owner), Event(), Event(), []

    def slow():
        loads.append("a")
        begun.set()
        free.wait(HANG)
        return "a"

    def use(part, load):
        with own.use(one, part, lambda: (10, load)) as found:
            assert found == part

    opened(own, one, "c", 10)
    threads = [Thread(target=use, args=("a", slow)) for _ in range(2)]
    for thread in threads:
        thread.start()
    begun.wait(HANG)
    assert opened(own, one, "c", 10) == "c"
    other = Thread(target=use, args=("b", lambda: loads.append("b") or "b"))
    other.start()
    other.join(0.2 if limited else HANG)
    assert loads == (["a"] if limited else ["a", "b"])
    free.set()
    for thread in (*threads, other):
        thread.join(HANG)
    # both of those that wanted it had what one of them loaded
    assert loads == ["a", "b"] and sorted(parts(own)) == ["a", "b", "c"] and not own._used


def test_a_part_that_cannot_be_loaded_takes_no_room_and_is_tried_again(own):
    class Owner:
        pass

    def fails():
        raise MemoryError

    owner = Owner()
    one = own.join(owner)
    for make in (fails, lambda: (60, fails)):
        with pytest.raises(MemoryError), own.use(one, "a", make):
            pass
        assert not own._known and not own._used
    assert opened(own, one, "a", 60) == "a"


def test_who_collects_an_owner_does_not_wait_for_a_load(own):
    class Owner:
        pass

    other, begun, free, waited = Owner(), Event(), Event(), []

    def load():
        begun.set()
        waited.append(free.wait(HANG))

    def begin(owner):
        with own.use(owner, "b", lambda: (1, load)):
            pass

    opened(own, own.join(other), "a", 1)
    one = Owner()
    thread = Thread(target=begin, args=(own.join(one),))
    thread.start()
    begun.wait(HANG)
    del other
    free.set()
    thread.join()
    assert waited == [True] and [part for _, part in own._known] == ["b"]
    del one
    assert not own._known


@pytest.mark.parametrize("first", ["the load", "the block"])
def test_a_load_that_a_block_with_another_part_waits_for_does_not_wait_for_that_part(own, first):
    class Owner:
        pass

    owner, found = Owner(), []
    one, used, loading = own.join(owner), Event(), Event()

    def make():
        loading.set()
        return 60, lambda: "b"

    def load():
        used.wait(HANG)
        with own.use(one, "b", make) as part:
            found.append(part)

    thread = Thread(target=load, daemon=True)
    thread.start()
    with own.use(one, "a", lambda: (60, lambda: "a")):
        used.set()
        assert loading.wait(HANG)
        if first == "the load":
            # it waits for room by now
            thread.join(0.2)
        found.append(opened(own, one, "b", 60))
    thread.join(HANG)
    assert found == ["b", "b"] and not own._used and not own._loading
