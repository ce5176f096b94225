"""``python -m spikesparse``."""

from spikesparse.commands.main import entry

if __name__ == "__main__":
    entry()
