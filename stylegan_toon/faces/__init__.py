"""Floor 3: where everything is in a face."""
