"""`generate`: pictures of what a store's model knows."""
