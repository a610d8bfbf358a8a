"""Plan: what the run is to do, resolved once."""
