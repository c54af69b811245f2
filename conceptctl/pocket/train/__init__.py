"""How the bundled base is trained: `python -m conceptctl.pocket.train`. Nothing else in the package needs this."""
