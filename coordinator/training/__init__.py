"""Training the cost model on what was measured."""
