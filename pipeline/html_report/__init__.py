"""One self-contained page on all that happened: `collect` -> plain data -> `charts`, `page`."""
