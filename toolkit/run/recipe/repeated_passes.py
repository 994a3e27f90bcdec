"""Passes of a recipe that do again what one before them did, with the same settings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NoReturn

from toolkit.base.errors import RecipeError
from toolkit.contract.roles import Role

if TYPE_CHECKING:
    from toolkit.contract.passes import Pass
    from toolkit.run.recipe.recipe import Recipe

_MAKE_LAYERS = frozenset({Role.FOLD, Role.FOLD_NORMALIZATION})
"""Roles of passes after which layers may be quantized that could not be before: their weights are constants now."""
_ENDED_BY: Mapping[Role, frozenset[Role]] = {
    Role.QUANTIZE: _MAKE_LAYERS | {Role.STRIP},
    # with a layer less, or one that loses less, the budget allows others
    Role.SEARCH: _MAKE_LAYERS | {Role.STRIP, Role.KEEP, Role.GUARD, Role.HELP},
    Role.STRIP: frozenset({Role.QUANTIZE, Role.SEARCH}),
    # its patterns may fit what these made of the graph
    Role.KEEP: _MAKE_LAYERS | {Role.KEEP, Role.HELP},
}
"""By role of passes whose effect lasts the roles of those after which doing it again has a meaning; it has one after a
pass without a role, too."""
_LASTING_TO_THE_NEXT = frozenset({Role.FOLD, Role.FOLD_NORMALIZATION, Role.GUARD})
"""Roles of passes that find nothing new right after themselves, and may after any other pass."""


@dataclass
class RepeatedPasses:
    """Looks at a recipe's passes in order, and refuses one that has no effect because of one before it.

    Helper passes are not refused: whether one helps a second time is measured, and said in the journal. Nor are passes
    without a role, of which nothing is known.

    Attributes:
        recipe: the recipe.
    """

    recipe: Recipe
    _lasting: list[tuple[int, Pass]] = field(default_factory=list)

    def take(self, index: int, name: str, step: Pass) -> None:
        """Take in the next pass.

        Args:
            index: which ``[[pass]]`` of the recipe it belongs to.
            name: what the recipe calls it.
            step: the pass.

        Raises:
            RecipeError: it repeats one before it; both places are named.
        """
        for before, one in self._lasting:
            if type(one) is type(step) and one.model_dump() == step.model_dump():
                self._refuse(index, before, name)
        self._lasting = [(place, one) for place, one in self._lasting if self._lasts(one, step)]
        if step.role in _ENDED_BY or step.role in _LASTING_TO_THE_NEXT:
            self._lasting.append((index, step))

    def _lasts(self, one: Pass, after: Pass) -> bool:
        if one.role is None or after.role is None or one.role not in _ENDED_BY:
            return False
        return after.role not in _ENDED_BY[one.role]

    def _refuse(self, index: int, before: int, name: str) -> NoReturn:
        raise RecipeError(
            f"{name} has no effect: it repeats the {name} of {self.recipe.locate('pass', before, 'use')} with the same "
            "settings",
            where=self.recipe.locate("pass", index, "use"),
            remedy="remove one of them, or give them different settings",
        )
