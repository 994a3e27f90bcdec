"""The base class of quantizing passes: pair placement and insertion, and the engines built early or compared."""
