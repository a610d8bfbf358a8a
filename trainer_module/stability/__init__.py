"""What training says of its own stability: statistics of steps, events, verdict, report."""
