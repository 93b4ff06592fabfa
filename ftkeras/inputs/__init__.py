"""The kinds of examples, one folder for each."""
