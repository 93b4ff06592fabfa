"""Backbones for texts that need nothing but Keras: recurrent networks over words or characters."""
