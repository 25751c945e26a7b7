"""Measurements, each a ratio against a named rival in one run; `make bench` runs `python -m bench`."""
