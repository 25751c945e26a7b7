"""Extraction as `mtl extract` does it: from mtl.toml to filled streams, on one device or several."""
