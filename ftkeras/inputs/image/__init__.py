"""Images: from the bytes of a file to what a model takes, and what is done with pixels."""
