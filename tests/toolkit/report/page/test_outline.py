"""Groups for the drawing: by scopes, else by chunks of the graph that few edges leave."""

from hypothesis import given
from hypothesis import strategies as st

from toolkit.report.page.outline import MOST_MEMBERS, outline, scope_of


def members(found, group):
    return [i for i, of in enumerate(found.of) if of == group] + [
        f"g{i}" for i, up in enumerate(found.parents) if up == group
    ]


def test_scopes_nest_and_a_group_of_one_is_none():
    names = ["/a/b/x", "/a/b/y", "/a/c/z", "/d/e/f/u", "/d/e/f/v", "w"]
    found = outline([scope_of(name) for name in names], [], names)
    assert found.titles == ["a", "d/e/f", "b"]
    assert found.parents == [-1, -1, 0]
    assert found.of == [2, 2, 0, 1, 1, -1]


def test_a_scope_around_everything_is_left_out_and_what_is_not_drawn_is_in_no_group():
    found = outline([["m", "a"], ["m", "a"], ["m"], None], [], "wxyz")
    assert (found.titles, found.of) == (["a"], [0, 0, -1, -1])


def test_flat_names_are_cut_where_few_edges_cross():
    # blocks of 10 nodes: inside each its first node feeds all, its last reads all, one edge leads on to the next block
    count = 10 * MOST_MEMBERS
    edges = [(i - i % 10, i) for i in range(count)] + [(i, i - i % 10 + 9) for i in range(count)]
    edges += [(i, i + 1) for i in range(9, count - 1, 10)]
    found = outline([[]] * count, edges, [str(i) for i in range(count)])
    top = [i for i, up in enumerate(found.parents) if up == -1]
    starts = [int(found.titles[i].split(" … ")[0]) for i in top]
    assert len(top) > 2 and all(start % 10 == 0 for start in starts)


@given(
    st.lists(st.lists(st.sampled_from("abc"), max_size=3), max_size=120),
    st.lists(st.tuples(st.integers(0, 119), st.integers(0, 119)), max_size=60),
)
def test_every_layer_lies_in_one_group_and_no_group_is_empty_or_large(paths, edges):
    inside = [(a, b) for a, b in edges if max(a, b) < len(paths)]
    found = outline(paths, inside, [str(i) for i in range(len(paths))])
    assert len(found.of) == len(paths)
    for group, up in enumerate(found.parents):
        assert up < group and 2 <= len(members(found, group)) <= MOST_MEMBERS
    assert len(members(found, -1)) <= MOST_MEMBERS
