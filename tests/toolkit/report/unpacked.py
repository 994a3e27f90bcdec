"""What packing.py packs, read back as the page's script does."""

from itertools import accumulate


def first_seen(packed):
    found, largest = [], -1
    for one in packed:
        found.append(one - 1 if one else largest + 1)
        largest = max(largest, found[-1])
    return found


def texts(packed):
    forms, which, steps = packed
    left = [iter(column) for column in steps]
    latest = [[0] * (len(pieces) - 1) for pieces in forms]
    found = []
    for form in first_seen(which):
        latest[form] = [before + next(left[form]) for before in latest[form]]
        first, *rest = forms[form]
        found.append(first + "".join(f"{number}{piece}" for number, piece in zip(latest[form], rest, strict=True)))
    assert all(next(column, None) is None for column in left)
    return found


def column(data, packed):
    """A column of the page's texts."""
    known = texts(data["texts"])
    return [known[number] for number in first_seen(packed)]


def sums(packed):
    return list(accumulate(packed))
