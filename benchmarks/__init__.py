"""Each file measures one promise, beside its peer, in one run: ``python -m benchmarks.NAME``."""
