"""Examples and labels: where they come from, how they are divided, ordered and batched."""
