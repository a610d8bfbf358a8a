"""The ranking spec and the TFDV schema that follows from it."""
