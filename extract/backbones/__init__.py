"""Backbones: timm or ONNX models, their weights, preprocessing and runtime."""

import os

# To import onnxruntime would write a number for this machine into the user's cache folder, and gather what it does.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
