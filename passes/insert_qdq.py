"""Insert Q/DQ pairs where TensorRT fuses them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import onnx_graphsurgeon as gs
from pydantic import Field, NonNegativeFloat

from toolkit.base.errors import RangesError
from toolkit.base.precision import FLOATS, Precision
from toolkit.contract.passes import Context, Pass
from toolkit.graph.model import Model
from toolkit.graph.select import choose
from toolkit.placement.ops import TARGETS
from toolkit.placement.pairs import Pair, Placement
from toolkit.placement.place import Judge, place
from toolkit.placement.qdq import Inserter, storable_scale
from toolkit.placement.scales import share_amax

if TYPE_CHECKING:
    from toolkit.backends.payoff_trials import Candidate
    from toolkit.backends.prepare import Bench
    from toolkit.contract.plan import PrecisionPlan


class InsertQDQ(Pass):
    """Quantize Conv, ConvTranspose, Gemm and MatMul by Q/DQ pairs placed where TensorRT fuses them.

    Activations get one scale a tensor from calibration, weights one a channel. Residual branches, pools and Concats
    get the pairs that keep their blocks in the quantized type. Pairs that the model has keep their scales.

    With ``only_if_faster`` engines with more and fewer pairs are built and measured, and the pairs that do not pay are
    given back: all of them, where no engine with pairs is faster. Make it the last pass then, for what later passes do
    is not in what was measured.
    """

    name = "insert_qdq"
    dtype: Literal["int8", "fp8"] = Field("int8", description="the quantized type")
    include: list[str] = Field([], description="names or globs of nodes to quantize; empty: all candidates")
    include_ops: list[str] = Field([], description="operators to quantize; empty: Conv, ConvTranspose, Gemm, MatMul")
    include_between: list[tuple[str, str]] = Field([], description="quantize the nodes between two tensors")
    exclude: list[str] = Field([], description="names or globs of nodes to leave alone")
    exclude_ops: list[str] = Field([], description="operators to leave alone")
    exclude_between: list[tuple[str, str]] = Field([], description="leave alone the nodes between two tensors")
    activation_matmul: bool = Field(False, description="also quantize MatMuls of two activations (attention scores)")
    weights: Literal["minmax", "mse"] = Field("minmax", description="how the range of a weight channel is chosen")
    only_if_faster: bool = Field(False, description="measure engines, and give back the pairs that do not pay")
    builds: int = Field(10, ge=2, description="only_if_faster: engines to build at most")
    profile_weights: dict[str, NonNegativeFloat] = Field(
        {}, description="only_if_faster: what the latency of a profile counts for; 1 where not named"
    )

    def apply(self, model: Model, context: Context) -> None:
        """Place and insert the pairs; what is left alone is declined with its rule.

        Raises:
            RecipeError: a pattern matches nothing, or ``only_if_faster`` where nothing can be measured.
            RangesError: a range is needed and there is no calibration data.
            BackendError: ``only_if_faster``, and the engine without pairs cannot be built.
        """
        self.without_dead_nodes(model, context)
        slow: dict[str, str] = {}
        bench = self.bench(context)
        if bench is not None and context.services.get("dry_run"):
            context.journal.noted("a run would measure engines and give back the pairs that do not pay", rule="dry-run")
        elif bench is not None:
            slow = self._not_faster(model, context, bench)
        self._insert(model, context, slow)

    def without_dead_nodes(self, model: Model, context: Context) -> None:
        """Drop the nodes that no output needs: nothing is to be decided or measured for them."""
        before = set(model.node_names())
        model.tidy()
        gone = sorted(before - set(model.node_names()))
        if gone:
            some = ", ".join(f"'{name}'" for name in gone[:3])
            context.journal.noted(f"{len(gone)} nodes that no output needs were removed: {some}", rule="dead-nodes")

    def bench(self, context: Context) -> Bench | None:
        """Where ``only_if_faster`` measures; None where it is not asked for.

        Raises:
            RecipeError: nothing can be measured here.
        """
        if not self.only_if_faster:
            return None
        from toolkit.backends.payoff_trials import measurable
        from toolkit.backends.prepare import Bench

        bench = Bench.of(context)
        measurable(bench, context)
        return bench

    def _not_faster(self, model: Model, context: Context, bench: Bench) -> dict[str, str]:
        """The nodes whose pairs do not pay, each with the reason."""
        from toolkit.backends.payoff_trials import log_fingerprint, not_faster, units_of
        from toolkit.base.log import Log

        placement = self.placement(model, context)
        if not units_of(model, placement):
            return {}
        fresh = self.raise_opset(model, placement)
        if fresh:
            context.journal.noted(f"the opset was raised to {model.opset}; {len(fresh)} nodes are new", rule="opset")
            placement = self.placement(model, context)
        units = units_of(model, placement)
        if placement.activations:
            # here, so that all trials and the run itself share them
            bench = replace(bench, ranges=context.ranges(model, placement.activations))

        pipeline = context.services.get("pipeline")
        folder: Path | None = pipeline.folder.hidden if pipeline is not None else context.services.get("folder")
        log = Log(folder / f"{self.title()}.faster.jsonl" if folder is not None else None, log_fingerprint(bench))
        return not_faster(
            self.candidate(model, context), units, bench, context, words=(self.dtype, str(context.rest)),
            builds=self.builds, weights=self.profile_weights, log=log,
        )  # fmt: skip

    def candidate(self, model: Model, context: Context) -> Candidate:
        """Makes the model and plan with all pairs but those of the nodes named; neither argument is changed."""

        def make(slow: Mapping[str, str]) -> tuple[Model, PrecisionPlan]:
            trial = model.copy()
            apart = Context(profiles=context.profiles, rest=context.rest, provider=context.provider,
                            known_ranges=context.known_ranges, plan=context.plan.copy(),
                            services=dict(context.services))  # fmt: skip
            self._insert(trial, apart, slow)
            return trial, apart.plan

        return make

    def _insert(self, model: Model, context: Context, slow: Mapping[str, str]) -> None:
        """Place and insert the pairs of all but the ``slow`` nodes, which stay float for the reasons given."""
        precision = Precision(self.dtype)
        placement = self.placement(model, context, slow)
        for refusal in placement.refusals:
            context.journal.declined(refusal.node, refusal.reason, rule=refusal.rule)
        fresh = self.raise_opset(model, placement)
        if fresh:
            context.journal.noted(f"the opset was raised to {model.opset}; {len(fresh)} nodes are new", rule="opset")
            placement = self.placement(model, context, slow)
        activations = placement.activations
        ranges = context.ranges(model, activations) if activations else None
        amax = {name: ranges.amax(name) for name in activations} if ranges is not None else {}
        for note in share_amax(model, placement, amax, precision):
            context.journal.noted(note, rule="unlike-scales")
        inserter = Inserter(model, precision)
        for pair in placement.pairs.values():
            if pair.weight:
                values = model.constant(inserter.tensors[pair.tensor])
                assert values is not None
                scale = storable_scale(self._weight_amax(values, pair.axis, precision), precision)
            else:
                scale = self._activation_scale(pair, amax, precision, context)
            inserter.insert(pair, scale)
            for use in pair.uses:
                context.journal.changed(use.node, f"input {use.index} '{pair.tensor}' reads a Q/DQ pair", pair.reason)
        model.tidy()
        for node, reason in placement.layers.items():
            context.plan.ask(node, precision, reason)
        for node, reason in slow.items():
            context.plan.ask(node, context.rest, reason, free=True)
        for node in placement.complete:
            context.journal.noted("it has its pairs already; their scales are kept", node=node, rule="complete")

    def placement(self, model: Model, context: Context, slow: Mapping[str, str] | None = None) -> Placement:
        """Where the pairs would go under these settings and the plan so far; changes nothing.

        ``slow`` names nodes that stay float because quantizing them does not pay, each with the reason.
        """
        return place(
            model,
            model.facts(context.profiles),
            self.judge(model, context, slow),
            self.activation_matmul,
            Precision(self.dtype),
        )

    def judge(self, model: Model, context: Context, slow: Mapping[str, str] | None = None) -> Judge:
        """Says for a node why these settings or the plan so far keep it float: (rule, reason), or None."""
        chosen = choose(model, self.include, self.include_ops, self.include_between, "include")
        left = choose(model, self.exclude, self.exclude_ops, self.exclude_between, "exclude")
        limited = bool(self.include or self.include_ops or self.include_between)

        def judge(node: gs.Node) -> tuple[str, str] | None:
            if node.name in left:
                return "excluded", f"excluded by '{left[node.name]}'"
            if limited and node.op in TARGETS and node.name not in chosen:
                return "not-included", "no include setting names it"
            if slow and node.name in slow:
                return "not-faster", slow[node.name]
            ask = context.plan.get(node.name)
            if ask is not None and ask.precision in FLOATS:
                return "kept", f"{ask.by} keeps it in {ask.precision}: {ask.reason}"
            return None

        return judge

    def raise_opset(self, model: Model, placement: Placement) -> list[str]:
        """Bring the model to the opset that its pairs need; names of nodes that the conversion made anew."""
        eight = Precision(self.dtype) is Precision.FP8
        return model.raise_opset(19 if eight or self._half(placement, model) else 13)

    def _half(self, placement: Placement, model: Model) -> bool:
        tensors = model.graph.tensors()
        return any(tensors[p.tensor].dtype == np.float16 for p in placement.pairs.values() if p.tensor in tensors)

    def _weight_amax(self, values: np.ndarray, axis: int | None, precision: Precision) -> np.ndarray:
        from toolkit.calibration.weights import weight_amax

        return weight_amax(values, axis, self.weights, precision)

    def _activation_scale(
        self, pair: Pair, amax: dict[str, float], precision: Precision, context: Context
    ) -> np.ndarray:
        value = amax[pair.tensor]
        if not np.isfinite(value):
            raise RangesError(f"the range of tensor '{pair.tensor}' is {value}", remedy="calibrate again")
        if value == 0:
            context.journal.noted(
                f"tensor '{pair.tensor}' was zero in every sample; it gets the scale of amax 1",
                pair.uses[0].node,
                "dead",
            )
        return storable_scale(value, precision)
