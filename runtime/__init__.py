"""The runner of bundles: one module that needs NumPy and onnxruntime alone, installable by itself."""
