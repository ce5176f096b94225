"""A module or folder for each command."""
