#!/usr/bin/env python3
"""Classify videos with a trained model: the same as `videovit predict`."""

import sys

try:
    from videovit.cli import run_command
except ModuleNotFoundError as error:
    sys.exit(f"{error}; install the project into this Python: {sys.executable} -m pip install -e .")

if __name__ == "__main__":
    sys.exit(run_command("predict"))
