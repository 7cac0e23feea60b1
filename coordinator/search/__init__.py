"""Proposing: what to try next, for which task."""
