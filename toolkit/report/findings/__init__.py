"""Sentences for people, made of findings: the one place where they are written, in tables of code and template.

What is noted is a sentence with a capital and a full stop. The reason of a change, a refusal or a request follows the
name of its node, and begins with a small letter.
"""

from __future__ import annotations

from toolkit.contract.findings import Code, Finding
from toolkit.report.findings.accuracy import ACCURACY
from toolkit.report.findings.advice import ADVICE
from toolkit.report.findings.attribution import FROM_ENGINE, FROM_PAIRS
from toolkit.report.findings.comparison import COMPARISON
from toolkit.report.findings.device import DEVICE
from toolkit.report.findings.evaluation import EVALUATION
from toolkit.report.findings.latency import LATENCY
from toolkit.report.findings.opened import OPENED
from toolkit.report.findings.stripping import STRIPPING
from toolkit.report.findings.table import Table, written
from toolkit.report.findings.warnings import WARNINGS
from toolkit.report.findings.weak_spots import CAUSES, REMEDIES

TABLES: tuple[Table, ...] = (
    {
        Code.OWN_WORDS: "{text}",
        Code.FLOAT_READS_PAIRS: (
            "'{node}' was asked to run in {precision} and still reads Q/DQ pairs, so an engine runs it quantized. "
            "Ask before the pairs are inserted, or use toolkit.keep_float."
        ),
    },
    FROM_PAIRS,
    FROM_ENGINE,
    OPENED,
    EVALUATION,
    CAUSES,
    REMEDIES,
    LATENCY,
    ACCURACY,
    WARNINGS,
    ADVICE,
    COMPARISON,
    DEVICE,
    STRIPPING,
)


def sentence(finding: Finding) -> str:
    """The finding in words."""
    return written(_TEMPLATES[finding.code], finding, sentence)


_TEMPLATES: Table = {code: template for table in TABLES for code, template in table.items()}
