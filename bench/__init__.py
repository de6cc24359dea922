"""Benchmarks: ratios taken in one run, never timed tests. `python -m bench SUITE`."""
