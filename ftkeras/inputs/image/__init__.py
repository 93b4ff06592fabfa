"""Images: from the bytes of a file to a model's inputs."""
