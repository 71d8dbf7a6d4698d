"""Records to files in any of the formats that are written."""
