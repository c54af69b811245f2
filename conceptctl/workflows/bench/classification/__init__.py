"""Comparisons of methods that learn to tell classes apart, one task after the other."""
