"""A user's pictures: what is refused, and how the rest become squares that a base can learn from."""
