"""In words: samples, tasks and answers, accuracy, and what to know before trusting its figures."""
