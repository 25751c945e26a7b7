"""What commands print: tables, reports of a training, summaries; a file per subject."""
