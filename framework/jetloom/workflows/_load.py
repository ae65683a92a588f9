"""Definitions from texts."""

from __future__ import annotations

from typing import NamedTuple

from ..errors import DefinitionInvalid
from ._fields import Fields, Report
from ._finding import Finding
from ._model import Definition
from ._validate import check_workflow
from ._yaml import Node, read_yaml


class Checked(NamedTuple):
    """What a text holds, and everything that is wrong with it. With findings, only the sound definitions are there."""

    definitions: list[Definition]
    findings: list[Finding]


def check_text(text: str, source: str = "") -> Checked:
    """Checks a YAML (or JSON) text: one workflow, several documents, or a list under `workflows`.

    `source` is the file's name in the findings, which come in the order of the file.
    """
    report = Report(source)
    documents = read_yaml(text, source, report.findings)
    broken = bool(report.findings)
    nodes = [each for document in documents for each in _workflows(report, document)]
    if not nodes and not report.findings:
        report.add_at(1, 1, "", "there is no workflow in this text", "write id: and steps:")
    definitions: list[Definition] = []
    seen: dict[tuple[str, str], int] = {}
    for node, path in nodes:
        definition = check_workflow(report, node, path)
        if definition is None:
            continue
        first = seen.setdefault((definition.id, definition.version), node.line)
        if first != node.line:
            report.add(
                node,
                path,
                f"workflow {definition.id} version {definition.version} stands there twice, first on line {first}",
                "give it another id or version",
            )
            continue
        definitions.append(definition)
    findings = sorted(report.findings, key=lambda finding: (finding.line, finding.column))
    # What a broken text still says may not be what its author meant.
    return Checked([] if broken else definitions, findings)


def load_text(text: str, source: str = "") -> list[Definition]:
    """The definitions of a text. Raises `DefinitionInvalid` with all findings."""
    checked = check_text(text, source)
    if checked.findings:
        raise DefinitionInvalid(source or "definition", [str(finding) for finding in checked.findings])
    return checked.definitions


def _workflows(report: Report, document: Node) -> list[tuple[Node, str]]:
    value = document.value
    if value is None and not document.raw:
        return []
    if not isinstance(value, dict) or "workflows" not in value:
        return [(document, "")]
    listed = Fields(report, document, "", ("workflows",)).find("workflows")
    if listed is None or not isinstance(listed.value, list):
        report.add(listed or document, "workflows", "expected a list of workflows")
        return []
    return [(node, f"workflows[{index}]") for index, node in enumerate(listed.value)]
