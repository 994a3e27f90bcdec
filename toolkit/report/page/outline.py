"""The groups in which a network is drawn: scopes of names, and chunks of the graph where names have no scopes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import accumulate

MOST_MEMBERS = 20
"""A larger group is split into chunks: drawn as a chain, this many members fit on a screen or two."""
_MOST_CHUNKS = 10
_DEEPEST = 12
_ROOM = 0.4


@dataclass(frozen=True)
class Outline:
    """Nested groups; -1 denotes the whole network.

    Attributes:
        titles: by group, its title.
        parents: by group, the index of the enclosing group.
        of: by layer, the index of its innermost group.
    """

    titles: list[str]
    parents: list[int]
    of: list[int]


@dataclass
class _Scope:
    title: str
    members: list[int | _Scope] = field(default_factory=list)
    parent: _Scope | None = None
    place: int = 0
    depth: int = 0


def scope_of(name: str) -> list[str]:
    """The scopes of a name, the outermost first: encoder and block3 for ``/encoder/block3/Conv``."""
    return [part for part in name.split("/")[:-1] if part][:_DEEPEST]


def outline(paths: Sequence[Sequence[str] | None], edges: Iterable[tuple[int, int]], names: Sequence[str]) -> Outline:
    """Group the layers, in linear time except for splitting large groups.

    A group of one member is replaced by the member. A group of more than ``MOST_MEMBERS`` is split into consecutive
    chunks where few edges cross, recursively until each part is small enough.

    Args:
        paths: by layer, the groups around it, the outermost first; None for a layer that is not drawn.
        edges: pairs of layer indices, source and target.
        names: by layer, its name for the titles of chunks.
    """
    root = _Scope("")
    index: dict[tuple[str, ...], _Scope] = {(): root}
    for layer, path in enumerate(paths):
        if path is not None:
            _scope(index, tuple(path)).members.append(layer)
    _merge(root)
    while len(root.members) == 1 and isinstance(root.members[0], _Scope):
        root.members = root.members[0].members
    _cut(root, edges, names, len(paths))
    return _flat(root, len(paths))


def _scope(index: dict[tuple[str, ...], _Scope], path: tuple[str, ...]) -> _Scope:
    if path not in index:
        parent = _scope(index, path[:-1])
        index[path] = _Scope(path[-1])
        parent.members.append(index[path])
    return index[path]


def _merge(scope: _Scope) -> None:
    """Replace each group of one member with the member."""
    for place, member in enumerate(scope.members):
        if isinstance(member, _Scope):
            _merge(member)
            if len(member.members) == 1:
                (only,) = member.members
                if isinstance(only, _Scope):
                    only.title = f"{member.title}/{only.title}"
                scope.members[place] = only


def _cut(root: _Scope, edges: Iterable[tuple[int, int]], names: Sequence[str], count: int) -> None:
    """Split the large groups."""
    scopes = [root]
    holders: list[_Scope | None] = [None] * count
    places = [0] * count
    for scope in scopes:
        for place, member in enumerate(scope.members):
            if isinstance(member, _Scope):
                member.parent, member.place, member.depth = scope, place, scope.depth + 1
                scopes.append(member)
            else:
                holders[member], places[member] = scope, place
    large = {id(scope): [0] * (len(scope.members) + 1) for scope in scopes if len(scope.members) > MOST_MEMBERS}
    if not large:
        return
    for source, target in edges:
        one, other = holders[source], holders[target]
        if one is None or other is None:
            continue
        place, end = places[source], places[target]
        # an edge crosses boundaries only of the innermost group around both its ends
        while one is not other:
            if one.depth >= other.depth:
                place, one = one.place, one.parent or root
            else:
                end, other = other.place, other.parent or root
        if id(one) in large:
            crossed = large[id(one)]
            crossed[min(place, end) + 1] += 1
            crossed[max(place, end) + 1] -= 1
    for scope in scopes:
        if id(scope) in large:
            crossing = list(accumulate(large[id(scope)]))
            scope.members = _chunks(scope.members, crossing, 0, names)


def _chunks(
    members: list[int | _Scope], crossing: Sequence[int], start: int, names: Sequence[str]
) -> list[int | _Scope]:
    """The members in groups of consecutive ones; ``crossing[start + i]`` edges cross the boundary before the i-th."""
    if len(members) <= MOST_MEMBERS:
        return members
    parts = min(_MOST_CHUNKS, max(2, round(math.sqrt(len(members)))))
    length = len(members) / parts
    cuts = [0]
    for part in range(1, parts):
        ideal = part * length
        near = range(max(cuts[-1] + 1, math.ceil(ideal - _ROOM * length)), math.floor(ideal + _ROOM * length) + 1)
        cuts.append(min(near, key=lambda place: (crossing[start + place], abs(place - ideal))))
    found: list[int | _Scope] = []
    for low, high in zip(cuts, [*cuts[1:], len(members)]):
        inside = members[low:high]
        title = f"{_title(inside[0], names)} … {_title(inside[-1], names)}"
        found.append(_Scope(title, _chunks(inside, crossing, start + low, names)))
    return found


def _title(member: int | _Scope, names: Sequence[str]) -> str:
    return member.title if isinstance(member, _Scope) else names[member]


def _flat(root: _Scope, count: int) -> Outline:
    found = Outline([], [], [-1] * count)
    pending = [(root, -1)]
    for scope, number in pending:
        for member in scope.members:
            if isinstance(member, _Scope):
                pending.append((member, len(found.titles)))
                found.titles.append(member.title)
                found.parents.append(number)
            else:
                found.of[member] = number
    return found
