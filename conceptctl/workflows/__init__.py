"""One use case a file: plans and results are frozen, nothing is printed."""
