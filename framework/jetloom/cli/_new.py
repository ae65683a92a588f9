"""`jetloom new`: a project that runs, tests and deploys."""

from __future__ import annotations

import keyword
import re
from importlib.resources import files
from pathlib import Path
from string import Template

from ..errors import Conflict, NameInvalid
from ._common import Output
from ._emit import print_json
from ._exit import OK

_NAME = re.compile(r"[a-z][a-z0-9-]{0,31}")

_FILES = {
    "README.md": "README.md",
    "pyproject.toml": "pyproject.toml",
    "Dockerfile": "Dockerfile",
    "compose.yaml": "compose.yaml",
    "gitignore": ".gitignore",
    "dockerignore": ".dockerignore",
    "init.py": "{package}/__init__.py",
    "greeter.py": "{package}/greeter.py",
    "workflows/greet.yaml": "{package}/workflows/greet.yaml",
    "tests/test_greeter.py": "tests/test_greeter.py",
}
"""Templates under `project/`, and where each goes."""

_OUTPUT = Output()


def new(name: str, /, *, folder: Path | None = None, output: Output = _OUTPUT) -> int:
    """Make a project: a module, a workflow, a test, a Dockerfile and a compose file.

    Exit 4 when the folder has something in it already: nothing is overwritten.

    For example:

        jetloom new shop
        jetloom new flower-shop --folder ~/flowers

    Parameters
    ----------
    name
        Of the project: a-z 0-9 and hyphens. The Python package has underscores in place of these.
    folder
        Where; without it a new folder of that name.
    """
    package = name.replace("-", "_")
    if not _NAME.fullmatch(name) or keyword.iskeyword(package) or package in ("jetloom", "tests"):
        raise NameInvalid(
            "project", name, "1-32 characters of a-z 0-9 -, a letter first, and no word of Python"
        )
    root = folder if folder is not None else Path(name)
    if root.exists() and (not root.is_dir() or any(root.iterdir())):
        raise Conflict(f"{root} exists and is not empty: name another folder with --folder")
    written = list(write_project(root, name, package))
    if output.json:
        print_json({"project": name, "folder": str(root), "files": written})
        return OK
    print(f"{root}: {len(written)} files")
    for path in written:
        print(f"  {path}")
    print(f"\nnext:  cd {root} && cat README.md")
    return OK


def write_project(root: Path, name: str, package: str) -> list[str]:
    """Writes every file; their paths below `root`."""
    templates = files(__package__).joinpath("project")
    written: list[str] = []
    for source, target in _FILES.items():
        text = templates.joinpath(f"{source}.tmpl").read_text(encoding="utf-8")
        path = root / target.format(package=package)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(Template(text).substitute(name=name, package=package), encoding="utf-8")
        written.append(str(path.relative_to(root)))
    return written
