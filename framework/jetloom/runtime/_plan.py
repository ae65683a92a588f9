"""Everything that can be checked before anything is started."""

from __future__ import annotations

import graphlib
import re
from collections.abc import Mapping, Sequence
from typing import cast

import msgspec

from ..config import LiveConfig, Settings, find_config_problems, load_module_config
from ..errors import ConfigInvalid
from ..messages import Names
from ._declare import Declared, declared_by
from ._module import Module

_ID = re.compile(r"[a-z][a-z0-9_-]{0,63}")


class Plan(msgspec.Struct):
    """The modules in their start order, with what each declares and its configuration; and all problems."""

    modules: list[Module] = []
    declared: dict[str, Declared] = {}
    configs: dict[str, msgspec.Struct | None] = {}
    problems: list[str] = []


def make_plan(
    given: Sequence[type[Module] | Module],
    settings: Settings,
    names: Names,
    environ: Mapping[str, str],
    *,
    live: LiveConfig | None = None,
    complete: bool = True,
) -> Plan:
    """Never raises for what a user did wrong: `problems` has it all. Not `complete`: some modules could not be had, and
    the live configuration was not read, so what is missing is no problem of these."""
    plan = Plan()
    by_id: dict[str, Module] = {}
    for each in given:
        module = _made(each, plan.problems)
        if module is None:
            continue
        kind = type(module).__name__
        if not _ID.fullmatch(module.id):
            plan.problems.append(
                f"{kind}: id {module.id!r} is not legal: expected 1-64 characters of a-z 0-9 _ -, a letter first"
            )
        elif module.id in by_id:
            other = type(by_id[module.id]).__name__
            plan.problems.append(f"module {module.id!r} is there twice: {other} and {kind}")
        else:
            by_id[module.id] = module
    plan.modules = _ordered(by_id, plan.problems, complete)
    for module in plan.modules:
        plan.declared[module.id] = declared = declared_by(module, names)
        plan.problems.extend(declared.problems)
        if complete:
            plan.configs[module.id] = _configured(module, settings, environ, live, plan.problems)
        elif module.config is not None:
            plan.problems.extend(find_config_problems(module.id, module.config, settings, environ))
    plan.problems.extend(_shared_steps(plan.declared))
    return plan


def _made(given: type[Module] | Module, problems: list[str]) -> Module | None:
    if isinstance(given, Module):
        return given
    try:
        return given()
    except Exception as error:  # user code: every error of it is the answer
        problems.append(f"{given.__name__} can't be made: {type(error).__name__}: {error}")
        return None


def _ordered(by_id: dict[str, Module], problems: list[str], complete: bool) -> list[Module]:
    graph: dict[str, list[str]] = {}
    for module in by_id.values():
        missing = [each for each in module.depends_on if each not in by_id]
        problems.extend(
            f"module {module.id!r} depends on {each!r}, which is not in this process (it has: {', '.join(by_id)})"
            for each in missing
            if complete
        )
        graph[module.id] = [each for each in module.depends_on if each in by_id]
    try:
        return [by_id[each] for each in graphlib.TopologicalSorter(graph).static_order()]
    except graphlib.CycleError as error:
        # The standard library names the nodes with each one depended on by the next.
        nodes = [str(each) for each in reversed(error.args[1])]
        problems.append(f"modules depend on each other in a circle: {' -> '.join(nodes)}")
        return list(by_id.values())


def _configured(
    module: Module,
    settings: Settings,
    environ: Mapping[str, str],
    live: LiveConfig | None,
    problems: list[str],
) -> msgspec.Struct | None:
    if module.config is None:
        return None
    try:
        return load_module_config(module.id, module.config, settings, environ, live=live).value
    except ConfigInvalid as error:
        problems.extend(cast("list[str]", error.fields["problems"]))
        return None


def _shared_steps(declared: Mapping[str, Declared]) -> list[str]:
    owner: dict[str, str] = {}
    problems: list[str] = []
    for module, each in declared.items():
        for step in each.steps:
            other = owner.setdefault(step.name, module)
            if other != module:
                problems.append(f"step {step.name!r} is in two modules: {other!r} and {module!r}")
    return problems
