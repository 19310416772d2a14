"""Inversion: from a photo to the latent with which a generator shows it."""
