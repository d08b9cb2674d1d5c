"""Photographs on pages: `viewer` where a run has kept layers, `gallery` where it has panels alone."""
