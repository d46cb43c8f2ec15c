"""Detectors that are fitted to data: each maps attention readings of a labelled sample to a score.

What needs no fitting lives in `interp.analyzers`; what traces causes through heads lives in `circuits`.
"""
