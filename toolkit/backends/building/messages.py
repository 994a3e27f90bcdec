"""TensorRT's messages: collected during a build, and converted to an error with a remedy."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from toolkit.backends.processes.channel import Channel
from toolkit.base.errors import BackendError
from toolkit.base.text import on_one_line

_NODE = (
    r"Node name:\s*(?P<node>[^\n]+)",
    r'name: "(?P<node>[^"]+)"\s*(?:op_type|domain)',
    r"(?:In node \d+ with name: )(?P<node>.+?) and operator",
    r"Invalid Node - (?P<node>[^\n]+)",
    r"Cannot compile operation '(?P<node>[^']+)'",
    r"Could not find any implementation for node (?P<node>.+?)(?: due to|\.(?:\s|$))",
    r"Assertion \S+ failed\. (?P<node>.+?) has no runners that implement it",
)
_PARSING = re.compile(r"While parsing node number \d+ \[(?P<op>\w+)")
_AT_INPUT = re.compile(r"(?:\w+\.cpp:\d+: )?ERROR: (?P<name>.+):\d+ In function importInput:\s*\[\d+\]\s*")
"""A parser error about one of the model's inputs; its name is where the file name is in errors about nodes."""
_BEGUN = re.compile(r"(?:Static check for p|P)arsing node: (?P<node>.*) \[(?P<op>\w+)\]$")
"""The parser's verbose message before it parses a node; some errors do not name the node."""
IN_THE_LOG = "see TensorRT's messages in build.log in the run folder"
_UNKNOWN = "look TensorRT's message up in its documentation, or replace the node in the model"
_UNSUPPORTED = "this operator is not supported: replace it in the model with supported ones"
_REMEDIES = (
    (r"[Oo]ut of memory|OutOfMemory|insufficient memory|requested size",
     "free GPU memory: close other programs, lower [engine] workspace_mb, or use smaller profile maxima"),
    (r"In function importInput:[^\0]*convertDtype",
     "TensorRT does not support this type: give the input another type in the model (int32, int64, uint8, bool or a "
     "float type) and cast it there"),
    (r"(?:No importer registered|[Pp]lugin)[^\0]*TRT_(?:FP4|MXFP8)",
     "this release is too old: NVFP4 needs TensorRT 10.8, MXFP8 10.12; use a newer one, or quantize to fp8"),
    (r"No importer registered|In function check\w+:\s*\[\d+\] false|UNSUPPORTED_NODE|UNSUPPORTED_GRAPH"
     r"|unsupported operator|PluginCreator could not find"
     r"|Plugin not found|plugin creator version \S+ was not found",
     _UNSUPPORTED),
    (r"[Uu]nsupported reduction type|with reduction is not supported",
     "replace a scattered sum with a MatMul with a matrix of ones, [nodes, edges]; other reductions must be computed "
     "outside the engine"),
    (r"has type UInt8 but must have type|type U[Ii]nt8 is not supported",
     "TensorRT supports uint8 only as the type of the model's inputs and outputs: put a Cast to float before this "
     "node, right after the input, and one back to uint8 right before the output"),
    (r"has type \w+ but must have type",
     "TensorRT requires another type here: put a Cast before this node, and one after it if others read its result"),
    (r"training_mode == 1 in BatchNormalization",
     "export the model for inference (torch: model.eval(), training=TrainingMode.EVAL), with its stored means and "
     "variances; if batch statistics are needed, compute them explicitly (ReduceMean, Sub, Mul, Sqrt, Div)"),
    (r"Attention nodes with one output",
     "TensorRT's Attention does not support past keys and values: put a Concat of the past and the new ones before it, "
     "use its outputs as the present ones, and leave the past inputs of the node empty"),
    (r"Q, K, and V inputs must have the same number of dimensions",
     "if this Attention is of the domain com.microsoft, it is onnxruntime's own, which TensorRT takes for ONNX's: give "
     "the model as it was before onnxruntime's optimizer; ONNX's needs Q, K and V of one rank"),
    (r"indices \([^\0]*must be less than or equal to the extent of data",
     "TensorRT scatters at most as many values along an axis as the data has elements: sum them with a MatMul with a "
     "matrix of ones, [nodes, edges], instead"),
    (r"keep_aspect_ratio_policy",
     "TensorRT's Resize only stretches: compute the sizes that keep the aspect ratio in the model (Shape, Div, Mul) "
     "or resize the images before they are given to it, and remove the attribute"),
    (r"Antialiasing is not supported",
     "export the Resize without antialias (torch: antialias=False), which changes its values; to keep them, resize the "
     "images before they are given to the model, or average with a depthwise convolution before the Resize"),
    (r"TensorRT only supports half_pixel",
     "export the Resize with one of these coordinate_transformation_mode; one that crops (tf_crop_and_resize) becomes "
     "a Slice before a Resize, or RoiAlign"),
    (r"trip limit",
     "this Loop ends by a condition: export the model with one that only counts its iterations, with the "
     "recurrent operator itself (LSTM, GRU), or unrolled"),
    (r"codeGenerator\.cpp::compileGraph[^\0]*No Myelin Error exists",
     f"TensorRT 8.6 fails this way on a convolution of varying size in a Loop: if there is one, give every profile one "
     f"size (min = opt = max), or export the model with the Loop unrolled; otherwise {IN_THE_LOG}"),
    (r"has no runners that implement it",
     "the parser knows this operator, but this release has no kernel for it: cut it off the model and compute it "
     "outside the engine, or build with another backend (TensorRT has kernels that TensorRT-RTX lacks)"),
    (r"The current (?:data )?type = \w+",
     "TensorRT supports this operator in other types only: request fp16 or fp32 for this node (pass {keep})"),
    (r"must have same input types|must have identical types|must be of same type|type mismatch",
     "the inputs of this node differ in type: request one precision for the nodes before it, or add a Cast"),
    (r"[Zz]ero.?point",
     "TensorRT quantizes symmetrically only: every zero point must be an int8 0; strip the Q/DQ pairs (pass {strip}) "
     "and quantize again"),
    (r"Input and filter have to be the same type|opndA->type\(\) == opndB->type\(\)",
     "one operand is INT8 and the other FP8: quantize both inputs of a layer to the same type"),
    (r"PRECISION_CONSTRAINTS|precision constraints|Could not find any implementation|No implementation",
     "no kernel runs this layer in the requested precision: set constraints = \"prefer\", request another precision, "
     "or raise [engine] workspace_mb"),
    (r"incorrectly marked as an int8 node",
     "set [engine] constraints = \"prefer\": where precisions are obeyed, this version cannot build a float layer "
     "after an INT8 convolution"),
    (r"optimization profile|profile .*(?:min|max|dimension)|kMIN|kMAX",
     "make the profile's shapes fit the model's inputs"),
    (r"for Turing \(SM75\)",
     "remove 7.5 from [engine] compute_capabilities, or request FP16 for this node: Turing has no FP32 kernel for it"),
    (r"HW-specific datatypes",
     "remove the GPUs that lack this type from [engine] compute_capabilities: BF16 needs 8.0, FP8 needs 8.9 or later, "
     "NVFP4 10.0"),
    (r"computing output extent[^\0]*cudaError",
     "TensorRT needs a GPU to fold this shape arithmetic: build on a machine with one, or write the Unsqueeze of a "
     "scalar before it as a Reshape to [1]"),
    (r"Assertion failed: plugin[^\0]*(?:driver version is insufficient|no CUDA-capable device)"
     r"|(?:driver version is insufficient|no CUDA-capable device)[^\0]*Assertion failed: plugin",
     "a plugin of TensorRT's that computes this operator needs a GPU when it is built: build on a machine with one"),
    (r"cudaError|CUDA initialization failure|CUDA error|driver version is insufficient|no CUDA-capable device",
     "check the GPU's driver with nvidia-smi"),
    (r"opset|IR version", "export the model at an older opset"),
    (r"shape misaligns with the input kernel shape",
     "set the attribute kernel_shape on this node: 8.6 does not infer it from quantized weights"),
    (r"Node input was not registered", "this node's optional input is empty: give it a value"),
    (r"compute capabilit|SM version|not supported on this platform", "choose other compute_capabilities in [engine]"),
)  # fmt: skip
_FUSED = re.compile(
    r"(Bias|Fast|Quick)Gelu|Bias(Add|Dropout|Softmax|SplitGelu)|(Embed|Skip)LayerNormalization|Skip(Simplified|Group).*"
    r"|Fused(Conv|Gemm|MatMul|MatMulActivation)|NhwcFusedConv|MultiHeadAttention|GroupQueryAttention"
    r"|PackedAttention|PackedMultiHeadAttention|GatedRelativePositionBias|GemmFastGelu|QOrdered.*"
)
"""Operators of the domain com.microsoft with which onnxruntime's optimizers replace several ONNX operators
(onnxruntime's ContribOperators.md)."""
_UNFUSED = (
    "if this operator is of the domain com.microsoft, it is onnxruntime's own, which TensorRT does not have: give the "
    "model as it was before onnxruntime's optimizer, or export it again"
)
_FRAME = re.compile(r"^(\[?\w+\.(cpp|h)[:\w]*\]?:?\s*)?(ERROR: )?(\w+\.cpp:\d+ )?(In function \w+:\s*)?(\[\d+\]\s*)?")
_CHECKED = re.compile(r"In function check(?P<op>\w+):\s*\[\d+\] false$")
"""A message about an unsupported operator that names only the operator."""
_CACHE_LEFT_OUT = re.compile(r"timing cache will not be used|myelinCache\.h::deserializeFromBuffer")
_NO_USE = re.compile(r"^--- (Begin|End) node|^Node name:|^input:|ModelImporter\.cpp:14[0-3]")


class Messages:
    """A logger for TensorRT that forwards every message and keeps warnings and errors.

    Args:
        talk: receives the messages.
        logged: whether messages end up in build.log of a run folder.
    """

    def __init__(self, talk: Channel, logged: bool = True) -> None:
        self.kept: list[tuple[str, str]] = []
        self._logged = logged
        self._talk = talk
        # the node that is being parsed, and its operator
        self._at: tuple[str, str] | None = None

    def take(self, severity: str, text: str) -> None:
        """Process a message; ``severity`` is TensorRT's: INTERNAL_ERROR, ERROR, WARNING, INFO, VERBOSE."""
        if severity in ("INTERNAL_ERROR", "ERROR", "WARNING"):
            self.kept.append((severity, text))
        if severity == "VERBOSE":
            if "arsing node: " in text and (begun := _BEGUN.match(text)):
                self._at = begun["node"], begun["op"]
            elif "] outputs: [" in text:
                self._at = None
        else:
            self._talk.log(f"{severity}: {text}")

    def lines(self) -> list[str]:
        """Warnings and errors without duplicates: TensorRT repeats some for every layer."""
        return list(dict.fromkeys(f"{severity}: {text}" for severity, text in self.kept))

    def logger(self, trt: Any) -> Any:
        """A ``trt.ILogger`` that forwards to this object."""
        take = self.take

        class Collector(trt.ILogger):
            def __init__(self) -> None:
                trt.ILogger.__init__(self)

            def log(self, severity: Any, text: str) -> None:
                take(str(severity).rpartition(".")[2], text)

        return Collector()

    def error(self, stage: str, where: str, cause: str = "", layers: Sequence[Mapping[str, Any]] = ()) -> BackendError:
        """The error that the messages so far explain.

        Args:
            stage: what failed, such as "TensorRT-RTX 1.7 refused the model".
            where: the model file.
            cause: the message of Polygraphy or Python, used if TensorRT gave none.
            layers: layers of the parsed network, see ``walk_network``, if it was parsed: they tell which nodes the
                layer in a message stands for.
        """
        errors = [text for severity, text in self.kept if severity != "WARNING"]
        # Without a driver TensorRT only warns, and its Python bindings then return None.
        errors = errors or [text for _, text in self.kept if "CUDA initialization" in text]
        everything = "\n".join(errors) or cause
        place, operator = self._place(errors, everything, layers)
        said = (_essence(errors) or on_one_line(cause) or "TensorRT gave no reason").rstrip(".")
        return BackendError(f"{stage}{place}: {said}", where=where, remedy=self._remedy(everything, operator))

    def _place(self, errors: list[str], everything: str, layers: Sequence[Mapping[str, Any]]) -> tuple[str, str]:
        """The location of a failure as text, and the operator there; both empty if unknown.

        An input named in a message takes precedence, then a node named in one, then the node that was being parsed.
        """
        node = next((m["node"].strip() for p in _NODE if (m := re.search(p, everything))), "")
        layer = next((one for one in layers if one["name"] == node), None)
        operator = next((m["op"] for text in errors if (m := _PARSING.search(text))), "")
        given = next((m["name"] for text in errors if (m := _AT_INPUT.match(text))), None)
        if given is not None:
            return f" at input '{given}'", _operator(layer, operator)
        if not node and self._at is not None:
            node, operator = self._at
        if layer is not None:
            from toolkit.backends.layers.network import metadata_nodes

            node = ", ".join(metadata_nodes(layer["metadata"])) or node
        operator = _operator(layer, operator)
        return f" at node '{node}'" + (f" ({operator})" if operator else "") if node else "", operator

    def _remedy(self, everything: str, operator: str) -> str:
        """The remedy for the messages; for a fused operator of onnxruntime, how to avoid it."""
        remedy = next((text for pattern, text in _REMEDIES if re.search(pattern, everything)),
                      IN_THE_LOG if self._logged else _UNKNOWN)  # fmt: skip
        if remedy is _UNSUPPORTED and _FUSED.fullmatch(operator):
            remedy = _UNFUSED
        if "{" in remedy:
            # imported late: the pass registry also loads the model libraries, which takes longer than many builds
            from toolkit.contract.registry import pass_name
            from toolkit.contract.roles import Role

            remedy = remedy.format(strip=pass_name(Role.STRIP), keep=pass_name(Role.KEEP))
        return remedy


def _operator(layer: Mapping[str, Any] | None, operator: str) -> str:
    """The operator named in a message, else the type of the layer."""
    return operator or (f"layer {layer['type']}" if layer is not None else "")


def _essence(errors: list[str]) -> str:
    """The one or two most informative messages: the first that are neither framing nor repetition."""
    parts: list[str] = []
    # Without a GPU, a failed parse always ends with an error about the driver, which is not the cause.
    telling = [text for text in errors if "catchCudaError" not in text or len(text) > 400] or errors
    # An unreadable timing cache only costs time.
    telling = [text for text in telling if not _CACHE_LEFT_OUT.search(text)] or telling
    for text in telling:
        line = " ".join(_FRAME.sub("", _AT_INPUT.sub("", text)).split())
        checked = _CHECKED.search(text)
        line = f"it does not support {checked['op']}" if checked else line
        framing = _NO_USE.search(text) or _NO_USE.search(line) or _PARSING.search(text)
        if framing or any(line[:60] in part for part in parts):
            continue
        parts.append(on_one_line(re.sub(r" In \w+ at /[\w./+-]+:\d+", "", line), 300))
    return "; ".join(parts[:2])
