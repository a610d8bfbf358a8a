"""TFX components of the daily pipeline, a folder each."""
