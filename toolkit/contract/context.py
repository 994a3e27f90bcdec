"""What a pass may use besides the model."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from toolkit.base.errors import RangesError, did_you_mean
from toolkit.base.precision import Precision
from toolkit.base.profiles import Profiles
from toolkit.base.progress import Progress, silent
from toolkit.base.types import Array
from toolkit.contract.bench import Bench
from toolkit.contract.evaluation import Evaluation
from toolkit.contract.findings import Code, Finding
from toolkit.contract.journal import Journal
from toolkit.contract.plan import PrecisionPlan
from toolkit.contract.ranges import GIVEN, Ranges
from toolkit.graph.model import Model

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs


class RangesProvider(Protocol):
    """Provides the ranges of a model's tensors; calibrates if they are not known yet."""

    def __call__(self, model: Model, tensors: Sequence[str] | None, dtype: Precision = Precision.INT8) -> Ranges:
        """Ranges for quantization to ``dtype`` of ``tensors`` and of everything that placement could need."""
        ...


@dataclass
class Context:
    """What a pass may use besides the model: the journal, the plan, profiles, ranges, samples and the progress bar.

    Attributes:
        journal: where every change and every refusal is written.
        plan: the requested precision of each node.
        profiles: the recipe's shape profiles; decisions about shapes must consider all of them.
        rest: the precision of nodes without a request.
        progress: called with the current task, the amount done, and the total.
        provider: calibrates when ``ranges`` is first called; its ``data`` are the calibration samples.
        known_ranges: the ranges known so far: set by hand, kept by a pass, or calibrated.
        evaluation: what the run is judged by; None if unspecified.
        bench: builds and times engines; None if none may be built.
        folder: where a pass may write files for people; see ``wrote``. None: it writes nothing.
        logs: where interrupted work is kept, to be resumed; ``folder`` if None.
        base: the folder that relative paths in settings are relative to.
        source: the model as it was loaded, before any pass.
        dry_run: nothing may be calibrated, measured or built: a pass says what it would do.
        unread: nothing reads the graph after the last pass, as in a dry run that builds no engine: the pass may leave
            it unchanged.
        judges_helpers: whether a helper pass is undone if it does not help; not if the caller that tries it decides.
        following: titles of the passes after the current one, without guards.
        guards: the passes after it that only request wider floats where float16 is not enough: they apply to measured
            engines too.
        model: the model being worked on.
        files: the files that passes wrote into ``folder``.
        roundings: cached statistics of weights and inputs, keyed by what they depend on; trials of one model share it.
        exact: by constant that a pass rounded or corrected for the quantized layers, the values that it would have in
            float: what nodes are measured against.
        unranged: why a requested tensor has no range: its readers cannot be quantized.
        lacks_int8: returns, for an operator, the name of the run's backend if it has no INT8 kernel for it, else "".
    """

    journal: Journal = field(default_factory=Journal)
    plan: PrecisionPlan = field(default_factory=PrecisionPlan)
    profiles: Profiles = field(default_factory=Profiles)
    rest: Precision = Precision.FP16
    progress: Progress = silent
    provider: RangesProvider | None = None
    known_ranges: Ranges | None = None
    evaluation: Evaluation | None = None
    bench: Bench | None = None
    folder: Path | None = None
    logs: Path | None = None
    base: Path = field(default_factory=Path)
    source: Model | None = None
    dry_run: bool = False
    unread: bool = False
    judges_helpers: bool = True
    following: tuple[str, ...] = ()
    guards: tuple[Callable[[Model, Context], object], ...] = ()
    model: Model | None = None
    files: list[Path] = field(default_factory=list)
    roundings: dict[Any, Any] = field(default_factory=dict)
    exact: dict[str, Array] = field(default_factory=dict)
    unranged: dict[str, Finding] = field(default_factory=dict)
    lacks_int8: Callable[[str], str] = lambda op: ""

    def ranges(
        self,
        model: Model | None = None,
        tensors: Sequence[str | gs.Tensor] | None = None,
        dtype: Precision | str = Precision.INT8,
    ) -> Ranges:
        """Ranges of ``tensors`` (default: everything that placement could need) of the current model.

        Calibrates once, on the first call. Ranges given by hand in ``known_ranges`` need no calibration. If nothing can
        be calibrated (see ``can_calibrate``), only given ranges are returned: check each with ``fits``.

        Args:
            model: the current model if None.
            tensors: float tensors, or their names; nothing is calibrated for an empty list.
            dtype: the type that the tensors will be quantized to, or its name: methods trade clipping off against the
                rounding error of that type.

        Raises:
            RangesError: there is no calibration data and no known range for that type; or the model has no tensor with
                one of the names.
        """
        if tensors is not None and not tensors:
            return Ranges()
        names, dtype = _names(tensors), Precision.named(dtype)
        known, wanted = self.known_ranges, set(names or ())
        if known is not None and wanted and all(known.fits(name, dtype) for name in wanted):
            return known
        if self.provider is None:
            if known is None or (wanted and not _any_fits(known, wanted, dtype)):
                raise no_ranges(known, wanted, dtype)
            return known
        subject = model or self.model
        if subject is None:
            raise RangesError("context.ranges() was called outside a pass", remedy="pass the model: ranges(model)")
        if wanted:
            _refuse_unknown(wanted, subject)
        found = self.provider(subject, names, dtype)
        if known is not None:
            _put_given(known, found, dtype)
        self._record_unranged(found, wanted, dtype)
        self.known_ranges = found
        if known is not None and wanted:
            self.known_ranges = _with_other_types(found, known, wanted, dtype)
        return found

    def _record_unranged(self, found: Ranges, wanted: Collection[str], dtype: Precision) -> None:
        """Record why ``wanted`` tensors got no range.

        Raises:
            RangesError: none of them has a range for that type, and not all could be calibrated.
        """
        lacking = [name for name in wanted if name not in found.tensors] if self.can_calibrate else []
        if len(lacking) < len(wanted) and not _any_fits(found, wanted, dtype):
            raise no_ranges(found, wanted, dtype)
        for name in wanted:
            self.unranged.pop(name, None)
        self.unranged |= {name: found.missing.get(name, Code.NOT_CALIBRATED()) for name in lacking}

    @property
    def keeps_graph(self) -> bool:
        """Whether the current pass may leave the graph as it is, since its result is not read; see ``unread``."""
        return self.dry_run and self.unread and not self.following and not self.guards

    @property
    def can_calibrate(self) -> bool:
        """Whether every tensor can get a range; otherwise only tensors with a given range have one."""
        return self.provider is not None and getattr(self.provider, "calibrates", True)

    def calibration_samples(self) -> Any:
        """The samples that ranges are calibrated on: a ``CalibrationData``.

        Raises:
            RangesError: there are none.
        """
        data = getattr(self.provider, "data", None)
        if data is None:
            raise RangesError(
                "activation values are needed and there is no calibration data",
                remedy='add [calibration] data = "..." to the recipe',
            )
        return data

    def fork(self, *, ranges: bool = True) -> Context:
        """A context for a trial, with its own journal and plan; everything else is shared.

        Args:
            ranges: whether the trial starts with the ranges known so far (a copy); otherwise it calibrates again.
        """
        known = self.known_ranges if ranges else None
        return replace(
            self,
            journal=Journal(),
            plan=self.plan.copy(),
            progress=silent,
            known_ranges=replace(known, tensors=dict(known.tensors)) if known is not None else None,
            files=[],
            exact=dict(self.exact),
            unranged=dict(self.unranged),
        )

    def note_float_values(self, new: str, old: str, exact: Array) -> None:
        """Record that a constant was derived from another only for quantization: rounded or corrected.

        Args:
            new: its name.
            old: the name of the original; empty if there was none.
            exact: the values that the float graph would have there, of the same shape.
        """
        self.exact[new] = self.exact.get(old, exact)

    def guard(self, model: Model) -> None:
        """Apply the guards to a trial's graph and plan, as the run will: engines are measured with their requests."""
        for one in self.guards:
            one(model, self)

    def wrote(self, path: str | Path) -> None:
        """Announce a file that a pass wrote into ``folder``: it belongs to the run's results.

        Args:
            path: of the file, or its place in the folder.
        """
        path = Path(path)
        if self.folder is not None and not path.is_relative_to(self.folder):
            inside, folder = (self.folder / path).resolve(), self.folder.resolve()
            path = self.folder / inside.relative_to(folder) if inside.is_relative_to(folder) else path
        if path not in self.files:
            self.files.append(path)

    @property
    def log_folder(self) -> Path | None:
        """The folder for interrupted work; None keeps it in memory."""
        return self.logs if self.logs is not None else self.folder


def _names(tensors: Sequence[str | gs.Tensor] | None) -> list[str] | None:
    """Names of tensors given as objects or by name; a single name is a list of one."""
    if tensors is None:
        return None
    given = [tensors] if isinstance(tensors, str) else tensors
    return [one if isinstance(one, str) else str(one.name) for one in given]


def _refuse_unknown(wanted: Collection[str], model: Model) -> None:
    """Refuse names that no tensor has, in a dry run too: nothing else would report a misspelt name.

    Raises:
        RangesError: there is one; the message suggests the closest.
    """
    have = model.tensor_names()
    unknown = sorted(name for name in wanted if name not in have)
    if unknown:
        raise RangesError(
            f"a range is asked for '{unknown[0]}', but no tensor of the model has that name",
            remedy=did_you_mean(unknown[0], have),
        )


def _any_fits(ranges: Ranges, tensors: Collection[str], dtype: Precision) -> bool:
    return any(ranges.fits(name, dtype) for name in tensors)


def _put_given(known: Ranges, found: Ranges, dtype: Precision) -> None:
    """Replace calibrated ranges by given ones; those for another type only fill gaps."""
    given = {name: one for name, one in known.tensors.items() if one.method in GIVEN}
    found.tensors.update({n: one for n, one in given.items() if one.holds_for(dtype) or n not in found.tensors})


def _with_other_types(found: Ranges, known: Ranges, wanted: Collection[str], dtype: Precision) -> Ranges:
    """The ranges found; tensors that were not requested keep their ranges for other types."""
    others = {n: one for n, one in known.tensors.items() if not known.fits(n, dtype) and n not in wanted}
    return replace(found, tensors={**found.tensors, **others})


def no_ranges(known: Ranges | None, wanted: Collection[str], dtype: Precision) -> RangesError:
    """The error for ``wanted`` tensors without a range for that type; it says which ranges are known instead."""
    tensors = known.tensors if known is not None else {}
    other = sorted(name for name in wanted if name in tensors)
    shown = ", ".join(f"'{name}'" for name in (other or sorted(wanted))[:3])
    if other:
        return RangesError(
            f"the given ranges are for {tensors[other[0]].dtype}, but {dtype} is needed ({shown})",
            remedy=f"give calibration data, ranges made for {dtype}, or the largest magnitudes in [calibration] manual",
        )
    return RangesError(
        "ranges are needed and there is no calibration data" + (f" (for {shown})" if shown else ""),
        remedy='add [calibration] data = "..." to the recipe (in Python: Context(provider=Calibrator(data))), or give '
        "ranges or manual there for these tensors",
    )
