"""Faces where they lie: files, archives, videos."""
