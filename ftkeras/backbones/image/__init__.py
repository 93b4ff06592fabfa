"""Backbones for images, from keras-hub, and the features of the shipped one."""
