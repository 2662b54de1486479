"""What is computed of data once and kept: indices, latents, texts."""
