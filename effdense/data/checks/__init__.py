"""What is wrong with a data set, counted and named before training, and its repair."""
