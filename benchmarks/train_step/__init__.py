"""One training step of one network through every contestant: see ../train_step.py."""
