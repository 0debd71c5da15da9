#!/usr/bin/env python3
"""Submit a run to a Slurm cluster: the same as `videovit submit`."""

import sys

try:
    from videovit.cli import run_command
except ModuleNotFoundError as error:
    sys.exit(f"{error}; install the project into this Python: {sys.executable} -m pip install -e .")

if __name__ == "__main__":
    sys.exit(run_command("submit"))
