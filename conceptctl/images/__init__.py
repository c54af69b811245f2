"""A user's pictures: what is refused, and what the rest become that a base can learn from."""
