"""Sentences for people, made of findings: the one place where they are written, in tables of code and template.

What is noted is a sentence with a capital and a full stop. The reason of a change, a refusal or a request follows the
name of its node, and begins with a small letter.
"""

from __future__ import annotations

from toolkit.contract.findings import Code, Finding
from toolkit.report.findings.accuracy import ACCURACY
from toolkit.report.findings.advice import ADVICE
from toolkit.report.findings.attribution import FROM_ENGINE, FROM_PAIRS
from toolkit.report.findings.backends import BACKENDS
from toolkit.report.findings.bound import BOUND
from toolkit.report.findings.comparison import COMPARISON
from toolkit.report.findings.data import DATA
from toolkit.report.findings.device import DEVICE
from toolkit.report.findings.evaluation import EVALUATION
from toolkit.report.findings.export import EXPORT
from toolkit.report.findings.folder import FOLDER
from toolkit.report.findings.latency import LATENCY
from toolkit.report.findings.lowering import LOWERING
from toolkit.report.findings.migrate import MIGRATE
from toolkit.report.findings.new import NEW
from toolkit.report.findings.opened import OPENED
from toolkit.report.findings.opening import OPENING
from toolkit.report.findings.overridden import OVERRIDDEN
from toolkit.report.findings.passes import PASSES
from toolkit.report.findings.placement import PLACEMENT
from toolkit.report.findings.rules import RULES
from toolkit.report.findings.search_notes import SEARCH
from toolkit.report.findings.stripping import STRIPPING
from toolkit.report.findings.table import Table, written
from toolkit.report.findings.tasks import TASKS
from toolkit.report.findings.timing import TIMING
from toolkit.report.findings.warnings import WARNINGS
from toolkit.report.findings.weak_spots import CAUSES, REMEDIES

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
    """The finding in words."""
    return written(TEMPLATES[finding.code], finding, sentence)


class SharedSentences:
    """Findings in words, each written once however many nodes share it."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[Finding, str]] = {}

    def __call__(self, finding: Finding) -> str:
        """The finding in words."""
        if id(finding) not in self._known:
            # it is kept, so that no other can have its identity
            self._known[id(finding)] = finding, sentence(finding)
        return self._known[id(finding)][1]
