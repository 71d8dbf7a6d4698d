"""The built-in data sets, made on the spot."""
