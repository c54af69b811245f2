"""Adapters: deltas for the projections, and what of them trains."""
