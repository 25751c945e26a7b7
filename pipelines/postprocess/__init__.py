"""Smoothing, offsets and thresholds: fitted out of fold, stored, applied."""
