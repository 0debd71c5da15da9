"""The configuration: SlowFast's keys as frozen dataclasses, loaded from YAML files and KEY VALUE pairs."""

from .keys import free_keys
from .load import ConfigError, ConfigWarning, dump_config, load_config
from .schema import Config

__all__ = ["Config", "ConfigError", "ConfigWarning", "dump_config", "free_keys", "load_config"]
