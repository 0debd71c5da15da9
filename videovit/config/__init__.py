"""The configuration: SlowFast's keys as frozen dataclasses, loaded from YAML files and KEY VALUE pairs."""

from .keys import free_keys
from .load import ConfigError, ConfigWarning, dump_config, load_config
from .schema import Config
from .shipped import find_shipped

__all__ = ["Config", "ConfigError", "ConfigWarning", "dump_config", "find_shipped", "free_keys", "load_config"]
