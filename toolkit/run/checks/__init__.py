"""What is found out before anything is computed: files, names, GPUs, types, and a rehearsal of the passes."""
