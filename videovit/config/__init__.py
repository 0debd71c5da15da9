"""The configuration: SlowFast's keys as frozen dataclasses, loaded from YAML files and KEY VALUE pairs."""

from videovit.config.keys import free_keys
from videovit.config.load import ConfigError, ConfigWarning, checked, dump_config, load_config, with_opts
from videovit.config.schema import Config
from videovit.config.shipped import find_shipped

__all__ = [
    "Config",
    "ConfigError",
    "ConfigWarning",
    "checked",
    "dump_config",
    "find_shipped",
    "free_keys",
    "load_config",
    "with_opts",
]
