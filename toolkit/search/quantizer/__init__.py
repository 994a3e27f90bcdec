"""What a pass that quantizes is: where pairs go, how they are inserted, and the engines it may begin or compare."""
