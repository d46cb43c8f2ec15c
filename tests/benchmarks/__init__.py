"""Benchmarks: ratios against peers measured in the same run, peak memory beside time. Run by `make bench`."""
