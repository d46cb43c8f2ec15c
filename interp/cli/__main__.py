"""`python -m interp.cli` is the command `interp`."""

import sys

from interp.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
