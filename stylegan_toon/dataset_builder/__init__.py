"""What the command `dataset` does: it filters and crops pictures, or draws avatars, and writes a set with a report."""
