#!/usr/bin/env python3
"""Re-encode videos so that they decode quickly: the same as `videovit reencode`."""

import sys

try:
    from videovit.cli import run_command
except ModuleNotFoundError as error:
    sys.exit(f"{error}; install the project into this Python: {sys.executable} -m pip install -e .")

if __name__ == "__main__":
    sys.exit(run_command("reencode"))
