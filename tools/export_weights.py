#!/usr/bin/env python3
"""Write the weights of a run to a file: the same as `videovit export`."""

import sys

try:
    from videovit.cli import run_command
except ModuleNotFoundError as error:
    sys.exit(f"{error}; install the project into this Python: {sys.executable} -m pip install -e .")

if __name__ == "__main__":
    sys.exit(run_command("export"))
