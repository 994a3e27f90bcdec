"""Command lines of trtexec and Polygraphy, in shell scripts, Makefiles and Dockerfiles, read into orders."""
