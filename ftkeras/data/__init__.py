"""Images and labels: where they come from, how they are checked, read, augmented and batched."""
