"""The pipelines: configuration, windows, training, metrics, search, reports and the command line."""
