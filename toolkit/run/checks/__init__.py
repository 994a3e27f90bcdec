"""Checks before anything is computed: files, names, GPUs, types, and a dry run of the passes."""
