"""From text to objects: flags, YAML, class paths."""
