"""Messages on why a node is quantized or stays in float, and on Q/DQ pairs."""

from __future__ import annotations

from collections.abc import Sequence

from toolkit.base.text import count
from toolkit.contract.findings import Code
from toolkit.contract.roles import Role
from toolkit.placement.codes import PlacementCode
from toolkit.report.findings.table import Table
from toolkit.report.findings.words import every, joined, pass_for, quoted, share_percent

_NAMED = 4
_FAULTS = {
    "uint8": "a uint8 {pair}, which TensorRT does not support",
    "unsupported": "a {pair} of type {has}, which TensorRT does not support",
    "computed-zero-point": "a {pair} whose zero point is computed",
    "block-scales": "a {pair} whose block scales {has} cannot store without changing the weights",
    "unfolded-zero-point": "a {pair} whose zero point is computed from constants",
    "zero-point": "a {pair} whose zero point is not 0, which TensorRT does not support",
    "type": "an {has} {pair}, and one layer cannot mix {has} and {inserted}",
}


def _foreign_pair(tensor: str, fault: str, has: str = "", inserted: str = "", left: str = "") -> str:
    pair = "DequantizeLinear" if left else "pair"
    said = f"its input '{tensor}' has {_FAULTS[fault].format(has=has, inserted=inserted, pair=pair)}"
    if left:
        return f"{said}; {pass_for(Role.STRIP)} cannot remove it: {left}"
    return f"{said}; run {pass_for(Role.FOLD if fault == 'unfolded-zero-point' else Role.STRIP)} before"


def _shared_unlike(
    weights: tuple[str, ...], nodes: tuple[str, ...], precisions: tuple[str, ...], layers: tuple[str, ...]
) -> str:
    # name layers of each precision: the one that differs may come last
    alike = {one: [node for node, asked in zip(nodes, precisions) if asked == one] for one in precisions}
    most = max(_NAMED // len(alike), 1)
    parts = [f"{quoted(names, most)} in {precision.upper()}" for precision, names in alike.items()]
    asked = joined(parts) if len(nodes) == len(alike) else "; ".join(parts)
    many = f"{count(len(weights), 'weight')}, such as '{weights[0]}', are" if len(weights) > 1 else f"'{weights[0]}' is"
    return (
        f"{many} shared by layers with different requested precisions: {asked}. The engine keeps a copy for each, and "
        "the branches no longer round alike, as in the accuracy measured here. To keep them alike, exclude "
        f"{every(len(layers))} layers from quantization."
    )


def _computed_weights(maker: str = "", layer: str = "", left: str = "", paired: bool = False) -> str:
    if paired:
        return f"the weights of '{layer}' have a Q/DQ pair: it works on layers that have none yet"
    said = f"the weights of '{layer}' are computed" if layer else f"its weights are computed by {maker}"
    if left:
        return f"{said}, which {pass_for(Role.FOLD)} left: {left}"
    return f"{said}; run {pass_for(Role.FOLD)} right before"


def _subgraph(precision: str = "") -> str:
    if precision:
        return f"stays {precision}: it is inside a subgraph, which keeps its types"
    return "it is inside an If, Loop or Scan subgraph, whose tensors cannot be calibrated"


def _vector(tensor: str = "", rank: int = 0) -> str:
    if tensor:
        return f"its operand '{tensor}' has rank {rank} in every profile, and quantized kernels need rank 2 or more"
    return "its inputs have fewer than three dimensions"


def _quantized_source(pairs: int, halves: tuple[str, ...] = (), stripping: bool = False) -> str:
    has = [count(pairs, "Q/DQ pair")] if pairs else []
    belong = "belongs" if len(halves) == 1 else "belong"
    has += [f"{count(len(halves), 'Q or DQ node')} that {belong} to no pair ({quoted(halves)})"] if halves else []
    compared = "results are compared with this quantized model, not with a float one."
    advice = f" Add {pass_for(Role.STRIP)} to start from float." if pairs and not stripping else ""
    return f"The model {'still' if stripping else 'already'} has {' and '.join(has)}: {compared}{advice}"


def _random_source(nodes: Sequence[str], unlike: Sequence[str] = (), train: Sequence[str] = ()) -> str:
    drawn = f"The model draws new numbers in every run ({quoted(nodes)})"
    remedy = "make them an input of the model"
    if train:
        verb = "was" if len(train) == 1 else "were"
        mode = f"export the model in evaluation mode, since {quoted(train)} (Dropout) {verb} left in training mode"
        remedy = mode if len(train) == len(nodes) else f"{mode}, and make the other numbers an input of the model"
    if unlike:
        those = "" if len(unlike) == len(nodes) else f", by {quoted(unlike)}"
        return f"{drawn}, so outputs differ even without quantization{those}, and are not judged: {remedy}."
    return (
        f"{drawn}. In onnxruntime every model and sample is measured with the same ones; an engine draws its "
        f"own, so its outputs differ even without quantization, and are not judged: {remedy} to compare those."
    )


PLACEMENT: Table = {
    PlacementCode.SHARED_UNLIKE: _shared_unlike,
    Code.UNRANGED: "its input '{tensor}' has no range: {why}",
    Code.EXCLUDED: "excluded by '{pattern}'",
    Code.NOT_INCLUDED: "no include setting matches it",
    PlacementCode.LACKS_INT8: (
        "{backend} has no INT8 kernel for {op}; name it in include_ops to quantize it all the same"
    ),
    Code.KEPT: "{by} keeps it in {precision}: {why}",
    Code.NOT_FASTER: "{why}",
    Code.WEIGHTS_STORED: "its weights are stored in {precision}, {block} per scale, and it computes in float",
    Code.NO_BLOCKS_IN: "TensorRT supports {precision} weights only in MatMul and Gemm, not in {op}",
    Code.NO_WEIGHT_MATRIX: lambda precision, rank: (
        f"TensorRT supports {precision} weights where the second operand is a constant matrix; "
        + ("it is computed" if rank is None else f"it has rank {rank}")
    ),
    Code.BLOCK_DOES_NOT_DIVIDE: lambda size, block, fits: (
        f"blocks of {block} do not divide the {size} inputs that its weights sum; "
        + (f"block = {fits[0]} does" if fits else "no block size that TensorRT supports does")
    ),
    Code.IN_BLOCKS: "MatMul and Gemm have {precision} kernels, with a scale for every {block} values that are summed",
    Code.NO_BLOCKS_OF_RANK: lambda tensor, rank, precision: (
        f"TensorRT supports {precision} activations of rank 2 or 3, and the rank of '{tensor}' is "
        + ("not known" if rank is None else str(rank))
    ),
    Code.ONE_BLOCK: (
        "it sums {size} inputs, a single block of {precision}, which TensorRT-RTX 1.7.1 refuses or runs in float"
    ),
    Code.NO_BLOCKS_ACROSS: "it reads its input transposed (transA), and blocks of {precision} lie along the last axis",
    Code.BLOCKS_SCALED_ON_GPU: lambda precision, block: (
        f"The scales of {precision.upper()}'s blocks of {block} activations are computed on the GPU at inference. The "
        "accuracy here is that of the format's published arithmetic: only a run on a Blackwell GPU (compute capability "
        "10.0 or later) shows the engine's own accuracy and latency."
    ),
    Code.SCALES_QUERIES: "scales the queries before '{scores}' instead of the scores",
    Code.FUSED_ATTENTION: "TensorRT fuses quantized attention in this form",
    Code.NO_RANGE: "'{tensor}' has no range, and there is no calibration data to find one",
    Code.RANGE_OF_OTHER_TYPE: (
        "the range of '{tensor}' is for {has}, not {wanted}, and there is no calibration data to find another"
    ),
    Code.SUBGRAPH: _subgraph,
    Code.MALFORMED: "it has fewer than two inputs",
    Code.FOREIGN_PAIR: _foreign_pair,
    Code.NOT_FLOAT: lambda tensor, has="": (
        f"its input '{tensor}' is {has or 'of another type'}, not float32, float16 or bfloat16"
        + (": export the model in float32" if has == "double" else "")
    ),
    Code.BOTH_CONSTANT: lambda: f"both operands are constants; run {pass_for(Role.FOLD)} to remove it",
    Code.COMPUTED_WEIGHTS: _computed_weights,
    PlacementCode.UNPAIRED: lambda tensors: f"reads {quoted(tensors)} unquantized",
    PlacementCode.BORDER_WRITTEN: (
        "TensorRT does not support the half of a Q/DQ pair at '{tensor}', on the border of the model; float operators "
        "compute the same"
    ),
    PlacementCode.BESIDE_FLOAT: "its pair is useful only between quantized layers, and one of them is float now",
    PlacementCode.WEIGHT_CLAMPED: lambda weight, share: (
        f"The Q/DQ pair of weight '{weight}' clips {share_percent(share)} of its values. In float the weight is "
        "clamped to the pair's range, as the quantized model uses it. If that was quantized after training, start from "
        "its float model instead, which computes with the whole range."
    ),
    PlacementCode.RUN_TIME_WEIGHTS: "its weights are computed at run time",
    Code.ACTIVATION_MATMUL: (
        "both operands are activations: quantized scores cost accuracy; activation_matmul = true quantizes it"
    ),
    Code.VECTOR: _vector,
    Code.EMPTY: "its weight '{tensor}' has no elements",
    Code.NOT_FINITE: "its weight '{tensor}' contains NaN or infinity",
    Code.SUM_OF_MANY: "it adds {branches} branches; TensorRT fuses an Add of two",
    Code.BROADCAST: "its branches differ in shape in some profile, so TensorRT does not fuse it",
    Code.UNLIKE_BRANCHES: "its input '{tensor}' does not come from a quantized layer",
    Code.ONE_SIDED: "its output is not quantized for every reader, and a quantized pool needs both sides quantized",
    Code.HAS_KERNELS: "{op} has quantized kernels",
    Code.OPERAND: lambda weight, op, node: f"{'weight' if weight else 'input'} of {op} '{node}'",
    Code.SUM_STAYS_FLOAT: "no quantized layer reads its sum, and a pair on one branch would only cost time",
    Code.RESIDUAL_BRANCH: (
        "residual branch of '{node}': TensorRT fuses the Add into '{into}' only if this branch is quantized"
    ),
    Code.SUM_OPERAND: (
        "branch of '{node}': TensorRT does not fuse an Add after the activation of '{behind}', and runs it quantized "
        "if both branches are"
    ),
    Code.STREAM_BRANCH: (
        "branch of '{node}': quantized, '{behind}' writes and the Add and normalization read a quarter of the bytes"
    ),
    Code.PATCHES: lambda channels, padded: (
        f"no quantized layer reads its output, and quantized kernels take its {count(channels, 'input channel')} "
        f"as {padded}"
    ),
    Code.CONCAT_INPUT: "input of Concat '{node}', whose inputs share one scale so that it runs quantized",
    Code.POOL_INPUT: "input of {op} '{node}', whose output is quantized too",
    Code.SHARED_POOL_INPUT: "input of {op} '{node}', which then needs no separate quantize kernel ({shared})",
    Code.READS_PAIR: "input {input} '{tensor}' now reads a Q/DQ pair",
    Code.COMPLETE: "already has its Q/DQ pairs; their scales are kept",
    Code.UNLIKE_SCALES: lambda tensors: (
        f"The Q/DQ pairs on {quoted(tensors)} already exist with different scales, so a node joining them requantizes."
    ),
    Code.DEAD: "tensor '{tensor}' has the range 0, as it was zero throughout; its scale is that of amax 1",
    Code.DEAD_NODES: lambda nodes: f"{count(len(nodes), 'unused node')} removed: {quoted(nodes)}.",
    Code.OPSET: lambda to, added, was=None, needed_by="float16 scales": (
        f"Opset raised {f'from {was} to {to}, which {needed_by} need' if was is not None else f'to {to}'}"
        + (f"; the conversion added {count(added, 'node')}." if added else ".")
    ),
    Code.QUANTIZED_SOURCE: _quantized_source,
    Code.RANDOM_SOURCE: _random_source,
    Code.FLOAT_BIAS: "its constant, stored quantized, was converted to float",
    Code.NO_QUANTIZED_BIAS: "TensorRT supports no quantized biases and no quantized scalars",
}
