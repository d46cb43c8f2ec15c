"""`python -m tests.benchmarks [NAME [OPTIONS]]`: one benchmark, or all of them with their defaults."""

from __future__ import annotations

import sys

from tests.benchmarks import catalogue, help, needle, readers

BENCHMARKS = {"readers": readers.main, "catalogue": catalogue.main, "needle": needle.main, "help": help.main}


def main(arguments: list[str]) -> None:
    """Entry point of `make bench`."""
    name, *options = arguments or ["all"]
    if name != "all" and name not in BENCHMARKS:
        sys.exit(f"There is no benchmark {name!r}. Choose from {', '.join(BENCHMARKS)}, or give none for all of them.")
    for chosen in BENCHMARKS if name == "all" else [name]:
        sys.stdout.write(f"## {chosen}\n\n")
        BENCHMARKS[chosen](options)
        sys.stdout.write("\n")


if __name__ == "__main__":
    main(sys.argv[1:])
