"""In words: what the commands beside a run have to say, what to try next, and one node explained."""
