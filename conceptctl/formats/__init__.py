"""Checkpoints in the layouts that other programs read and write."""
