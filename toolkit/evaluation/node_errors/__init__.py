"""The error of every node against the float model: what it is compared with, measured, and kept if killed."""
