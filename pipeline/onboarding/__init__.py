"""From logs to a first spec, and a spec held against its logs before it runs."""
