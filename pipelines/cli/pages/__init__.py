"""What commands print: tables, reports of a training, summaries; one file per subject."""
