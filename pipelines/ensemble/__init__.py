"""Ensembles of finished runs, from their cached predictions."""
