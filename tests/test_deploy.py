"""compose.yaml, its Prometheus and the Dockerfile agree with each other and with the code."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any, cast

import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent
METRICS_PORT = "9464"


def load(path: str) -> dict[str, Any]:
    # PyYAML resolves the merge keys as compose does.
    return cast("dict[str, Any]", yaml.safe_load((ROOT / path).read_text(encoding="utf-8")))


def compose_services() -> dict[str, dict[str, Any]]:
    return load("compose.yaml")["services"]


def module_services() -> dict[str, dict[str, Any]]:
    """Those that run `jetloom run …`: the ones with metrics and health endpoints."""
    return {
        name: service
        for name, service in compose_services().items()
        if "entrypoint" not in service and service.get("command", [""])[0] == "run"
    }


def source_of(module: str) -> Path:
    base = ROOT.joinpath(*module.split("."))
    return next((path for path in (base.with_suffix(".py"), base / "__init__.py") if path.exists()), base)


def names_in(path: Path) -> set[str]:
    """Top-level names of a file: what it defines or imports."""
    names: set[str] = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.ImportFrom):
            names.update(alias.asname or alias.name for alias in node.names)
    return names


def targets() -> list[str]:
    return [
        word for service in module_services().values() for word in service["command"][1:] if word[0] != "-"
    ]


@pytest.mark.parametrize("target", targets())
def test_target_exists(target: str) -> None:
    """Each container runs a class or a folder of workflows that is there."""
    module, _, attribute = target.partition(":")
    if not attribute:
        assert list((ROOT / target).glob("*.yaml")), f"{target} has no workflow"
        return
    source = source_of(module)
    assert source.is_file(), f"{module} is no module"
    assert attribute in names_in(source), f"{module} has no {attribute}"


def test_other_programs_exist() -> None:
    """A container that starts with `python -m` names a module that can be run."""
    for name, service in compose_services().items():
        match service.get("entrypoint"):
            case ["python", "-m", module]:
                source = source_of(module)
                runnable = source if source.name != "__init__.py" else source.with_name("__main__.py")
                assert runnable.is_file(), f"{name}: nothing to run in {module}"
            case None:
                pass
            case other:
                pytest.fail(f"{name}: unknown entrypoint {other}")


def test_prometheus_scrapes_every_service() -> None:
    """Prometheus' targets are the containers that serve metrics, no more and no fewer."""
    scraped = [
        (name, str(sd["port"]))
        for job in load("deploy/prometheus.yml")["scrape_configs"]
        for sd in job["dns_sd_configs"]
        for name in sd["names"]
    ]
    assert sorted(scraped) == sorted((name, METRICS_PORT) for name in module_services())


def test_services_are_wired() -> None:
    """Every module container knows the server, waits for it, is reachable and says when it is ready."""
    for name, service in module_services().items():
        environment = service["environment"]
        assert environment["NATS_URL"] == "nats://nats:4222", name
        assert environment["JETLOOM_HTTP_PORT"] == METRICS_PORT, name
        assert METRICS_PORT in service["expose"], name
        assert service["depends_on"]["nats"] == {"condition": "service_healthy"}, name
        assert f":{METRICS_PORT}/readyz" in " ".join(service["healthcheck"]["test"]), name


def test_references_inside_compose_hold() -> None:
    """What a container depends on or mounts is declared; build targets are stages of the Dockerfile."""
    document = load("compose.yaml")
    services, volumes = document["services"], document["volumes"]
    stages = [
        line.split(" AS ")[1].strip()
        for line in (ROOT / "Dockerfile").read_text(encoding="utf-8").splitlines()
        if line.startswith("FROM ") and " AS " in line
    ]
    for name, service in services.items():
        assert set(service.get("depends_on", {})) <= set(services), name
        if "build" in service:
            assert service["build"]["target"] in stages, name
        for mount in service.get("volumes", []):
            source = mount.split(":")[0]
            assert (ROOT / source).exists() if source.startswith(".") else source in volumes, (
                f"{name}: {source}"
            )


def test_build_context_has_what_the_image_copies() -> None:
    """What the Dockerfile copies passes the .dockerignore, and exists."""
    allowed = {
        line[1:]
        for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
        if line.startswith("!")
    }
    for line in (ROOT / "Dockerfile").read_text(encoding="utf-8").splitlines():
        if line.startswith("COPY "):
            *copied, _ = [word for word in line.split()[1:] if not word.startswith("--")]
            for name in copied:
                assert name in allowed, name
                assert (ROOT / name).exists(), name


def test_lock_names_no_address() -> None:
    """requirements.lock has a hash for every package, and no address."""
    lines = (ROOT / "requirements.lock").read_text(encoding="utf-8").splitlines()
    assert not [line for line in lines if "://" in line or line.startswith("-")]
    text = "\n".join(lines).replace("\\\n", " ")
    bare = [line for line in text.splitlines() if line.strip() and "--hash=sha256:" not in line]
    assert not bare
