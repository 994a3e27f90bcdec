"""Detection of passes that repeat an earlier pass of the recipe with the same settings."""

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
"""Roles of passes that may make more layers quantizable, because their weights become constant."""
_ENDED_BY: Mapping[Role, frozenset[Role]] = {
    Role.QUANTIZE: _MAKE_LAYERS | {Role.STRIP},
    # if a layer is removed or loses less accuracy, the budget allows other layers
    Role.SEARCH: _MAKE_LAYERS | {Role.STRIP, Role.KEEP, Role.GUARD, Role.HELP},
    Role.STRIP: frozenset({Role.QUANTIZE, Role.SEARCH}),
    # its patterns may match nodes that these passes create
    Role.KEEP: _MAKE_LAYERS | {Role.KEEP, Role.HELP},
}
"""For each role with a lasting effect, the roles of passes after which a repetition is meaningful; it is also
meaningful after a pass without a role."""
_LASTING_TO_THE_NEXT = frozenset({Role.FOLD, Role.FOLD_NORMALIZATION, Role.GUARD})
"""Roles of passes that find nothing new directly after themselves, but may after any other pass."""


@dataclass
class RepeatedPasses:
    """Checks a recipe's passes in order, and refuses a pass that has no effect because it repeats an earlier one.

    Helper passes are not refused, since the benefit of a second one is measured and reported in the journal. Nor are
    passes without a role, about which nothing is known.

    Attributes:
        recipe: the recipe.
    """

    recipe: Recipe
    _lasting: list[tuple[int, Pass]] = field(default_factory=list)

    def take(self, index: int, name: str, step: Pass) -> None:
        """Check the next pass.

        Args:
            index: index of the ``[[pass]]`` entry that it belongs to.
            name: its name in the recipe.

        Raises:
            RecipeError: it repeats an earlier pass; both places are named.
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
