"""``spikesparse report``: finished runs side by side, as one HTML file and PNGs."""
