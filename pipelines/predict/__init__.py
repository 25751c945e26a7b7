"""Predictions of runs and ensembles for frames without labels."""
