"""The contract between the coordinator, the device agents and the clients.

``farm.proto`` is the wire format, ``records`` the values everybody computes with, ``convert`` the
only bridge between the two, ``errors`` what a refusal looks like. Imports nothing of ours.
"""
