"""What an answer is: one of several classes, any number of labels, or a number."""
