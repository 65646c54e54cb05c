"""Decode emotional states from fMRI and prove what the decoding is worth."""

__version__ = "0.1.0"
