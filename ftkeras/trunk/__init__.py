"""The trunk: the frozen part of a network, run once, its output stored for the part that trains."""
