"""Training: one loop, its snapshots and its log, and StyleGAN2-ADA as a task of it."""
