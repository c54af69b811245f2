"""What comparisons of methods are made of."""
