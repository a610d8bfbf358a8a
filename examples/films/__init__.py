"""A small simulated log of a film site, as a database exports it; for docs/tutorial.md."""
