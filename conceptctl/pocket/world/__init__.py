"""The world that the bundled base knows: kinds of subject, scenes, captions, concepts, and how all is drawn."""
