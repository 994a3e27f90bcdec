"""Columns of a page are read back as they were, whatever stands in them, and repeat where their values go on alike."""

import json
import zlib

from hypothesis import given
from hypothesis import strategies as st

from tests.toolkit.report import unpacked
from toolkit.report.page.packing import first_seen, packed_texts, steps

DIGITS = st.text(st.sampled_from("0012 9a-.٣é"), max_size=14)


@given(st.lists(st.text() | DIGITS | st.integers(0, 10**12).map("node_{}/x".format)))
def test_texts_are_read_back(given_texts):
    packed = packed_texts(given_texts)
    assert unpacked.texts(json.loads(json.dumps(packed))) == given_texts


@given(st.lists(st.integers(0, 9)), st.lists(st.integers(-(10**6), 10**6)))
def test_numbers_are_read_back(used, any_numbers):
    assert unpacked.first_seen(first_seen(used)) == used
    assert unpacked.sums(steps(any_numbers)) == any_numbers


def test_only_numbers_that_are_written_back_alike_are_taken_out():
    forms, *_ = packed_texts(["c07", "c7", "v1.05", "n1234567890", "n123456789", "0", "٣"])
    assert forms == [("c07",), ("c", ""), ("v", ".05"), ("n1234567890",), ("n", ""), ("", ""), ("٣",)]


def test_what_goes_on_alike_is_written_alike():
    """Names of 50,000 nodes and the numbers of as many sentences were most of a page."""
    names = [f"/block{k}/conv_{3 * k + part}/out" for k in range(20_000) for part in range(2)]
    shared = [number for k in range(20_000) for number in (k + 2, 0)]
    for packed in (packed_texts(names), first_seen([0, 1, *shared])):
        assert len(zlib.compress(json.dumps(packed).encode())) < 1000
