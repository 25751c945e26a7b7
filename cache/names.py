"""The vocabulary of the challenge's own files, as the schema `abaw` has it; and the splits of the frames table."""

from cache.labels import ABAW

TASKS = ABAW.names
VA_COLUMNS = ABAW.group("va").columns
EXPRESSIONS = ABAW.group("expr").classes
ACTION_UNITS = ABAW.group("au").columns
LABEL_COLUMNS = ABAW.columns
SPLITS = ("train", "val", "test", "none")
