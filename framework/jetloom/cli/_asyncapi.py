"""`jetloom asyncapi`: the document of what modules declare, without a server."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from cyclopts import Parameter

from ..errors import StartFailed
from ._common import Output
from ._config import look_here
from ._emit import print_json, say
from ._exit import OK

_OUTPUT = Output()


def asyncapi(
    targets: tuple[str, ...],
    /,
    *,
    title: str = "",
    version: str = "",
    format: Annotated[Literal["json", "yaml"], Parameter(name=["--format", "-f"])] = "json",
    out: Path | None = None,
    output: Output = _OUTPUT,
) -> int:
    """Print the AsyncAPI 3.0 document of modules: events they handle, endpoints, steps, with their schemas.

    Nothing is started and no server is asked; a module's missing configuration is no problem here.

    For example:

        jetloom asyncapi services.orders:Orders services.payments:Payments
        jetloom asyncapi shop.greeter:Greeter --format yaml --out asyncapi.yaml

    Parameters
    ----------
    targets
        package.module:Class, package.module or @installed, for each module.
    title
        Of the document; the modules' ids without it.
    version
        Of the document; the first module's version without it.
    format
        json or yaml.
    out
        A file in place of standard output.
    """
    from ..config import load_settings
    from ..http import asyncapi_document, asyncapi_yaml
    from ..messages import Names
    from ..runtime import load_modules, make_plan

    look_here()
    settings = load_settings()
    names = Names(settings.namespace, settings.shards)
    plan = make_plan(load_modules(targets), settings, names, os.environ, complete=False)
    problems = [problem for declared in plan.declared.values() for problem in declared.problems]
    if problems:
        raise StartFailed(problems)
    document = asyncapi_document(
        plan,
        names,
        title=title or ", ".join(module.id for module in plan.modules),
        version=version or (plan.modules[0].version if plan.modules else "0.0.0"),
        server=settings.nats_url or "nats://127.0.0.1:4222",
    )
    json = msgspec.json.format(msgspec.json.encode(document), indent=2).decode()
    text = asyncapi_yaml(document) if format == "yaml" else json
    if out is None:
        # --json promises one JSON document on stdout, so it wins over --format yaml.
        print(json if output.json else text)
        return OK
    out.write_text(text + "\n", encoding="utf-8")
    if output.json:
        print_json({"written": str(out), "format": format})
        return OK
    say(f"written: {out}")
    return OK
