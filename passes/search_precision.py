"""Search which layers to quantize: as many as the accuracy budget allows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, PrivateAttr, field_validator

from passes.insert_qdq import InsertQDQ
from toolkit import (
    ByteSize,
    Calibrator,
    Code,
    Context,
    Facts,
    Finding,
    Journal,
    Judge,
    Lower,
    Model,
    Pass,
    Placement,
    PlanSearch,
    Precision,
    PrecisionPlan,
    Quantizer,
    Ranges,
    RecipeError,
    Role,
    SearchSettings,
    attention_pays,
    configure_pass,
    did_you_mean,
    find_pass,
    gpu_spec,
    literal_glob,
    lower,
    passes_with_role,
    prebuild_float,
    refuse_without_samples,
    require_bench,
    with_helpers,
)

_PLACING = (
    "include", "include_ops", "include_between", "exclude", "exclude_ops", "exclude_between", "activation_matmul",
    "block", "also",
)  # fmt: skip
"""Settings that decide where insert_qdq places pairs."""


class _HelperName:
    """The name of a pass that helps quantization, in the settings' JSON schema."""

    def __get_pydantic_json_schema__(self, core: Any, handler: Any) -> dict[str, Any]:
        return {**handler(core), "enum": [name for name, _ in passes_with_role(Role.HELP)]}


class SearchPrecision(InsertQDQ):
    """Quantize like insert_qdq, but keep layers in float where the accuracy budget requires it.

    Use it instead of insert_qdq; it takes the same settings. The budget is [evaluation] budget of the recipe unless
    limits are given here. Decisions are made on calibration samples, so the test data stay unseen. To search with
    another quantizing pass, name it as ``quantizer``.

    On a machine with a GPU and TensorRT, an engine with every layer quantized and one with none are built first: their
    layer times show which plans are fast. The engine of the chosen plan is then measured against both.
    """

    name = "search_precision"
    role = Role.SEARCH
    supports_dry_run = True
    max_drop: float | None = Field(
        None, ge=0, le=1e12, description="largest drop of the metric; default: [evaluation] budget"
    )
    min_sqnr_db: float | None = Field(
        None, ge=0, le=400, description="smallest SQNR of the outputs; default: [evaluation] budget"
    )
    min_agreement: float | None = Field(None, ge=0, le=1, description="smallest top-1 agreement with the float model")
    min_unchanged: float | None = Field(
        None, ge=0, le=1, description="smallest share of answers that match the float model's, as the task reads them"
    )
    margin: float = Field(
        1.0, ge=0, le=1000,
        description="safety margin for unseen samples: in dB of SQNR, increased where batches differ, and in standard "
        "errors of shares and of the metric's drop; if above 0, answers that nearly change count too",
    )  # fmt: skip
    max_ms: float | None = Field(None, gt=0, le=1e9, description="largest predicted latency in milliseconds")
    keep: Literal["fp16", "bf16", "fp32"] | None = Field(None, description="precision of kept layers; default: rest")
    prefer: Literal["auto", "int8", "time"] = Field(
        "auto", description="what to optimize: the share of work in INT8, or latency; auto: latency if it was measured"
    )
    times: str | list[str] = Field(
        [], description="report.json or run folder of earlier runs, whose measured layer times replace predictions"
    )
    measure: bool = Field(
        True, description="build engines to measure layer times, if the run can and times matter to the search"
    )
    gpu: str = Field(
        "", description="the GPU to predict times for, from its datasheet; default: the one in this machine, else A10"
    )
    data: Literal["calibration", "evaluation"] = Field("calibration", description="the samples to decide on")
    samples: int | None = Field(
        256, gt=0, le=1_000_000,
        description="decide on at most this many samples; on fewer if they take long and inferences is not set",
    )  # fmt: skip
    batch: int = Field(32, gt=0, le=1_000_000, description="samples to run at once")
    evaluations: int | None = Field(
        None, gt=0, le=1_000_000, description="largest number of plans to evaluate; default 8 log2(groups) + 16"
    )
    inferences: float | None = Field(
        None, gt=0, le=1e9,
        description="largest cost of the search, in float inferences of its samples; default 24, three times as "
        "many if those find little, and more if the search takes only a few seconds",
    )  # fmt: skip
    minutes: float | None = Field(
        None, gt=0, le=1e9,
        description="time limit of the search; default, unless inferences is set: 3, or 6 if 3 find little",
    )  # fmt: skip
    memory: ByteSize = Field("1GB", description="for cached activations and loaded weights, half each")
    try_ranges: bool = Field(
        True, description="try ranges of other calibration methods before keeping a layer in float"
    )
    helpers: list[Annotated[str, _HelperName()]] = Field(
        [], description="helper passes to try if quantizing every layer misses the budget; kept if they help"
    )
    threads: int | None = Field(
        None, gt=0, le=1024, description="batches to compute in parallel; default: one per core"
    )
    also: Literal["fp8", "int8", "mxfp8"] | None = Field(
        None, description="a second type to try for layers that lose too much in dtype, before they stay in float"
    )
    quantizer: str = Field("", description="another quantizing pass to search with instead of insert_qdq")
    quantizer_settings: dict[str, Any] = Field({}, description="the settings of that pass")
    _reference: Model | None = PrivateAttr(None)
    _quantizer: Quantizer | None = PrivateAttr(None)
    _measured: dict[str, bool] = PrivateAttr({})
    _searched: PlanSearch | None = PrivateAttr(None)

    @field_validator("helpers")
    @classmethod
    def _help(cls, names: list[str]) -> list[str]:
        known = [name for name, _ in passes_with_role(Role.HELP)]
        for name in names:
            if ":" not in name and name not in known:
                raise ValueError(f"there is no helper pass '{name}': {did_you_mean(name, known)}")
        return names

    # ---------------------------------------------------------------- what a run must know

    def unused_settings(self) -> dict[str, str]:
        """As in insert_qdq, and settings without effect because of the quantizer, earlier runs or the type."""
        found = super().unused_settings()
        if self.quantizer:
            own = f"it is a setting of insert_qdq: set those of {self.quantizer} in quantizer_settings"
            found |= dict.fromkeys(_PLACING, own)
            if "weights" in self.quantizer_settings:
                found["weights"] = "quantizer_settings sets it too, and takes precedence"
        elif self.quantizer_settings:
            found["quantizer_settings"] = "no other pass is named as quantizer"
        if self.measure and self.times:
            found["measure"] = "layer times come from the runs given in times"
        if self.try_ranges and not any(one.ranged for one in self.types()):
            found["try_ranges"] = f"dtype is '{self.dtype}', which has no ranges"
        if self.also is not None and not self.quantizer and not Precision(self.also).block:
            # it still applies to the second search
            found.pop("activation_matmul", None)
        if self.also == self.dtype:
            found["also"] = "it is the same as dtype"
        return found

    def types(self) -> set[Precision]:
        """The types of the first and of the second search."""
        return {self.precision, *([Precision(self.also)] if self.also is not None else [])}

    def reads_evaluation(self) -> bool:
        """Reads the budget, and the metric if the samples have labels."""
        return True

    def measures_engines(self) -> bool:
        """Builds engines to measure layer times, unless those come from earlier runs."""
        return self.only_if_faster or (self.measure and not self.times)

    def guards_speed(self, context: Context) -> bool:
        """As in Quantizer, unless the search optimizes the share of work in INT8."""
        return self.prefer != "int8" and super().guards_speed(context)

    def predicts_times(self) -> bool:
        """Predicts times for this machine's GPU, unless the recipe names one."""
        return not self.gpu

    def input_files(self, base: Path) -> list[Path]:
        """The reports of earlier runs."""
        given = [self.times] if isinstance(self.times, str) else self.times
        places = [base / Path(path).expanduser() for path in given]
        return [place / "report.json" if place.is_dir() else place for place in places]

    def code_named(self) -> list[str]:
        """The quantizer and the helpers that are not installed passes."""
        return [name for name in (self.quantizer, *self.helpers) if ":" in name]

    def plain(self) -> Quantizer:
        """The pass that inserts pairs on every layer that the search decides about.

        Raises:
            RecipeError: ``quantizer`` names no pass that quantizes, or its settings are wrong.
        """
        if self._quantizer is None:
            if self.quantizer:
                self._quantizer = self._named_quantizer()
            else:
                own = set(InsertQDQ.model_fields) - {"only_if_faster", "builds"} - set(InsertQDQ.unused_settings(self))
                self._quantizer = InsertQDQ(**self.model_dump(include=own) | self._measured)
        return self._quantizer

    def _named_quantizer(self) -> Quantizer:
        """The pass that ``quantizer`` names, with its settings."""
        try:
            kind = find_pass(self.quantizer, allow_code=True)
        except RecipeError as error:
            raise RecipeError(error.what, remedy=error.remedy, value=self.quantizer) from error
        made = configure_pass(kind, {"dtype": self.dtype, "weights": self.weights, **self.quantizer_settings})
        if not isinstance(made, Quantizer):
            raise RecipeError(
                f"the pass '{self.quantizer}' does not quantize",
                remedy="name a subclass of toolkit.Quantizer",
                value=self.quantizer,
            )
        if made.dtype != self.dtype:
            raise RecipeError(
                f"quantizer_settings has dtype = {made.dtype!r}, but the search has dtype = {self.dtype!r}",
                remedy="set dtype in search_precision itself",
                value="quantizer_settings",
            )
        return made

    def place(self, model: Model, facts: Facts, judge: Judge) -> Placement:
        """Places pairs as the quantizer does."""
        return self.plain().place(model, facts, judge)

    def settings_judge(self, model: Model) -> Judge:
        """A function that returns why the quantizer's settings keep a node in float, or None."""
        return self.plain().settings_judge(model)

    def insert(self, model: Model, context: Context, slow: Mapping[str, Finding] | None = None) -> None:
        """Insert pairs as the quantizer does; nodes that float16 breaks run in FP32, in timed engines too."""
        widened = self._searched.widen_kept(context) if self._searched is not None else ()
        self.plain().insert(model, context, slow)
        if self._searched is not None:
            self._searched.keep_wide(model, context, widened)

    def ranges_wanted(self, model: Model, context: Context) -> Sequence[str] | None:
        """The activations that any plan could quantize."""
        self.without_dead_nodes(model, context)
        return self.wanted(model, context) if self.prepare(model, context).activations else None

    # ---------------------------------------------------------------- the pass

    def apply(self, model: Model, context: Context) -> None:
        """Search, request float for the layers that stay in float, then insert the pairs of all others.

        Raises:
            RangesError: there is no calibration data.
            DataError: there is no data to decide on.
            RecipeError: the budget needs a metric and there is none, ``only_if_faster`` needs a GPU and there is none,
                no datasheet figures are known for ``gpu``, or every layer already has its pairs.
        """
        self.without_dead_nodes(model, context)
        self.require_profiles(context)
        # settings that cannot be satisfied are refused before the search, not after it
        if self.only_if_faster:
            require_bench(context)
        if self.gpu:
            gpu_spec(self.gpu)
        with prebuild_float(self.plain(), model, context) if self._times_engines(context) else nullcontext():
            self._search_and_insert(model, context)

    def _times_engines(self, context: Context) -> bool:
        """Whether the engine without pairs will certainly be needed."""
        decides = self.prefer == "time" or self.max_ms is not None or self.guards_speed(context)
        return self._reference is None and self.measures_engines() and decides

    def _search_and_insert(self, model: Model, context: Context) -> None:
        kept, plain = tuple[str, ...](), model
        search: PlanSearch | None = None
        self._searched = None
        self._measure_attention(model, context)
        # the second search runs on a graph with the first one's pairs
        quantizes = self.decides(model, context, paired=self._reference is not None)
        if context.dry_run:
            refuse_without_samples(self.data, context)
            context.journal.noted(Code.DRY_RUN(step="search"))
            if quantizes:
                PlanSearch.preflight(self, self._settings(), model, context)
        elif quantizes:
            if self.helpers and isinstance(context.provider, Calibrator):
                # statistics of tensors that helpers leave unchanged are reused
                context.provider.watches = True
            self.prepare(model, context)
            # from here on, layers whose inputs have no range stay in float
            context.ranges(model, self.wanted(model, context), self.precision)
        if not context.dry_run and self.placement(model, context).pairs:
            search = with_helpers(self._search(model, context), self._helpers(), model, context)
            found = search.run()
            search.take(found, model, context)
            if self.also is not None and found.best.kept:
                kept, plain = found.best.kept, model.copy()
        self._searched = search
        super().apply(model, context)
        if kept and search is not None:
            search.tell(self._try_second_type(model, plain, kept, context))

    def _measure_attention(self, model: Model, context: Context) -> None:
        """Decide by measured engines, if latency counts, whether MatMuls of two activations are searched too."""
        self._measured, self._quantizer = {}, None
        asked = self.quantizer or self.activation_matmul is not None or self._reference is not None
        if not asked and not context.dry_run and self.measures_engines() and self.guards_speed(context):
            both = self.plain().model_copy(update={"activation_matmul": True})
            if attention_pays(self.plain(), both, model, context):
                self._measured, self._quantizer = {"activation_matmul": True}, None

    def accuracy_limits(self) -> dict[str, float | None]:
        """The limits in the settings, which replace those of the recipe's budget."""
        return {key: getattr(self, key) for key in ("max_drop", "min_sqnr_db", "min_agreement", "min_unchanged")}

    def _settings(self) -> SearchSettings:
        same = set(SearchSettings.__dataclass_fields__) & set(type(self).model_fields) - {"times"}
        return SearchSettings(
            limits=self.accuracy_limits(),
            times=[self.times] if isinstance(self.times, str) else self.times,
            insist="measure" in self.model_fields_set,
            int8_only=self.also is not None,
            **{key: getattr(self, key) for key in same},
        )

    def _search(self, model: Model, context: Context) -> PlanSearch:
        name = "search" if self._reference is None else f"search_{self.dtype}"
        same = self._settings(), model, context, _in_types(context), self._reference, name, self.title()
        return PlanSearch(self.plain(), *same)

    def _helpers(self) -> dict[str, Pass]:
        """The helper passes by name, each with the search's dtype and block where it has these settings."""
        made = {}
        for name in self.helpers:
            kind = find_pass(name, allow_code=True)
            asked = {"dtype", "block"} & kind.model_fields.keys() - self.unused_settings().keys()
            made[name] = configure_pass(kind, {key: getattr(self, key) for key in asked})
        return made

    def _try_second_type(self, model: Model, plain: Model, kept: Sequence[str], context: Context) -> Finding:
        """Quantize to ``also``, in place, as many of the float layers as the budget allows; returns a note on it.

        Args:
            model: the graph with the first type's pairs.
            plain: the float graph without pairs, whose outputs remain the reference.
            kept: names of the layers that the first search kept in float.
            context: for the plan, the journal and the data.
        """
        assert self.also is not None
        before = {name: ask for name in kept if (ask := context.plan.get(name)) is not None}
        for name in before:
            context.plan.withdraw(name)
        inner = self.model_copy(
            update={
                "dtype": self.also, "also": None, "helpers": [], "only_if_faster": False, "max_ms": None,
                "include": [literal_glob(name) for name in before], "include_ops": [], "include_between": [],
                "exclude": [], "exclude_ops": [], "exclude_between": [],
            }
        )  # fmt: skip
        inner._reference, inner._quantizer = plain, None
        inner.apply(model, context)
        for name, ask in before.items():
            if context.plan.get(name) is None:
                context.plan.ask(name, ask.precision, ask.reason)
        taken = [name for name in before if (now := context.plan.get(name)) is not None and now.precision == self.also]
        found = Code.SEARCH_SECOND_TYPE(taken=taken, total=len(before), dtype=self.dtype, also=self.also)
        context.journal.noted(found)
        return found


def _in_types(context: Context) -> Lower:
    """A function that lowers a trial to the float types of the layers that are not quantized."""

    def lowered(trial: Model, plan: PrecisionPlan, ranges: Ranges | None) -> Model:
        observed = ranges.observed if ranges is not None else None
        return lower(trial, plan, rest=context.rest, observed=observed, journal=Journal()).model

    return lowered
