"""Backbones: timm or ONNX models, their weights, preprocessing and runtime."""
