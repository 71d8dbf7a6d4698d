"""Files in any format to records, with every fault found, counted and named on the way."""
