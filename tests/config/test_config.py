"""Settings come from environment and file, and every problem is said at once."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from jetloom.config import Settings, load_module_config, load_settings
from jetloom.errors import ConfigInvalid

FILE = """
namespace = "shop"
shards = 2
http_port = 9000

[nats]
url = "nats://file:4222"

[modules.orders]
port = 1
tags = ["a", "b"]
"""


class OrdersConfig(msgspec.Struct, frozen=True):
    port: int
    api_key: str = ""
    tags: list[str] = []
    ratio: float | None = None


def test_the_environment_wins_over_the_file(tmp_path: Path) -> None:
    """Defaults, then the file, then the environment; each value knows its source."""
    (tmp_path / "jetloom.toml").write_text(FILE, encoding="utf-8")
    settings = load_settings({"NATS_URL": "nats://env:4222", "JETLOOM_SHARDS": "4"}, folder=tmp_path)
    assert (settings.nats_url, settings.namespace, settings.shards) == ("nats://env:4222", "shop", 4)
    assert (settings.http_port, settings.log_format, settings.profile) == (9000, "json", "dev")
    assert settings.sources["nats_url"] == "NATS_URL"
    assert settings.sources["namespace"].endswith("jetloom.toml: namespace")
    assert settings.modules["orders"]["tags"] == ["a", "b"]
    assert load_settings({}, folder=tmp_path / "nowhere") == Settings()


def test_all_problems_at_once(tmp_path: Path) -> None:
    """Wrong values, unknown names and typing errors are one error that names each source."""
    (tmp_path / "own.toml").write_text('namspace = "x"\nshards = "2"\n[nats]\nuri = "x"\n', encoding="utf-8")
    environ = {
        "JETLOOM_CONFIG": "own.toml",
        "JETLOOM_PROFILE": "prod",
        "JETLOOM_HTTP_PORT": "99999",
        "JETLOOM_NAMESPCE": "x",
    }
    with pytest.raises(ConfigInvalid) as caught:
        load_settings(environ, folder=tmp_path)
    text = caught.value.message
    for expected in (
        "JETLOOM_PROFILE: expected one of dev, replicated, single, single-sync, found 'prod'",
        "JETLOOM_HTTP_PORT: Expected `int` <= 65535",
        "JETLOOM_NAMESPCE is no setting; did you mean JETLOOM_NAMESPACE?",
        "own.toml: namspace is no setting; did you mean namespace?",
        "own.toml: nats.uri is no setting; did you mean nats.url?",
        "own.toml: shards: Expected `int`, got `str`",
    ):
        assert expected in text, f"{expected!r} is not in {text}"
    with pytest.raises(ConfigInvalid, match=r"there is no file .*gone\.toml"):
        load_settings({"JETLOOM_CONFIG": "gone.toml"}, folder=tmp_path)
    (tmp_path / "own.toml").write_text("no toml", encoding="utf-8")
    with pytest.raises(ConfigInvalid, match="no TOML"):
        load_settings({"JETLOOM_CONFIG": "own.toml"}, folder=tmp_path)


def test_a_module_reads_its_own(tmp_path: Path) -> None:
    """Fields come from `JETLOOM_<MODULE>__FIELD`, a file for secrets, or the module's table; lists as JSON."""
    (tmp_path / "jetloom.toml").write_text(FILE, encoding="utf-8")
    (tmp_path / "key").write_text("s3cret\n", encoding="utf-8")
    settings = load_settings({}, folder=tmp_path)
    environ = {
        "JETLOOM_ORDERS__API_KEY_FILE": str(tmp_path / "key"),
        "JETLOOM_ORDERS__RATIO": "0.5",
        "JETLOOM_OTHER__PORT": "x",
    }
    loaded = load_module_config("orders", OrdersConfig, settings, environ)
    assert loaded.value == OrdersConfig(1, "s3cret", ["a", "b"], 0.5)
    assert loaded.sources["api_key"] == "JETLOOM_ORDERS__API_KEY_FILE"
    environ = {"JETLOOM_MY_ORDERS__PORT": "7", "JETLOOM_MY_ORDERS__TAGS": '["x"]'}
    assert load_module_config("my-orders", OrdersConfig, settings, environ).value == OrdersConfig(
        7, "", ["x"]
    )


def test_a_modules_problems_at_once(tmp_path: Path) -> None:
    """What is missing says where it can be set, what is unknown what may be meant; a secret is not repeated."""
    (tmp_path / "key").write_text("s3cret", encoding="utf-8")
    environ = {
        "JETLOOM_ORDERS__TAGS": "s3cret",
        "JETLOOM_ORDERS__API_KEY": "s3cret",
        "JETLOOM_ORDERS__API_KEY_FILE": str(tmp_path / "key"),
        "JETLOOM_ORDERS__PORTS": "1",
        "JETLOOM_ORDERS__RATIO": "many",
    }
    settings = Settings(modules={"orders": {"prt": 1}})
    with pytest.raises(ConfigInvalid) as caught:
        load_module_config("orders", OrdersConfig, settings, environ)
    text = caught.value.message
    for expected in (
        "orders.port is required: set JETLOOM_ORDERS__PORT or port in [modules.orders] of jetloom.toml",
        "JETLOOM_ORDERS__TAGS: Expected `array`",
        "JETLOOM_ORDERS__API_KEY and JETLOOM_ORDERS__API_KEY_FILE are both set",
        "JETLOOM_ORDERS__PORTS is no setting of module orders; did you mean JETLOOM_ORDERS__PORT?",
        "jetloom.toml: modules.orders.prt is no field of OrdersConfig; did you mean port?",
        "JETLOOM_ORDERS__RATIO: Expected `float | null`",
    ):
        assert expected in text, f"{expected!r} is not in {text}"
    assert "s3cret" not in text


def test_the_document_names_every_setting(repo_root: Path) -> None:
    """The reference page has every variable and the example in it loads."""
    text = (repo_root / "docs" / "reference" / "configuration.md").read_text(encoding="utf-8")
    fields = {field.name for field in msgspec.structs.fields(Settings)} - {"modules", "sources"}
    for name in fields:
        variable = name.upper() if name.startswith("nats_") else f"JETLOOM_{name.upper()}"
        assert f"| `{variable}` |" in text, variable


def test_the_documents_example_loads(repo_root: Path, tmp_path: Path) -> None:
    """What the reference shows as a file is one."""
    text = (repo_root / "docs" / "reference" / "configuration.md").read_text(encoding="utf-8")
    example = text.split("```toml\n")[1].split("```")[0]
    (tmp_path / "jetloom.toml").write_text(example, encoding="utf-8")
    settings = load_settings({}, folder=tmp_path)
    assert (settings.namespace, settings.http_port, settings.nats_url) == ("shop", 9090, "nats://nats:4222")
