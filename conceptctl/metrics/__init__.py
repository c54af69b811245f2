"""One metric a file: features in, numbers out. Nothing here knows a model, a store or a method."""
