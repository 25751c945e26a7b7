"""Predictions drawn into a video: pictures, and the file."""
