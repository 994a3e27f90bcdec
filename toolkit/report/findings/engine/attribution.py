"""Messages on a node's actual precision, and why it is not the requested one."""

from __future__ import annotations

from toolkit.backends.codes import EngineCode
from toolkit.report.findings.table import Table
from toolkit.report.findings.words import joined, quoted, shortened

_ORDINALS = ("first", "second", "third", "fourth")
_KERNEL_LETTERS = 60


def _kernel(name: str) -> str:
    return f" (kernel {name[:_KERNEL_LETTERS]})" if name else ""


def _inputs(indices: tuple[int, ...], inputs: tuple[str, ...]) -> str:
    ordinals = [_ORDINALS[i] if i < len(_ORDINALS) else f"{i + 1}th" for i in indices]
    places = joined(f"its {ordinal} input '{name}'" for ordinal, name in zip(ordinals, inputs))
    return f"{places} {'is' if len(inputs) == 1 else 'are'} not quantized"


def _inputs_quantized(by: tuple[str, ...]) -> str:
    return "all its inputs are quantized" + (f" by {quoted(by, len(by))}" if by else "")


def _output(op: str, reader: str) -> str:
    why = f"'{reader}' reads it as float" if reader else "it is an output of the model"
    return f"its inputs are quantized but its output is not ({why}), and {op} needs both"


def _not_applicable(asked: str, why: str, into: str | None = None) -> str:
    return f"{into}; {why}, so {asked} does not apply" if into else f"{why}, so {asked} does not apply"


def _dequantized_in(nodes: tuple[str, ...], other: str) -> str:
    also = f"; '{other}' reads the float values" if other else ""
    verb = "reads" if len(nodes) == 1 else "read"
    return f"part of {quoted(nodes, 2)}, which {verb} the quantized values{also}"


def _for_float(nodes: tuple[str, ...]) -> str:
    return f"dequantizes for {quoted(nodes, 2)}, which {'computes' if len(nodes) == 1 else 'compute'} in float"


def _layer_reads(layer: str, types: tuple[str, ...], kernel: str) -> str:
    return f"its layer '{layer}' reads {', '.join(types) or 'that type'}{_kernel(kernel)}"


def _in_block(
    block: str, reads: tuple[str, ...], writes: tuple[str, ...], asked: str | None, why: str | None = None
) -> str:
    shown = f"reads {', '.join(reads) or 'nothing'} and writes {', '.join(writes) or 'nothing'}"
    request = f"; {asked} was requested" if asked else ""
    return f"inside the block '{shortened(block)}', which {shown} but shows no kernels{request}" + (
        f": {why}" if why else ""
    )


def _profiles(runs: tuple[str, ...], profiles: tuple[str, ...], why: str | None = None) -> str:
    each = ", ".join(f"{ran} in profile '{name}'" for ran, name in zip(runs, profiles))
    return f"{why}; {each}" if why else each


FROM_PAIRS: Table = {
    EngineCode.NO_QUANTIZED_KERNEL: "{op} has no quantized kernel",
    EngineCode.FEEDS_RECURRENT: (
        "its result goes to '{node}', which runs in fp32, and TensorRT-RTX fails to build a Cast to fp32 directly "
        "before a recurrent layer"
    ),
    EngineCode.IN_SUBGRAPH: "it is inside a subgraph, which keeps its types",
    EngineCode.SUM_WITH_ZERO: "it adds 0 to values widened to fp32",
    EngineCode.BECOMES_SIZE: (
        "'{reader}' computes the size of its output from its result, which a 16-bit float would round"
    ),
    EngineCode.SEQUENCE_LENGTHS: (
        "TensorRT's parser fills what lies beyond the lengths of the {op} ('{lengths}') with float32 zeros, and "
        "refuses it in another type"
    ),
    EngineCode.NO_INPUT_QUANTIZED: "none of its inputs is quantized",
    EngineCode.WEIGHTS_STORED: "its weights are stored in {precision}, and it computes in float",
    EngineCode.ONLY_WEIGHTS_QUANTIZED: "only its weights are quantized, its input '{input}' is not",
    EngineCode.WEIGHTS_NOT_QUANTIZED: "its weights '{weights}' are not quantized",
    EngineCode.INPUTS_NOT_QUANTIZED: _inputs,
    EngineCode.INPUT_TYPES_DIFFER: lambda types: f"its inputs are quantized to different types: {joined(types)}",
    EngineCode.TYPE_WITHOUT_KERNELS: "its inputs are quantized to {type}, for which TensorRT has no kernels",
    EngineCode.INPUTS_QUANTIZED: _inputs_quantized,
    EngineCode.OUTPUT_NOT_QUANTIZED: _output,
    EngineCode.ADDED_IN_CONVOLUTION: "the addition runs in the kernel of '{node}', whose other branch is quantized",
    EngineCode.MOVES_FLOAT: "{op} only moves values, and its input is not quantized",
    EngineCode.MOVES_QUANTIZED: "it moves the quantized values of '{node}'",
    EngineCode.READERS_NOT_QUANTIZED: "not every reader of its output is quantized",
    EngineCode.PAIRS_KEPT: "the model has its own Q/DQ pairs there, and no pass removed them: {why}",
    EngineCode.KERNEL_READS_FLOAT: lambda promised, types: f"{promised}, but the engine's kernel reads {joined(types)}",
}

FROM_ENGINE: Table = {
    EngineCode.NOT_BUILT: "no engine was built",
    EngineCode.LAYERS_NOT_KNOWN: "the engine's layers are not known",
    EngineCode.NOT_IN_RECORD: "the engine's record does not mention this node",
    EngineCode.RUNS_IN: "runs in {precision}: {why}",
    EngineCode.PRECISION_NOT_APPLICABLE: _not_applicable,
    EngineCode.INPUTS_QUANTIZED_TO: "its inputs are quantized to {precision}",
    EngineCode.CAST_TO: "the model's Cast is to {precision}",
    EngineCode.INPUT_IS: "its input '{input}' is {precision} in the final graph",
    EngineCode.OUTPUT_IS: "its output is {precision} in the final graph",
    EngineCode.COMPUTES_NO_FLOATS: "it computes no floats",
    EngineCode.COMPUTES_TYPES: lambda types: f"it computes {joined(types)}",
    EngineCode.SEE_BRANCHES: "see the nodes of its branches",
    EngineCode.PARSER_CASTS: "TensorRT's parser computes {op} in {precision} and casts the result to {result}",
    EngineCode.PAIR_TYPE: lambda op, precision: f"it {op.removesuffix('Linear').lower()}s to {precision}",
    EngineCode.DEQUANTIZED_IN: _dequantized_in,
    EngineCode.DEQUANTIZES_FOR_FLOAT: _for_float,
    EngineCode.DEQUANTIZES_OUTPUT: "dequantizes an output of the model",
    EngineCode.CONSTANT_QUANTIZED: lambda nodes: (
        f"its constant input is quantized at build time for {quoted(nodes, 2)}"
    ),
    EngineCode.RESCALES: "changes the scale of values that are already quantized",
    EngineCode.QUANTIZED_IN: "part of '{node}', which writes quantized values",
    EngineCode.QUANTIZES_FLOAT: "quantizes the output of '{node}', which computes in float",
    EngineCode.QUANTIZES_INPUT: "quantizes '{tensor}', an input of the model",
    EngineCode.CONSTANT: "a constant, part of the layers that read it",
    EngineCode.IDENTITY: "its output is its input",
    EngineCode.FOLDED_BY_PARSER: "computed from constants; the parser folds it",
    EngineCode.SHAPES_FOLDED_BY_PARSER: "shape arithmetic; the parser folds it",
    EngineCode.UNREAD: "nothing reads its outputs",
    EngineCode.NOT_IN_NETWORK: "no layer of the network names it or produces its outputs",
    EngineCode.DONE_WHILE_BUILDING: "done at build time",
    EngineCode.COMPUTED_WHILE_BUILDING: "computed at build time",
    EngineCode.TYPE_NOT_SHOWN: "the inspector does not show what '{layer}' runs in",
    EngineCode.IN_KERNEL_OF: "runs in the kernel of '{node}'",
    EngineCode.PART_OF_KERNEL: "it is part of '{layer}', the kernel of '{node}'",
    EngineCode.PART_OF_LAYER: "part of '{layer}'",
    EngineCode.OWN_KERNEL: "runs as a kernel of its own: it fused with no other layer",
    EngineCode.FLOAT_KERNEL_TAKEN: lambda promised, precision, kernel: (
        f"{promised}, but TensorRT chose a kernel that reads {precision}{_kernel(kernel)}"
    ),
    EngineCode.FASTEST_KERNEL_TAKEN: lambda kernel: (
        f"with implicit quantization TensorRT takes the kernel that it measures to be fastest{_kernel(kernel)}"
    ),
    EngineCode.CONSTRAINT_NOT_KEPT: lambda kernel: (
        f"precision constraints are only preferred, and TensorRT chose another kernel{_kernel(kernel)}"
    ),
    EngineCode.LAYER_READS: _layer_reads,
    EngineCode.IN_BLOCK: _in_block,
    EngineCode.SHAPES_OUTSIDE_LAYERS: "shape arithmetic, done outside the engine's layers",
    EngineCode.NOT_IN_ENGINE: "no layer of the engine names it, its tensors or its neighbours",
    EngineCode.PROFILES_DIFFER: _profiles,
}
