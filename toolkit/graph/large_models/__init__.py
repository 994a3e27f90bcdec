"""Models with more weights than memory: the limit, cutting them into partitions, running one after the other."""
