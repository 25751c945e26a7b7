"""Ordinary videos: decoded, faces detected, tracked and aligned; extras `video` and, for detection, `faces`."""
