"""Where the bytes of pictures come from: caches in memory and on disk, tar shards."""
