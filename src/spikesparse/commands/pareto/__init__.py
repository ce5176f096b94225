"""``spikesparse pareto``: a search for networks that are accurate and quiet, on Optuna."""
