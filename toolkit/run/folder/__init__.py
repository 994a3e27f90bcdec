"""The run folder: whose results it holds, how they are kept, and what a command must not write over."""
