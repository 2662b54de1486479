"""What a compiled program costs on a chip, from its text and from shapes."""
