"""A model as a program of oneDNN's primitives; ``package/onednn_part`` runs it."""
