"""Streams from and to the files of other programs: import and export. Nothing of the store knows of it."""
