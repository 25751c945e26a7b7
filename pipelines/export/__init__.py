"""Runs and ensembles as bundles: ONNX files and what lies around them, to be run without mtl."""
