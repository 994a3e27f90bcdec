"""Build instructions in command lines of trtexec and Polygraphy, in shell scripts, Makefiles and Dockerfiles."""
