"""Typed settings: of the process, and of each module.

The environment wins over the live bucket, the bucket over the file, the file over the defaults: what an operator sets
for one process must hold there whatever a fleet is told, and what a fleet is told must hold over what a release
brought. The bucket (`<ns>_config`, a key per module) speaks to modules only. Everything is read before anything is
judged, so that a `ConfigInvalid` names every problem at once, each with the place it came from. Values of secrets are
never repeated.

    NATS_URL NATS_CREDS NATS_NKEY NATS_CONTEXT             [nats] url creds nkey context
    JETLOOM_NAMESPACE _SHARDS _PROFILE _HTTP_PORT …        namespace, shards, profile, http_port, http_host, log_level…
    JETLOOM_CONFIG                                          the file, else jetloom.toml in the working folder
    JETLOOM_<MODULE>__<FIELD>__<FIELD>, …_FILE for secrets  [modules.<id>] field
"""

from ._explain import ConfigValue, config_schema, explain_module, explain_settings
from ._modules import LiveConfig, Loaded, find_config_problems, load_module_config, module_prefix
from ._secrets import HIDDEN, Secret
from ._settings import Profile, Settings, load_settings

__all__ = [
    "HIDDEN",
    "ConfigValue",
    "LiveConfig",
    "Loaded",
    "Profile",
    "Secret",
    "Settings",
    "config_schema",
    "explain_module",
    "explain_settings",
    "find_config_problems",
    "load_module_config",
    "load_settings",
    "module_prefix",
]
