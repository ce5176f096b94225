"""Files: read without trust, written whole."""
