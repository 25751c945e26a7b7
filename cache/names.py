"""The field's fixed vocabulary, in the order of the challenge's files: tasks, expressions, action units, splits."""

TASKS = ("va", "expr", "au")
VA_COLUMNS = ("valence", "arousal")
EXPRESSIONS = ("Neutral", "Anger", "Disgust", "Fear", "Happiness", "Sadness", "Surprise", "Other")
ACTION_UNITS = (
    "AU1",
    "AU2",
    "AU4",
    "AU6",
    "AU7",
    "AU10",
    "AU12",
    "AU15",
    "AU23",
    "AU24",
    "AU25",
    "AU26",
)
LABEL_COLUMNS = (*VA_COLUMNS, "expression", *ACTION_UNITS)
TASK_COLUMNS = {"va": VA_COLUMNS, "expr": ("expression",), "au": ACTION_UNITS}
SPLITS = ("train", "val", "test", "none")
