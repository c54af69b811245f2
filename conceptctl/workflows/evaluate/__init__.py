"""`eval`: measured, kept, reported."""
