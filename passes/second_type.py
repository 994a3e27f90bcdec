"""The second half of search_precision: layers that one quantized type damages are searched again in another."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from toolkit.base.files import write_json
from toolkit.base.precision import Precision
from toolkit.base.text import literal_glob
from toolkit.contract.passes import Context
from toolkit.graph.model import Model

if TYPE_CHECKING:
    from passes.search_precision import SearchPrecision


def try_second_type(search: SearchPrecision, model: Model, plain: Model, kept: Sequence[str], context: Context) -> None:
    """Quantize to ``search.also`` as many of the layers kept float as the budget allows, in place.

    Args:
        search: the pass, which has quantized the others.
        model: the graph with the first type's pairs.
        plain: the float graph before them: outputs are still compared with its.
        kept: names of the layers that the first search kept float.
        context: for the plan, the journal and the data.
    """
    assert search.also is not None
    before = {name: ask for name in kept if (ask := context.plan.get(name)) is not None}
    for name in before:
        context.plan.withdraw(name)
    inner = search.model_copy(
        update={
            "dtype": search.also, "also": None, "helpers": [], "only_if_faster": False, "max_ms": None,
            "include": [literal_glob(name) for name in before], "include_ops": [], "include_between": [],
            "exclude": [], "exclude_ops": [], "exclude_between": [],
        }
    )  # fmt: skip
    inner.against(plain)
    inner.apply(model, context)
    for name, ask in before.items():
        if context.plan.get(name) is None:
            context.plan.ask(name, ask.precision, ask.reason)
    precision = Precision(search.also)
    taken = [name for name in before if (now := context.plan.get(name)) is not None and now.precision is precision]
    text = f"{len(taken)} of the {len(before)} layers that {search.dtype} damages run in {search.also} instead"
    context.journal.noted(text + (f": {', '.join(taken[:4])}" if taken else ""), rule="search-second-type")
    _tell(context, f"{text} (search_{search.also}.json holds that search)")


def _tell(context: Context, text: str) -> None:
    """Add the note to the first search's record, whose plan says that these layers stay float."""
    for name in context.services.get("files", []):
        path = Path(name)
        if path.name == "search.json" and path.is_file():
            content = json.loads(path.read_text(encoding="utf-8"))
            content["notes"].append(text)
            write_json(path, content)
