"""Sentences for people, made of findings: the one place where they are written, in tables of code and template.

What is noted is a sentence with a capital and a full stop. The reason of a change, a refusal or a request follows the
name of its node, and begins with a small letter.
"""

from __future__ import annotations

from toolkit.contract.findings import Code, Finding
from toolkit.report.findings.stripping import STRIPPING
from toolkit.report.findings.table import Table, written

TABLES: tuple[Table, ...] = ({Code.OWN_WORDS: "{text}"}, STRIPPING)


def sentence(finding: Finding) -> str:
    """The finding in words."""
    return written(_TEMPLATES[finding.code], finding, sentence)


_TEMPLATES: Table = {code: template for table in TABLES for code, template in table.items()}
