"""Mutated messages against a running farm: see ``benchmarks.fuzz.__main__``."""
