"""Floor 4: how good a network or a set of pictures is."""

from ..features.extractors import Extractor, extractor
from .distances import frechet_distance, kernel_distance, mmd, moments, precision_recall
from .measure import evaluate, evaluate_pictures
from .names import DEFAULT, Metric, parse_metric
from .path import path_distances, path_length
from .suite import Suite

__all__ = [
    "DEFAULT",
    "Extractor",
    "Metric",
    "Suite",
    "evaluate",
    "evaluate_pictures",
    "extractor",
    "frechet_distance",
    "kernel_distance",
    "mmd",
    "moments",
    "parse_metric",
    "path_distances",
    "path_length",
    "precision_recall",
]
