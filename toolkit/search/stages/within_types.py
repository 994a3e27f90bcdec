"""From a plan of a search to one that also meets the budget in the types of the engine: another plan, or a search."""

from __future__ import annotations

from collections.abc import Callable

from toolkit.base.precision import Precision
from toolkit.contract.findings import Code, Finding
from toolkit.search.plans.search import SearchResult
from toolkit.search.stages.searches import Searches

_SEARCHES = 3
"""The most searches; each knows the noise that the types added to the plans of those before."""
_RUNNERS_UP = 3
"""The most other plans that are run in their types before nothing is quantized."""
_AS_MUCH = 0.95
"""A plan with at least this share of what the best one quantizes is tried before another search: running it in its
types costs one or two inferences, a search several, for at most the difference.
"""


def within_types(
    searches: Searches,
    check: Callable[[SearchResult], None],
    left_float: Callable[[SearchResult], SearchResult],
    rest: Precision,
    note: Callable[[Finding], None],
) -> SearchResult:
    """The result of as many searches as it takes to meet the budget in the types that the plan runs in.

    If a plan misses the budget in its types, the search goes on with the noise that these types add. A plan found
    earlier that quantizes nearly as much and meets the budget with that noise is tried first. After the last search
    plans that quantize less are tried too, before nothing is quantized. A plan that misses only part of its margin is
    used instead of either, even if one that ran after it misses the limits themselves.

    Args:
        searches: runs searches, and knows the plans of all of them.
        check: runs a result's plan in its types; see ``RealTypes.check_in_types``.
        left_float: returns the result with nothing quantized.
        rest: the type of float layers.
        note: takes findings for the journal.
    """
    found, searched, tried = _searched(searches, True, note), 1, 0
    usable: SearchResult | None = None
    while True:
        searches.rest()
        check(found)
        if not found.lacks_in_types or found.rest_lacks:
            return found
        last = not searches.learn_types(found) or searched == _SEARCHES
        if found.limits_in_types and (usable is None or found.best.quantized > usable.best.quantized):
            usable = found
        # a float model is better than a plan that misses the limits themselves
        leave = last and usable is None
        if last and usable is not None:
            found = usable
        most = _RUNNERS_UP if leave else 0 if last else 1
        other = searches.runner_up(found, 0.0 if leave else _AS_MUCH) if tried < most else None
        lacks, leave = found.lacks_in_types, leave and other is None
        missed = {"limits": list(lacks), "by": list(lacks.values()), **({"left": True} if leave else {})}
        more = {"runner_up": True} if other is not None else {}
        note(Code.SEARCH_IN_TYPES(rest=rest, **missed, **more, searches=searched, last=last and other is None))
        if leave:
            return left_float(found)
        if other is not None:
            found, tried = other, tried + 1
        elif last:
            return found
        else:
            found, searched, tried = _searched(searches, False, note), searched + 1, 0


def _searched(searches: Searches, first: bool, note: Callable[[Finding], None]) -> SearchResult:
    """One search, continued if much more is expected; the first is repeated if its plan meets the budget by chance."""
    found = searches.run()
    if searches.should_continue(found):
        note(Code.SEARCH_GOES_ON(share=found.best.quantized, of=searches.cost.work.of))
        found = searches.run()
    if first and (quiet := searches.quiet(found)) is not None:
        note(quiet[1])
        found = searches.quieter(quiet[0], found)
    return found
