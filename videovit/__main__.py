"""`python -m videovit` is the command `videovit`."""

import sys

from videovit.cli import main

if __name__ == "__main__":  # spawned processes import this file again
    sys.exit(main())
