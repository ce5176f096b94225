"""``spikesparse campaign``: a plan of recipes, twins and seeds, run to its end and compared."""
