"""Several subjects in one picture, and what a prompt says beside them."""
