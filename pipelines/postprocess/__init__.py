"""Smoothing and thresholds: fitted out of fold, stored, applied."""
