"""Backbones for texts: recurrent networks, Transformers of keras-hub, and users' models."""
