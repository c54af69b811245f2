"""conceptctl: teach a text-to-image model one concept at a time, and keep every one of them."""

__version__ = "0.1.0"
