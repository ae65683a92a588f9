"""Definitions of workflows: the model, YAML and Python forms, validation, fingerprints, and what an engine asks of one.

Pure: given a text or a definition, everything here gives the same answer everywhere. A definition is refused with all
of its findings at once, each with file, line, column and what to write instead; what passed needs no check at run time
but the ones that need values (`Compiled`). CEL, the schema and the YAML library load with the first text that needs
them, so a run without real expressions never pays for CEL.

Not guaranteed: a handler's existence (its task waits until a deploy brings it), and that an expression fits the values
that it will meet; a missing key fails the step for good instead of giving an empty value.
"""

from ._builder import Workflow, check_definition
from ._compiled import Compiled, compile_definition
from ._diff import diff
from ._durations import parse_duration
from ._files import load_file, load_folder
from ._finding import Finding
from ._fingerprint import fingerprint
from ._graph import Graph
from ._load import Checked, check_text, load_text
from ._model import Definition, Emit, Retry, Saga, Step, Wait

__all__ = [
    "Checked",
    "Compiled",
    "Definition",
    "Emit",
    "Finding",
    "Graph",
    "Retry",
    "Saga",
    "Step",
    "Wait",
    "Workflow",
    "check_definition",
    "check_text",
    "compile_definition",
    "diff",
    "fingerprint",
    "load_file",
    "load_folder",
    "load_text",
    "parse_duration",
]
