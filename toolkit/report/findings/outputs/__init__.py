"""Messages on samples, tasks and answers, accuracy, and warnings about its figures."""
