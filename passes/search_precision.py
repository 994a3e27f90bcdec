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
"""Settings that say where insert_qdq puts pairs."""


class _HelperName:
    """The name of a pass that helps quantization, in the settings' JSON schema."""

    def __get_pydantic_json_schema__(self, core: Any, handler: Any) -> dict[str, Any]:
        return {**handler(core), "enum": [name for name, _ in passes_with_role(Role.HELP)]}


class SearchPrecision(InsertQDQ):
    """Quantize like insert_qdq, but keep in float the layers that the accuracy budget does not allow to quantize.

    Use it instead of insert_qdq; it takes the same settings. The budget is the recipe's [evaluation] budget unless
    one is given here. It decides on calibration samples, so that the test data stay unseen. To search with another
    quantizing pass, name it as ``quantizer``.

    If a run has a GPU and TensorRT, an engine with every layer quantized and one with none are built first: their layer
    times show which plan is fast, and the chosen plan's engine is measured along with theirs.
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
        description="safety against other samples: dB of SQNR, and as far as batches differ; standard errors of "
        "shares and of a metric's drop; with one, answers that nearly change count too",
    )  # fmt: skip
    max_ms: float | None = Field(None, gt=0, le=1e9, description="largest predicted latency in milliseconds")
    keep: Literal["fp16", "bf16", "fp32"] | None = Field(None, description="precision of kept layers; default: rest")
    prefer: Literal["auto", "int8", "time"] = Field(
        "auto", description="what makes a plan good: much in INT8, or a short time; auto: time where it was measured"
    )
    times: str | list[str] = Field(
        [], description="report.json or run folder of earlier runs: their measured layer times replace predictions"
    )
    measure: bool = Field(
        True, description="build engines for layer times where a recipe's run can, and where times decide or limit"
    )
    gpu: str = Field(
        "", description="the GPU that times are predicted for, from datasheet figures; default: the one here, or A10"
    )
    data: Literal["calibration", "evaluation"] = Field("calibration", description="the samples to decide on")
    samples: int | None = Field(
        256, gt=0, le=1_000_000,
        description="decide on at most this many samples; without inferences on fewer where they take long",
    )  # fmt: skip
    batch: int = Field(32, gt=0, le=1_000_000, description="samples to run at once")
    evaluations: int | None = Field(
        None, gt=0, le=1_000_000, description="plans to evaluate at most; default 8 log2(groups) + 16"
    )
    inferences: float | None = Field(
        None, gt=0, le=1e9,
        description="what the search may cost, in float inferences of its samples; default 20, three times as "
        "much where these find little, and more where it takes a few seconds alone",
    )  # fmt: skip
    minutes: float | None = Field(
        None, gt=0, le=1e9,
        description="how long the search may take; default without inferences 3, and 6 where 3 find little",
    )  # fmt: skip
    memory: ByteSize = Field("1GB", description="for cached activations and loaded weights, half each")
    try_ranges: bool = Field(True, description="try the ranges of other calibration methods before giving a layer up")
    helpers: list[Annotated[str, _HelperName()]] = Field(
        [], description="passes to try where INT8 everywhere misses the budget; kept if they help"
    )
    threads: int | None = Field(None, gt=0, le=1024, description="batches computed at once; default one per core")
    also: Literal["fp8", "int8", "mxfp8"] | None = Field(
        None, description="a type to try for layers that dtype damages, before they stay in float"
    )
    quantizer: str = Field("", description="another pass that quantizes, to search with instead of insert_qdq")
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

    # ---------------------------------------------------------------- what a run asks

    def unused_settings(self) -> dict[str, str]:
        """As of insert_qdq; and those without effect alongside another quantizer, earlier runs or the type."""
        found = super().unused_settings()
        if self.quantizer:
            own = f"it is a setting of insert_qdq: give {self.quantizer} its own in quantizer_settings"
            found |= dict.fromkeys(_PLACING, own)
            if "weights" in self.quantizer_settings:
                found["weights"] = "quantizer_settings set it too, and override it"
        elif self.quantizer_settings:
            found["quantizer_settings"] = "they belong to another pass, to be named by quantizer"
        if self.measure and self.times:
            found["measure"] = "layer times come from the runs that times names"
        if self.try_ranges and not any(one.ranged for one in self.types()):
            found["try_ranges"] = f"dtype is '{self.dtype}', which has no ranges"
        if self.also is not None and not self.quantizer and not Precision(self.also).block:
            # the second search places its pairs by it
            found.pop("activation_matmul", None)
        if self.also == self.dtype:
            found["also"] = "it is dtype itself"
        return found

    def types(self) -> set[Precision]:
        """The type of the first search and that of the second."""
        return {self.precision, *([Precision(self.also)] if self.also is not None else [])}

    def reads_evaluation(self) -> bool:
        """The budget is read, and the metric where the samples have labels."""
        return True

    def measures_engines(self) -> bool:
        """Engines are built for layer times, unless these come from earlier runs."""
        return self.only_if_faster or (self.measure and not self.times)

    def guards_speed(self, context: Context) -> bool:
        """As of Quantizer, but not if the search prefers plans with much in INT8."""
        return self.prefer != "int8" and super().guards_speed(context)

    def predicts_times(self) -> bool:
        """Times are predicted for this machine's GPU, unless the recipe names one."""
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
        """The pass that inserts pairs on every layer that the search may decide on.

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
                f"quantizer_settings say dtype = {made.dtype!r}, and the search dtype = {self.dtype!r}",
                remedy="set dtype in search_precision itself",
                value="quantizer_settings",
            )
        return made

    def place(self, model: Model, facts: Facts, judge: Judge) -> Placement:
        """Where the quantizer puts pairs."""
        return self.plain().place(model, facts, judge)

    def settings_judge(self, model: Model) -> Judge:
        """What the quantizer's settings keep in float."""
        return self.plain().settings_judge(model)

    def insert(self, model: Model, context: Context, slow: Mapping[str, Finding] | None = None) -> None:
        """Insert pairs as the quantizer does; what float16 breaks then runs in FP32, in timed engines too."""
        widened = self._searched.widen_kept(context) if self._searched is not None else ()
        self.plain().insert(model, context, slow)
        if self._searched is not None:
            self._searched.keep_wide(model, context, widened)

    def ranges_wanted(self, model: Model, context: Context) -> Sequence[str] | None:
        """The activations that any plan could quantize; of the first helper pass, where there are helpers."""
        self.without_dead_nodes(model, context)
        return self.wanted(model, context) if self.prepare(model, context).activations else None

    # ---------------------------------------------------------------- the pass

    def apply(self, model: Model, context: Context) -> None:
        """Search, write the layers that stay in float into the plan, then insert the pairs of the rest.

        Raises:
            RangesError: there is no calibration data.
            DataError: there is no data to decide on.
            RecipeError: the budget needs a metric and there is none, ``only_if_faster`` needs a GPU and there is none,
                no datasheet figures are known for ``gpu``, or every layer already has its pairs.
        """
        self.without_dead_nodes(model, context)
        self.require_profiles(context)
        # what cannot be measured or predicted is refused before the search, not after it
        if self.only_if_faster:
            require_bench(context)
        if self.gpu:
            gpu_spec(self.gpu)
        with prebuild_float(self.plain(), model, context) if self._times_engines(context) else nullcontext():
            self._search_and_insert(model, context)

    def _times_engines(self, context: Context) -> bool:
        """Whether the engine without pairs is surely asked for."""
        decides = self.prefer == "time" or self.max_ms is not None or self.guards_speed(context)
        return self._reference is None and self.measures_engines() and decides

    def _search_and_insert(self, model: Model, context: Context) -> None:
        kept, plain = tuple[str, ...](), model
        search: PlanSearch | None = None
        self._searched = None
        self._measure_attention(model, context)
        # a second type finds the first one's pairs
        quantizes = self.decides(model, context, paired=self._reference is not None)
        if context.dry_run:
            refuse_without_samples(self.data, context)
            context.journal.noted(Code.DRY_RUN(step="search"))
            if quantizes:
                PlanSearch.preflight(self, self._settings(), model, context)
        elif quantizes:
            if self.helpers and isinstance(context.provider, Calibrator):
                # what helpers leave as it is holds for their forms too
                context.provider.watches = True
            self.prepare(model, context)
            # what has no range stays in float from here on
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
        """Have engines say whether products of attention are searched too, where they are measured and time counts."""
        self._measured, self._quantizer = {}, None
        asked = self.quantizer or self.activation_matmul is not None or self._reference is not None
        if not asked and not context.dry_run and self.measures_engines() and self.guards_speed(context):
            both = self.plain().model_copy(update={"activation_matmul": True})
            if attention_pays(self.plain(), both, model, context):
                self._measured, self._quantizer = {"activation_matmul": True}, None

    def accuracy_limits(self) -> dict[str, float | None]:
        """The limits that its settings give, in place of those of the recipe's budget."""
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
        """Quantize to ``also`` as many layers kept in float as the budget allows, in place; what came of it.

        Args:
            model: the graph with the first type's pairs.
            plain: the float graph before them: outputs are still compared with its.
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
    """Lowers a trial to the float type of the layers that are not quantized."""

    def lowered(trial: Model, plan: PrecisionPlan, ranges: Ranges | None) -> Model:
        observed = ranges.observed if ranges is not None else None
        return lower(trial, plan, rest=context.rest, observed=observed, journal=Journal()).model

    return lowered
