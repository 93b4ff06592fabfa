"""What an example is: a folder for each kind of data."""
