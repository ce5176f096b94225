"""``spikesparse exits``: what early exits of a trained run would spend and get right, and which are best."""
