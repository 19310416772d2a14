"""Metrics of networks, of sets of pictures, and of photos with their toons."""

from ..features.extractors import Extractor, extractor
from .distances import frechet_distance, kernel_distance, mmd, moments, precision_recall
from .evaluation import evaluate, evaluate_pictures
from .names import DEFAULT, Metric, parse_metric
from .perceptual_path import path_distances, path_length
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
