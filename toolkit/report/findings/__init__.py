"""All user-visible sentences about findings, in tables from code to template.

A note is a sentence with a capital letter and a full stop. The reason for a change, a refusal or a request follows its
node's name, so it begins with a lower-case letter.
"""

from __future__ import annotations

from toolkit.contract.findings import Code, Finding
from toolkit.report.findings.commands.advice import ADVICE
from toolkit.report.findings.commands.comparison import COMPARISON
from toolkit.report.findings.commands.export import EXPORT
from toolkit.report.findings.commands.folder import FOLDER
from toolkit.report.findings.commands.migrate import MIGRATE
from toolkit.report.findings.commands.new import NEW
from toolkit.report.findings.engine.attribution import FROM_ENGINE, FROM_PAIRS
from toolkit.report.findings.engine.backends import BACKENDS
from toolkit.report.findings.engine.device import DEVICE
from toolkit.report.findings.engine.latency import LATENCY
from toolkit.report.findings.engine.opened import OPENED
from toolkit.report.findings.engine.opening import OPENING
from toolkit.report.findings.engine.overridden import OVERRIDDEN
from toolkit.report.findings.outputs.accuracy import ACCURACY
from toolkit.report.findings.outputs.data import DATA
from toolkit.report.findings.outputs.evaluation import EVALUATION
from toolkit.report.findings.outputs.labels import LABELS
from toolkit.report.findings.outputs.rules import RULES
from toolkit.report.findings.outputs.tasks import TASKS
from toolkit.report.findings.outputs.warnings import WARNINGS
from toolkit.report.findings.quantization.bound import BOUND
from toolkit.report.findings.quantization.lowering import LOWERING
from toolkit.report.findings.quantization.passes import PASSES
from toolkit.report.findings.quantization.placement import PLACEMENT
from toolkit.report.findings.quantization.search_notes import SEARCH
from toolkit.report.findings.quantization.stripping import STRIPPING
from toolkit.report.findings.quantization.timing import TIMING
from toolkit.report.findings.quantization.weak_spots import CAUSES, REMEDIES
from toolkit.report.findings.table import Table, written

TABLES: tuple[Table, ...] = (
    {
        Code.OWN_WORDS: "{text}",
        Code.FLOAT_READS_PAIRS: (
            "'{node}' was asked to run in {precision} and still reads Q/DQ pairs, so an engine runs it quantized. "
            "Ask before the pairs are inserted, or use toolkit.keep_float."
        ),
        Code.FOREIGN_OPERATOR: lambda by, node, op, domain, meant: (
            f"Pass '{by}' inserted '{node}' of the operator {domain + '::' if domain else ''}{op}, which ONNX does not "
            "have: onnxruntime cannot run it, and TensorRT takes it for a plugin."
            + (f" Was {' or '.join(meant)} meant?" if meant else "")
        ),
    },
    PLACEMENT,
    PASSES,
    STRIPPING,
    LOWERING,
    DATA,
    SEARCH,
    BOUND,
    TIMING,
    OPENING,
    BACKENDS,
    FROM_PAIRS,
    FROM_ENGINE,
    OPENED,
    EVALUATION,
    RULES,
    LABELS,
    TASKS,
    CAUSES,
    REMEDIES,
    LATENCY,
    ACCURACY,
    WARNINGS,
    ADVICE,
    COMPARISON,
    EXPORT,
    OVERRIDDEN,
    FOLDER,
    DEVICE,
    NEW,
    MIGRATE,
)

TEMPLATES: Table = {code: template for table in TABLES for code, template in table.items()}


def sentence(finding: Finding) -> str:
    """The finding as a sentence."""
    return written(TEMPLATES[finding.code], finding, sentence)


class SharedSentences:
    """A cache of the sentences of findings, since many nodes share a finding."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[Finding, str]] = {}

    def __call__(self, finding: Finding) -> str:
        """The finding as a sentence."""
        if id(finding) not in self._known:
            # keeps the finding alive, so that its id is not reused
            self._known[id(finding)] = finding, sentence(finding)
        return self._known[id(finding)][1]
