"""Log files of each format as checked batches of events."""
