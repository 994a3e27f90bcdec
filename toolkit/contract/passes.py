"""What a pass is: a class whose fields are its recipe settings, and a sequence of passes."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator, Mapping
from collections.abc import Sequence as SequenceOf
from contextlib import contextmanager, nullcontext
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, PrivateAttr, ValidationError

from toolkit.base.code import failure_of
from toolkit.base.collection import collector_paused
from toolkit.base.errors import FAILURES, PassError, QtoolError, RecipeError, did_you_mean, system_fault
from toolkit.base.modules import OWN_PACKAGES
from toolkit.base.progress import Activity
from toolkit.base.schema import explain, value_words
from toolkit.base.settings import without_effect
from toolkit.contract.context import Context
from toolkit.contract.findings import Code
from toolkit.contract.helping import HelperTrial
from toolkit.contract.installed import installed_passes
from toolkit.contract.members import check_attributes, guard_members
from toolkit.contract.model_before import ModelBefore
from toolkit.contract.order import BEFORE_PAIRS, note_after_pairs, note_all_paired, quantized_by_now
from toolkit.contract.roles import Harm, Role
from toolkit.graph.model import Model

_OF_APPLY = ("supports_dry_run", "graph_only", "reads_evaluation", "measures_engines")
"""What a pass declares about its ``apply``."""


class Pass(BaseModel):
    """One transformation or analysis of the graph. Its fields are its recipe settings, their descriptions its help.

    Numbers among the fields are finite, unless a field sets ``allow_inf_nan=True``. Subclasses write ``apply``; users
    call the object: ``MyPass(setting=1)(model, context)``.

    A pass declares what else a run must know in class attributes, and in methods that say what ``apply`` reads. The
    defaults are conservative: a pass that declares nothing runs again whenever the evaluation, the engine's settings or
    the GPU changed.

    Attributes:
        name: its name in recipes; if empty, the class name in snake_case.
        role: its role, by which advice and analyses find it.
        mends: the problem that a pass of role ``HELP`` reduces.
        supports_dry_run: whether ``apply`` respects ``context.dry_run``: it then measures and builds nothing, raises
            the errors that it would raise in a run, and says what it would do. If all passes do, they are tried before
            a run calibrates.
        graph_only: whether ``apply`` depends only on graph, settings, profiles and plan. A run then continues from the
            trial's result.

    ``supports_dry_run``, ``graph_only``, ``reads_evaluation`` and ``measures_engines`` hold for the ``apply`` of the
    class that sets them: a subclass with another ``apply``, or one from a mixin, must set them again to override the
    defaults.
    """

    model_config = ConfigDict(extra="forbid", validate_default=True, use_enum_values=False, allow_inf_nan=False)
    name: ClassVar[str] = ""
    role: ClassVar[Role | None] = None
    mends: ClassVar[Harm | None] = None
    supports_dry_run: ClassVar[bool] = False
    graph_only: ClassVar[bool] = False
    _place: Callable[[str | None], str] | None = PrivateAttr(None)

    @classmethod
    def __pydantic_init_subclass__(cls, **settings: Any) -> None:
        super().__pydantic_init_subclass__(**settings)
        for member in _OF_APPLY:
            said_by = next(kind for kind in cls.__mro__ if member in vars(kind))
            # another apply may request ranges, which are placeholders in a dry run, or read the evaluation
            if said_by is not cls and getattr(said_by, "apply", cls.apply) not in (Pass.apply, cls.apply):
                setattr(cls, member, vars(Pass)[member])
        if cls.__module__.partition(".")[0] not in OWN_PACKAGES:
            check_attributes(cls)
            guard_members(cls)

    def __init__(self, **settings: Any) -> None:
        """Take the settings.

        Raises:
            RecipeError: an unknown setting (the message names the closest known one), a wrong value, or a setting
                that has no effect given the others. The error's ``value`` is that setting.
        """
        try:
            super().__init__(**settings)
        except ValidationError as error:
            faults = "; ".join(explain(error, type(self).model_fields, settings))
            raise self._fault(faults, next(iter(error.errors()[0]["loc"]), None)) from error
        for name, why in self.unused_settings().items():
            if name in self.model_fields_set:
                what, remedy = without_effect(f"{name} = {value_words(getattr(self, name))}", why, name)
                raise RecipeError(what, where=f"pass '{self.title()}'", remedy=remedy, value=name)

    @classmethod
    def _fault(cls, what: str, setting: object = None) -> RecipeError:
        """The error for invalid settings: what is wrong, in which pass, and where to look.

        Args:
            what: what is wrong.
            setting: the name of the first wrong setting; None if no single one is wrong.
        """
        title = cls.title()
        use = title if title in installed_passes() else f"{cls.__module__}:{cls.__qualname__}"
        remedy = f"`qtool passes {use}` lists its settings"
        return RecipeError(what, where=f"pass '{title}'", remedy=remedy, value=setting)

    def unused_settings(self) -> dict[str, str]:
        """Settings that have no effect given the others, each with the reason; setting one is an error."""
        return {}

    def comes_from(self, place: Callable[[str | None], str]) -> None:
        """Record where a recipe uses this pass: ``place`` returns file and line of a value, or of the pass for None."""
        self._place = place

    @classmethod
    def title(cls) -> str:
        """The name recipes use: ``name`` where it is set, else the class name in snake_case."""
        return cls.name or re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", cls.__name__).lower()

    def reads_evaluation(self) -> bool:
        """Whether ``apply`` reads the evaluation's settings or samples: its result is stale if those change."""
        return not self.graph_only

    def measures_engines(self) -> bool:
        """Whether ``apply`` builds or times engines if it can: its result is stale on another GPU."""
        return not self.graph_only

    def runs_models(self) -> bool:
        """Whether ``apply``, or measuring its effect, runs models or engines, as far as the pass declares."""
        return self.reads_evaluation() or self.measures_engines() or self.helps()

    def predicts_times(self) -> bool:
        """Whether ``apply`` predicts times for this machine's GPU."""
        return False

    def accuracy_limits(self) -> Mapping[str, float | None]:
        """The accuracy limits in the settings, by their names in ``[evaluation] budget``."""
        return {}

    def input_files(self, base: Path) -> list[Path]:
        """Files that the settings name, relative to ``base``: the pass's result is stale if they change."""
        return []

    def code_named(self) -> list[str]:
        """Code that the settings name as ``module:Name``: it runs only if the user allows code."""
        return []

    def ranges_wanted(self, model: Model, context: Context) -> SequenceOf[str] | None:
        """The tensors whose ranges ``apply`` needs; None for none, empty for all that placement could need.

        ``qtool calibrate`` collects statistics for the first pass that needs some. The method may change the model as
        ``apply`` does before it requests ranges (raising the opset, say): the model is not used afterwards. A helper
        pass needs ranges if its effect is measured.
        """
        return [] if self.helps() and getattr(self, "measure", True) else None

    def measured_with(self) -> dict[str, object]:
        """For a pass of role ``HELP``: settings of the quantizing pass with which its effect is measured."""
        return {}

    def applicable_layers(self, model: Model) -> set[str]:
        """For a pass of role ``HELP``: names of the layers whose input or weights it can change."""
        return set()

    def apply(self, model: Model, context: Context) -> None:
        """Change ``model`` in place, reporting through ``context``; returns nothing."""
        raise NotImplementedError("its class defines no apply(self, model, context)")

    def __call__(self, model: Model, context: Context | None = None) -> Model:
        """Apply the pass, then check the graph's invariants.

        Raises:
            PassError: the pass failed or broke the graph; the message names the pass and the node.
        """
        context = context if context is not None else Context()
        title = self.title()
        own = type(self).__module__.partition(".")[0] in OWN_PACKAGES
        before = ModelBefore.of(model, not own, context)
        requests_before = len(context.plan.history)
        with self._speaking(context, model):
            trial = self._trial(model, context)
            events_before, quantized = len(context.journal), quantized_by_now(context)
            self._apply(model, context)
            if self.role in BEFORE_PAIRS:
                note_after_pairs(title, model, context, quantized, islice(context.journal, events_before, None))
            elif self.role is Role.QUANTIZE:
                note_all_paired(title, model, context, quantized, islice(context.journal, events_before, None))
        try:
            before.refuse_new_signature(title, model)
            self._check(model, before.typed)
            before.refuse_new_scales(model)
        except PassError as error:
            whose = "" if error.what.startswith(f"pass '{title}'") else f"pass '{title}' broke the graph: "
            raise PassError(f"{whose}{error.what}", remedy=error.remedy) from error
        except QtoolError:
            raise
        except Exception as error:
            if own or system_fault(error) is not None:
                raise
            # names, inputs and attributes may hold anything
            raise PassError(
                f"pass '{title}' broke the graph, which cannot be written as ONNX: {failure_of(error)}",
                remedy="names are text, inputs and outputs tensors, attributes numbers, text, lists or arrays",
            ) from error
        # shapes can be inferred of a sound graph alone
        before.refuse_new_shapes(title, model, context)
        self._refuse_lost_names(model, context, requests_before)
        self._note_pairs(model, context, requests_before)
        before.note_unknown_operators(title, model, context)
        if trial is not None:
            with self._speaking(context, context.model):
                trial.settle(title, model, context)
        self._note_lost_requests(before, model, context)
        return model

    @contextmanager
    def _speaking(self, context: Context, model: Model | None) -> Iterator[None]:
        """Within the block, reports and requests are attributed to this pass and this model."""
        previous = context.journal.by, context.plan.by, context.model
        context.journal.by = context.plan.by = self.title()
        context.model = model
        try:
            yield
        finally:
            context.journal.by, context.plan.by, context.model = previous

    def _apply(self, model: Model, context: Context) -> None:
        """Call ``apply``; failures become errors that name the pass, and returning anything is an error."""
        title = self.title()
        try:
            # what a pass that only reads the graph creates stays in it
            with nullcontext() if self.runs_models() else collector_paused():
                # a type checker does not see third-party code
                returned: object = self.apply(model, context)  # type: ignore[func-returns-value]
        except QtoolError as error:
            if self._place is not None:
                error.at(self._place(error.value))
            elif error.value is not None:
                error.at(f"pass '{title}'")
            raise
        except FAILURES as error:
            raise PassError(
                f"pass '{title}' failed: {failure_of(error)}", remedy="run with --debug for the traceback"
            ) from error
        if returned is not None and returned is not model:
            if inspect.iscoroutine(returned):
                # otherwise Python warns that the coroutine was never awaited
                returned.close()
            raise PassError(
                f"pass '{title}' returned an object of the type {type(returned).__name__}, which nothing would read",
                remedy="change the model in place: apply is not a generator or coroutine, and returns nothing",
            )

    def _refuse_lost_names(self, model: Model, context: Context, asked: int) -> None:
        """Refuse requests of this pass for nodes that do not exist; in a sequence a later pass may have folded them."""
        own = [name for name, ask in context.plan.history[asked:] if ask.by == self.title()]
        names = set(model.node_names()) if own else set()
        lost = [name for name in own if name not in names]
        if lost:
            raise PassError(
                f"pass '{self.title()}' requested a precision for '{lost[0]}', but no node has that name",
                remedy=did_you_mean(lost[0], names),
            )

    @classmethod
    def helps(cls) -> bool:
        """Whether it is a helper, which is kept only if it helps: of role ``HELP``, or with ``mends`` set."""
        return cls.role is Role.HELP or cls.mends is not None

    def _trial(self, model: Model, context: Context) -> HelperTrial | None:
        """What can undo a helper pass; None if its effect is not judged here."""
        if not self.helps() or not getattr(self, "measure", True) or not context.judges_helpers:
            return None
        if context.dry_run:
            context.journal.noted(Code.DRY_RUN(step="helpers"))
            return None
        insist = not getattr(self, "only_if_better", True)
        return HelperTrial(model, context, insist, self.measured_with())

    def _check(self, model: Model, types: bool) -> None:
        model.check(types)

    def _note_lost_requests(self, before: ModelBefore, model: Model, context: Context) -> None:
        before.note_lost_requests(self.title(), model, context)

    def _note_pairs(self, model: Model, context: Context, asked: int) -> None:
        """Note nodes with a float request that still read Q/DQ pairs: an engine would run them quantized."""
        wanted = {name for name, ask in context.plan.history[asked:] if not ask.precision.quantized and not ask.free}
        for node, _ in model.walk() if wanted else ():
            pairs = [t.name for t in node.inputs if t.inputs and t.inputs[0].op == "DequantizeLinear"]
            ask = context.plan.get(node.name)
            if node.name in wanted and pairs and ask is not None and not ask.precision.quantized:
                context.journal.noted(
                    Code.FLOAT_READS_PAIRS(node=node.name, precision=str(ask.precision)), node=node.name
                )


class Sequence(Pass):
    """Passes applied in order; itself a pass.

    Attributes:
        passes: all of them, named in messages.
        begin: index of the first pass to apply; those before it were applied already.
        end: index after the last pass to apply; None for all.
    """

    name: ClassVar[str] = "sequence"
    passes: list[Any]
    begin: int = 0
    end: int | None = None

    def apply(self, model: Model, context: Context) -> None:
        """Apply every pass in turn.

        Raises:
            PassError: one failed; the message names those that ran before it.
        """
        titles = [step.title() for step in self.passes]
        following, guards = context.following, context.guards
        try:
            for number, step in list(enumerate(self.passes))[self.begin : self.end]:
                later = self.passes[number + 1 :]
                context.following = (*(one.title() for one in later if one.role is not Role.GUARD), *following)
                context.guards = (*(one for one in later if one.role is Role.GUARD), *guards)
                context.progress(Activity("passes", part=titles[number]), number, len(titles))
                try:
                    step(model, context)
                except PassError as error:
                    before = f" (after {', '.join(titles[:number])})" if number else " (the first pass)"
                    whose = "" if f"'{titles[number]}'" in error.what else f"pass '{titles[number]}': "
                    raise type(error)(whose + error.what + before, where=error.where, remedy=error.remedy) from error
        finally:
            context.following, context.guards = following, guards

    def _check(self, model: Model, types: bool) -> None:
        """Nothing: each pass has been checked."""

    def _note_lost_requests(self, before: ModelBefore, model: Model, context: Context) -> None:
        """Nothing: each pass has done so."""

    def _note_pairs(self, model: Model, context: Context, asked: int) -> None:
        """Nothing: each pass has done so."""
