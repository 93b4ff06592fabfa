"""Backbones of images: what the shipped one is good for besides training."""
