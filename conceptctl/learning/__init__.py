"""How a concept is trained: the interface of methods, the one loop over their phases, what it keeps."""
