"""`python -m tests.benchmarks`: every benchmark, one after the other."""

from __future__ import annotations

import sys

from tests.benchmarks import catalogue, readers

if __name__ == "__main__":
    readers.main(sys.argv[1:])
    catalogue.main(sys.argv[1:])
