"""Texts: how they are checked, become tokens, and are varied in training."""
