"""Values that stand where labels would and are none: the challenge's example lists are filled with them.

Place: below `extract.annotations.gather` and `mtl score`. Their rows look like labels (VA `.5,-.5`; EXPR `0`) and say
the same of every frame, which no annotation of faces does.
"""

import polars as pl

from cache.labels import ABAW, Schema
from extract.annotations.checks import Finding, report


def are_dummies(table: pl.DataFrame, schema: Schema = ABAW) -> bool:
    """Whether several rows of `table` hold labels, and every label column one value throughout.

    Whole rows are compared: a column that is now missing and now not has two values.
    """
    labels = table.select(schema.columns)
    return labels.height > 1 and any(labels.count().row(0)) and max(labels.select(pl.all().n_unique()).row(0)) == 1


def refuse_dummies(table: pl.DataFrame, where: str, remedy: str, schema: Schema = ABAW) -> None:
    """Raises a `ValueError` that begins with `where` and ends with `remedy` when the labels of `table` are none."""
    if not are_dummies(table, schema):
        return
    row = table.select(schema.columns).row(0, named=True)
    values = ", ".join(f"{name} {value:g}" for name, value in row.items() if value is not None)
    raise ValueError(
        f"{where}: every one of {table.height:,} rows has the same labels ({_short(values)}): an example list filled "
        f"with dummy values, not labels; {remedy}"
    )


def check_dummies(table: pl.DataFrame, where: str, schema: Schema = ABAW) -> list[Finding]:
    """A finding where rows to train or choose on all say the same."""
    message = f"every one of {table.height:,} rows has the same labels"
    remedy = "nothing can be learned from them, or chosen by them; is it an example list filled with dummy values?"
    return report("labels_all_the_same", "warning", [where] if are_dummies(table, schema) else [], message, remedy)


def _short(text: str, most: int = 60) -> str:
    return text if len(text) <= most else text[:most].rpartition(",")[0] + ", ..."
