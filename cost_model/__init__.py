"""The cost model: features of candidates in, scores out. The only place that imports LightGBM."""
