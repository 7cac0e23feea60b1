"""From the best records to a model that is compiled, verified and reported."""
