"""Data sets of a few large files: tars, parquet, prepared records."""
