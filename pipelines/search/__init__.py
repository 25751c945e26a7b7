"""Searching over strategies: grids, samplers, studies and their record."""
