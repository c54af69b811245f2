"""`learn`, as stages that return values."""
