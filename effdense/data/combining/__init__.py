"""Several data sets as one, classes under other names, and how often an epoch shows each image."""
