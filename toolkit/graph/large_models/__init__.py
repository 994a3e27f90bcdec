"""Models with more weights than memory: the memory limit, partitioning, and running the partitions in turn."""
