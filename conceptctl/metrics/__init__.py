"""One metric a file: features in, numbers out. Nothing here knows a store or a method, and only `features` a model."""
