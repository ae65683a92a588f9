"""A target that is wrong says how."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from jetloom.errors import ModuleConflict, ModuleNotFound, StartFailed
from jetloom.runtime import (
    Module,
    find_modules,
    get_registered,
    installed_targets,
    load_module,
    load_modules,
    module,
    register,
    registered,
)


class First(Module):
    id = "first-here"


@module(id="second-here", depends_on=["first-here"])
class Second(Module): ...


class Bare(Module): ...


def test_a_target_is_found() -> None:
    """`package.module:Class` gives the class."""
    assert load_module("tests.runtime.test_host:Base").id == "base"


@pytest.mark.parametrize(
    ("target", "problem"),
    [
        ("orders:", "write package.module:Class"),
        ("nowhere.orders:Orders", "there is no Python module 'nowhere'"),
        ("tests.runtime.test_host:Basse", "did you mean Base"),
        ("tests.runtime.test_host:Order", "no subclass of jetloom.Module"),
    ],
)
def test_a_wrong_target_says_how(target: str, problem: str) -> None:
    """Each way to be wrong has an error of its own."""
    with pytest.raises(StartFailed, match=problem):
        load_module(target)


def test_all_wrong_targets_at_once() -> None:
    """Several wrong targets are one error."""
    with pytest.raises(StartFailed) as caught:
        load_modules(["orders:", "nowhere:X"])
    assert caught.value.message.count("'orders:'") == 1
    assert "nowhere" in caught.value.message


def test_a_python_module_stands_for_its_modules() -> None:
    """`package.module` names every module with an id that it defines, and none that it imports."""
    names = [each.id for each in find_modules("tests.runtime.test_registry")]
    assert names == ["first-here", "second-here"]
    assert load_modules(["tests.runtime.test_registry", f"{__name__}:First"]) == [First, Second]
    with pytest.raises(StartFailed, match="defines no module"):
        find_modules("tests.runtime.world")


def test_modules_are_registered_once() -> None:
    """A decorator makes a class known under its id; another class of that id is a conflict that names both."""
    assert registered()["second-here"] is Second
    assert Second.depends_on == ("first-here",)
    assert get_registered("second-here") is Second
    register(Second)

    class Third(Module):
        id = "second-here"

    with pytest.raises(ModuleConflict, match=r"registered twice: .*:Second and .*Third"):
        module(Third)
    with pytest.raises(ModuleNotFound):
        get_registered("nobody")
    assert "nobody" not in registered()


def test_installed_modules_are_entry_points(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package names its modules in the group `jetloom.modules`; `@name` is one of them."""
    info = tmp_path / "shop-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: shop\nVersion: 1.0\n", encoding="utf-8")
    (info / "entry_points.txt").write_text(
        f"[jetloom.modules]\nfirst = {__name__}:First\nall = {__name__}\ngone = nowhere:X\n", encoding="utf-8"
    )
    monkeypatch.setattr("sys.path", [str(tmp_path), *sys.path])
    assert installed_targets() == ["@all", "@first", "@gone"]
    assert find_modules("@first") == [First]
    assert find_modules("@all") == [First, Second]
    with pytest.raises(StartFailed, match="@gone: nowhere:X: there is no Python module 'nowhere'"):
        find_modules("@gone")
    with pytest.raises(StartFailed, match="installed are: @all, @first, @gone"):
        find_modules("@other")
