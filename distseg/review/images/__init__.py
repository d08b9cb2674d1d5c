"""Photographs on pages: `viewer` where there are layers, `gallery` where there are panels alone; `predictions`."""
