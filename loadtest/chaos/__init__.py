"""Faults on purpose: a real server under load, something breaks, and a ledger tells whether anything was lost.

``python -m loadtest.chaos --help``. Read ``trial`` first: what a fault is given, and the laws it is held to.
"""
