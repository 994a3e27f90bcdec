"""Which dimension counts samples, by its name and by what inputs share."""

from __future__ import annotations

import pytest

from toolkit.graph.shape_inference.derived_dimensions import derived_dimensions
from toolkit.graph.shape_inference.dimensions import batch_axes, dim_of, is_batch_name, places


@pytest.mark.parametrize(
    "name",
    [
        "batch",
        "Batch",
        "batch_size",
        "N",
        "n",
        "bs",
        "B",
        "dynamic_batch",
        "unk_batch_0",
        "batch_1",
        "batch size",
        "Batch-Size",
        "batch:0",
    ],
)
def test_what_exporters_call_the_number_of_samples(name):
    assert is_batch_name(name)


@pytest.mark.parametrize(
    "name", ["T", "seq", "length", "batch*heads", "batch - 1", "batch/2", "channels", "nodes", None, 4]
)
def test_other_names_count_none(name):
    assert not is_batch_name(name)


@pytest.mark.parametrize(
    ("value", "dim"),
    [(4, 4), ("N", "N"), (-1, None), ("", None), (None, None), ("?", None), ("-1", None), ("None", None)],
)
def test_a_name_that_is_none_names_nothing(value, dim):
    assert dim_of(value) == dim


@pytest.mark.parametrize(
    ("shapes", "axes"),
    [
        ({"x": ["N", 16, "T"], "h": [2, "N", 24], "sr": []}, {"x": 0, "h": 1}),
        ({"x": ["T", "batch", 8], "h": [1, "batch", 8]}, {"x": 1, "h": 1}),
        ({"x": ["s0", 16, "s1"], "h": [2, "s0", 24]}, {"x": 0, "h": 1}),
        ({"x": [None, 16], "y": [None, 4]}, {"x": 0, "y": 0}),
        ({"x": ["x_0", 16], "y": ["y_0", 4]}, {"x": 0, "y": 0}),
        ({"x": ["batch", 16], "y": [None, 4]}, {"x": 0, "y": 0}),
        # another name than the samples' counts something else
        ({"image": ["N", 3], "boxes": ["R", 4]}, {"image": 0}),
        # nothing says along which axis the state is joined
        ({"x": [None, 16, None], "h": [2, None, 24]}, {}),
        ({"x": ["N", 16], "sizes": [1, 2]}, {"x": 0}),
        ({"x": [1, 3, 8, 8]}, {}),
        ({"sr": []}, {}),
    ],
)  # fmt: skip
def test_the_axis_of_the_samples(shapes, axes):
    assert batch_axes(shapes) == axes


def test_where_each_name_stands():
    assert places({"x": ["N", 3, "T"], "h": [2, "N", None]}) == {"N": [("x", 0), ("h", 1)], "T": [("x", 2)]}


@pytest.mark.parametrize(
    ("name", "size"),
    [("a + b", 7), ("a+b+1", 8), ("2*(a + b)", 14), ("b // 2", 2), ("b - a", 1), ("a / 2", None), ("a - b", None)],
)
def test_a_name_that_is_a_formula_of_other_names_tells_the_size(name, size):
    (found,) = derived_dimensions({"x": ["a", "b"], "y": [name]}).values()
    assert found.name == name and found.size({"a": 3, "b": 4}) == size


@pytest.mark.parametrize("name", ["v0 + a", "a + c", "a b", "1_0*a", "a +", "-a", "a % 2", "x(a)", "a\0 + a"])
def test_a_name_with_anything_but_names_of_others_and_numbers_is_no_formula(name):
    """What stands for an unknown size was read as another one's: 'v0 + a' as twice a."""
    assert derived_dimensions({"x": ["a", "b"], "y": [name]}) == {}
