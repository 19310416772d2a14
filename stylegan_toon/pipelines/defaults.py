"""Defaults that a command shows on its help page and the function behind it uses; no torch here."""

from __future__ import annotations

BLEND_SWAP = "b64,b128"
FINETOON_SWAP = "fine-toon"
TOONIFY_SWAP = "b4-"
TOONIFY_STYLE = "toon-fine-tooned"
TOONIFY_DRAWING = "comic"  # the renderer that the networks of TOONIFY_STYLE learned from
# toonify: steps of the search from w_avg and from the encoder's latent, and of pivotal tuning with Adam and with Muon.
STEPS, STEPS_FROM_ENCODER = 90, 0
TUNE_STEPS, TUNE_STEPS_MUON = 60, 20
SHARPEN = 0.8  # of cartoons, see `drawing.sharpen.sharpen`
SOFTEN = 1.0  # of lines in the skin, see `drawing.soften.soften_lines`
RESOLUTION = 512  # pixels: side of a cartoon
