"""The device agent: dials in, is leased work, measures, answers.

Imports ``protos`` and the tiny set of the ``agent`` extra; only ``build`` needs TVM, and only
inside its functions.
"""
