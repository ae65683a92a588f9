"""The pages about journal, errors and the rest name what the code has, no more and no less."""

from __future__ import annotations

import importlib
import pkgutil
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast, get_args

import msgspec
import pytest

import jetloom
from jetloom.engine.core import DELIVERIES_MAX, MESSAGES_MAX, RESUMES_MAX
from jetloom.errors import JetloomError
from jetloom.messages import H_NONCE, H_VERSION, VERSION, Entry, Names, Record
from jetloom.stores import namespace_assets
from jetloom.transport import StreamAsset

if TYPE_CHECKING:
    from msgspec.inspect import StructType

SECTIONS = ("docs/explanation", "docs/operations", "docs/adr", "docs/reference")
FRAMEWORK = Path(jetloom.__file__).parent


def page(root: Path, name: str) -> str:
    return (root / "docs" / name).read_text(encoding="utf-8")


def rows(text: str, *, under: str = "") -> Iterator[list[str]]:
    """The cells of each table row, of the whole text or of one section."""
    heading = ""
    for line in text.splitlines():
        if line.startswith("#"):
            heading = line.lstrip("# ")
        elif line.startswith("| ") and under in ("", heading):
            yield [cell.strip() for cell in line.strip().strip("|").split("|")]


def names_in(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


# -- journal.md
def record_types() -> list[StructType]:
    kinds = [msgspec.inspect.type_info(kind) for kind in get_args(Record.__value__)]
    return [kind for kind in kinds if isinstance(kind, msgspec.inspect.StructType)]


def test_every_record_is_described_with_its_fields(repo_root: Path) -> None:
    """The tables of the journal's page have each tag once, and its fields in their order."""
    tagged = {str(kind.tag): [field.encode_name for field in kind.fields] for kind in record_types()}
    assert len(tagged) > 25
    written: dict[str, list[str]] = {}
    in_table = False
    for line in page(repo_root, "reference/journal.md").splitlines():
        if line.startswith("| tag |"):
            in_table = True
        elif not line.startswith("|"):
            in_table = False
        elif in_table and not line.startswith("|---"):
            tag, fields, *_ = line.strip("|").split("|")
            [name] = names_in(tag)
            assert name not in written, f"{name} stands twice"
            written[name] = names_in(fields)
    assert written == tagged


def test_every_field_and_header_of_an_entry_is_described(repo_root: Path) -> None:
    """An entry's own fields, its two headers and the format's version are in the page."""
    cells = [names_in(row[0]) for row in rows(page(repo_root, "reference/journal.md"), under="An entry")]
    found = {name for names in cells for name in names}
    assert {*Entry.__struct_fields__, H_NONCE, H_VERSION} <= found
    assert f"`{VERSION}`" in page(repo_root, "reference/journal.md")


# -- errors.md
def classes() -> dict[str, type[JetloomError]]:
    """Every exception of the package, by name; tests define others."""
    for module in pkgutil.walk_packages(jetloom.__path__, "jetloom."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    found: dict[str, type[JetloomError]] = {}
    waiting: list[type[JetloomError]] = [JetloomError]
    while waiting:
        kind = waiting.pop()
        waiting += kind.__subclasses__()
        if kind.__module__.startswith("jetloom."):
            found[kind.__name__] = kind
    return found


def test_every_exception_is_described(repo_root: Path) -> None:
    """Code, name, class and group of each exception are what the code has; none is missing, none is made up."""
    known = classes()
    written: set[str] = set()
    for code, name, error_class, meaning in rows(page(repo_root, "reference/errors.md"), under="Exceptions"):
        if code == "code":
            continue
        kind = known[names_in(name)[0]]
        written.add(kind.__name__)
        assert names_in(code) == [kind.code]
        assert error_class == kind.error_class.value, name
        group = re.match(r"is an? `(\w+)`", meaning)
        parent = cast("type[Any]", kind.__mro__[1]).__name__
        assert (group[1] if group else "JetloomError") == parent or kind is JetloomError, name
    assert written == set(known)


CODES = re.compile(r"(?:ErrorInfo|TaskFailed)\(\s*f?\"([a-z_.]+?)\.?(?:\{.*?)?\"")
REASONS = re.compile(r"(?:dead_letter|_undecodable)\(\w+, \"([a-z_.]+)\"\)")


def written_in_code(pattern: re.Pattern[str]) -> set[str]:
    """What the sources hand to errors or dead letters as text."""
    sources = [
        path.read_text(encoding="utf-8") for path in FRAMEWORK.rglob("*.py") if path.name != "errors.py"
    ]
    return {found for source in sources for found in pattern.findall(source)}


def test_every_code_without_an_exception_is_described(repo_root: Path) -> None:
    """A code that the engine writes itself is in one of the page's tables."""
    text = page(repo_root, "reference/errors.md")
    described = {name for row in rows(text) for name in names_in(row[0])}
    codes = written_in_code(CODES)
    assert {"run.poison", "task.poison", "step.cancelled"} <= codes
    assert codes <= described
    listed = {name for row in rows(text, under="Codes without an exception") for name in names_in(row[0])}
    assert {code for code in listed if "<" not in code and code != "timeout"} <= codes


def test_every_reason_of_a_dead_letter_is_described(repo_root: Path) -> None:
    """The engine's dead letters have the reasons of the table, and no others."""
    text = page(repo_root, "reference/errors.md")
    found = rows(text, under="Reasons of the engine's dead letters")
    assert {name for row in found for name in names_in(row[0])} == written_in_code(REASONS)


# -- the rest
def test_every_stream_is_described(repo_root: Path) -> None:
    """The table of assets has each stream of a namespace, and each consumer of the engines."""
    text = page(repo_root, "explanation/architecture.md")
    described = {name for row in rows(text) for name in names_in(row[0])}
    for asset in namespace_assets(Names("ns")):
        if isinstance(asset, StreamAsset):
            generic = asset.name.replace("KV_ns_", "<ns>_").replace("NS_", "<NS>_")
            assert generic in described, asset.name
        else:
            assert f"`{asset.name}`" in text, asset.name


def test_limits_are_the_codes(repo_root: Path) -> None:
    """Numbers that the pages repeat are those of the engine."""
    text = page(repo_root, "explanation/protocol.md")
    constants = dict(re.findall(r"^\| `([A-Z_]+)` \| ([^|]+?) \|", text, re.MULTILINE))
    for unit in ("jetloom.engine._constants", "jetloom.engine.core._covers", "jetloom.stores._assets"):
        module = importlib.import_module(unit)
        for name, said in constants.items():
            value = getattr(module, name, None)
            if value is not None:
                assert seconds_or_number(said) == pytest.approx(value), name  # pyright: ignore[reportUnknownMemberType]
    assert (DELIVERIES_MAX, RESUMES_MAX, MESSAGES_MAX) == (10, 5, 10_000), "errors.md and journal.md say so"
    assert {"ACK_WAIT", "TASK_ACK_WAIT", "SURE", "RESUMES_MAX", "RETENTION_MIN"} <= set(constants)


UNITS = {"ms": 0.001, "s": 1.0, "min": 60.0, "h": 3600.0, "days": 86_400.0, "MiB": 1024.0**2, "KiB": 1024.0}


def seconds_or_number(said: str) -> float:
    """`2 s`, `7 days`, `1 MiB` or `10,000` as a number."""
    number, _, unit = said.partition(" ")
    return float(number.replace(",", "")) * UNITS.get(unit, 1.0)


def pages(root: Path) -> list[Path]:
    return sorted(path for section in SECTIONS for path in (root / section).glob("*.md"))


def test_links_lead_somewhere(repo_root: Path) -> None:
    """A relative link names a file of the repository, and a heading of it when it has one."""
    for source in [*pages(repo_root), repo_root / "docs/README.md"]:
        for link in re.findall(r"\]\(([^)\s]+)\)", source.read_text(encoding="utf-8")):
            if ":" in link:
                continue
            name, _, heading = link.partition("#")
            target = (source.parent / name).resolve() if name else source
            assert target.exists(), f"{source.name}: {link}"
            if heading:
                assert heading in anchors(target.read_text(encoding="utf-8")), f"{source.name}: {link}"


def anchors(text: str) -> set[str]:
    """The headings, as links name them."""
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^a-z0-9 _-]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_tests_that_pages_name_exist(repo_root: Path) -> None:
    """A promise that names its test names a file, and a function of it when it says one."""
    for source in pages(repo_root):
        text = source.read_text(encoding="utf-8")
        for path, function in re.findall(r"`(tests/[\w/.]+)(?:::(\w+))?`", text):
            target = repo_root / path
            assert target.exists(), f"{source.name}: {path}"
            if function:
                assert f"def {function}(" in target.read_text(encoding="utf-8"), f"{source.name}: {function}"


def test_the_index_has_every_page(repo_root: Path) -> None:
    """Every document is linked from the index."""
    text = (repo_root / "docs/README.md").read_text(encoding="utf-8")
    linked = {(repo_root / "docs" / link).resolve() for link in re.findall(r"\]\(([^)#:]+)\)", text)}
    documents = {path.resolve() for path in (repo_root / "docs").rglob("*.md")} - {
        repo_root / "docs/README.md"
    }
    assert documents <= linked


def test_the_documents_stand_alone(repo_root: Path) -> None:
    """No page names a folder of somebody's machine, or a file that only its author has."""
    for source in (repo_root / "docs").rglob("*.md"):
        text = source.read_text(encoding="utf-8")
        for word in (f"{Path(__file__).anchor}work/", "../shared", "/home/", "/tmp/"):
            assert word not in text, f"{source.name}: {word}"
