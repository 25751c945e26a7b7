"""Annotations read, checked and gathered into one frames table."""
