"""ExampleValidator: stops the run when the data is not what the spec says."""
