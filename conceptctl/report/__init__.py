"""The report: one HTML file that needs nothing else. Nothing here knows a store, a model or a metric."""
