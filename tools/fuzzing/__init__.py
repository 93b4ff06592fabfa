"""The cases of tools/fuzz.py: how they are made, and what must become of them."""
