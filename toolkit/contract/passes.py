"""What a pass is, what it may use, and how it is found by name."""

from __future__ import annotations

import importlib
import importlib.metadata
import re
from collections.abc import Callable, Iterator, Mapping
from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from pydantic import BaseModel, ConfigDict, PrivateAttr, ValidationError

from toolkit.base.code import load_object
from toolkit.base.errors import PassError, QtoolError, RangesError, RecipeError, did_you_mean
from toolkit.base.precision import Precision
from toolkit.base.profiles import Profiles
from toolkit.base.progress import Progress, silent
from toolkit.contract.journal import Journal
from toolkit.contract.plan import PrecisionPlan
from toolkit.graph.model import Model

if TYPE_CHECKING:
    from toolkit.contract.ranges import Ranges

GROUP = "qtool.passes"
GIVEN = frozenset({"manual", "stripped", "cache"})
"""Methods of ranges that were given rather than calibrated: they win over calibration."""


class RangesProvider(Protocol):
    """Gives the ranges of a model's tensors; calibrates where they are not known yet."""

    def __call__(self, model: Model, tensors: SequenceOf[str] | None) -> Ranges:
        """Ranges of ``tensors``, or of all that placement could want."""
        ...


@dataclass
class Context:
    """What a pass may use besides the model: the journal, the plan, profiles, ranges and the progress bar.

    Attributes:
        journal: where every change and every refusal is written.
        plan: the precision asked for, node by node.
        profiles: the recipe's shape profiles; decisions about shapes look at all of them.
        rest: the precision of nodes that nobody asks about.
        progress: called with what is being done, how much is done, and of how much.
        provider: calibrates when ``ranges`` is first asked; set by the pipeline or by ``toolkit.calibrate``.
        services: what else the pipeline offers to passes that evaluate or build (search): by name.
    """

    journal: Journal = field(default_factory=Journal)
    plan: PrecisionPlan = field(default_factory=PrecisionPlan)
    profiles: Profiles = field(default_factory=Profiles)
    rest: Precision = Precision.FP16
    progress: Progress = silent
    provider: RangesProvider | None = None
    known_ranges: Ranges | None = None
    model: Model | None = None
    services: dict[str, Any] = field(default_factory=dict)

    def ranges(self, model: Model | None = None, tensors: SequenceOf[str] | None = None) -> Ranges:
        """Calibrated ranges of ``tensors`` (default: all that placement could want) of the model under work.

        Calibrates once, when first asked. Ranges given by hand in ``known_ranges`` come without calibration.

        Raises:
            RangesError: there is no calibration data and the ranges are not known.
        """
        wanted = set(tensors or ())
        known = self.known_ranges
        if known is not None and wanted and wanted <= set(known.tensors):
            return known
        if self.provider is None:
            missing = sorted(wanted - set(self.known_ranges.tensors if self.known_ranges else ()))[:3]
            raise RangesError(
                "ranges are needed and there is no calibration data"
                + (f" (for {', '.join(missing)})" if missing else ""),
                remedy='add [calibration] data = "..." to the recipe, or set Context(known_ranges=...)',
            )
        subject = model or self.model
        if subject is None:
            raise RangesError("context.ranges() was called outside a pass", remedy="pass the model: ranges(model)")
        found = self.provider(subject, tensors)
        if known is not None:
            found.tensors.update({n: r for n, r in known.tensors.items() if r.method in GIVEN})
        self.known_ranges = found
        return found


class Pass(BaseModel):
    """One transformation or analysis of the graph. Its fields are its recipe settings, their descriptions its help.

    Subclasses write ``apply``; users call the object: ``InsertQDQ(dtype="int8")(model, context)``.
    """

    model_config = ConfigDict(extra="forbid", validate_default=True, use_enum_values=False)
    name: ClassVar[str] = ""
    _place: Callable[[str], str] | None = PrivateAttr(None)

    def comes_from(self, place: Callable[[str], str]) -> None:
        """Say where a recipe asks for this pass: ``place`` gives the file and line of one of its settings' values."""
        self._place = place

    @classmethod
    def title(cls) -> str:
        """The name recipes use: ``name`` where it is set, else the class name in snake_case."""
        return cls.name or re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", cls.__name__).lower()

    def apply(self, model: Model, context: Context) -> None:
        """Change ``model`` in place, speaking through ``context``."""
        raise NotImplementedError

    def __call__(self, model: Model, context: Context | None = None) -> Model:
        """Apply the pass, then check the invariants.

        Raises:
            PassError: the pass failed or broke the graph; it names the pass and the node.
        """
        context = context if context is not None else Context()
        title = self.title()
        before = model.signature()
        previous = context.journal.by, context.plan.by, context.model
        context.journal.by = context.plan.by = title
        context.model = model
        asked = len(context.plan.history)
        try:
            self.apply(model, context)
        except QtoolError as error:
            if error.value and self._place is not None:
                error.at(self._place(error.value))
            raise
        except Exception as error:
            raise PassError(
                f"pass '{title}' failed: {type(error).__name__}: {error}", remedy="run with --debug for the traceback"
            ) from error
        finally:
            context.journal.by, context.plan.by, context.model = previous
        try:
            model.check()
        except PassError as error:
            raise PassError(f"pass '{title}' broke the graph: {error.what}", remedy=error.remedy) from error
        names = set(model.node_names())
        lost = [name for name, _ in context.plan.history[asked:] if name not in names]
        if lost:
            raise PassError(
                f"pass '{title}' asked for '{lost[0]}', and no node is called so", remedy=did_you_mean(lost[0], names)
            )
        if model.signature() != before:
            raise PassError(
                f"pass '{title}' changed the model's inputs or outputs from {before} to {model.signature()}",
                remedy="a pass must keep their names and types",
            )
        return model


class Sequence(Pass):
    """Passes one after another: a pass itself."""

    name: ClassVar[str] = "sequence"
    passes: list[Any]

    def apply(self, model: Model, context: Context) -> None:
        """Apply every pass in turn.

        Raises:
            PassError: one failed; the message names those that ran before it.
        """
        done: list[str] = []
        for step in self.passes:
            try:
                step(model, context)
            except PassError as error:
                before = f" (after {', '.join(done)})" if done else " (the first pass)"
                raise type(error)(error.what + before, where=error.where, remedy=error.remedy) from error
            done.append(step.title())


def installed() -> dict[str, importlib.metadata.EntryPoint]:
    """The passes installed here, by name: qtool's own and anybody else's, through the same entry-point group."""
    return {entry.name: entry for entry in importlib.metadata.entry_points(group=GROUP)}


def find(use: str, allow_code: bool = False) -> type[Pass]:
    """The pass class of a recipe's ``use``: an installed name, or ``module:Name`` where code is allowed.

    Raises:
        RecipeError: there is no such pass.
        NotAllowedError: it is ``module:Name`` and code is not allowed.
    """
    if ":" in use:
        found = load_object(use, allow_code, "pass")
    else:
        entries = installed()
        if use not in entries:
            raise RecipeError(f"no pass is called '{use}'", remedy=did_you_mean(use, entries))
        found = entries[use].load()
    if not (isinstance(found, type) and issubclass(found, Pass)):
        raise RecipeError(f"'{use}' is not a pass", remedy="a pass is a subclass of toolkit.Pass")
    return found


def configure(kind: type[Pass], settings: Mapping[str, Any]) -> Pass:
    """A pass with its settings.

    Raises:
        RecipeError: an unknown key (the message names the nearest right one) or a wrong value.
    """
    try:
        return kind(**settings)
    except ValidationError as error:
        raise RecipeError("; ".join(explain(error, kind.model_fields)), where=f"pass '{kind.title()}'") from error


def explain(error: ValidationError, known: Mapping[str, Any] | SequenceOf[str]) -> Iterator[str]:
    """Each fault of a pydantic error in words."""
    for fault in error.errors():
        place = ".".join(str(part) for part in fault["loc"])
        if fault["type"] == "extra_forbidden":
            hint = did_you_mean(str(fault["loc"][-1]), known)
            yield f"unknown key '{place}'" + (f": {hint}" if hint else "")
        elif fault["type"] == "missing":
            yield f"'{place}' is missing"
        else:
            message = fault["msg"].removeprefix("Value error, ")
            yield f"'{place}' is {fault['input']!r}: {message[:1].lower()}{message[1:]}"
