"""The one definition of the daily pipeline, its local runner and its command line."""
