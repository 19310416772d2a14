"""Names of metrics and what they mean.

    fd-NET, kd-NET, pr-NET    Frechet and kernel distance, precision and recall on the features of NET: inception,
                              vgg16, efficientnet-lite0 or textures. fid and kid are fd-inception and kd-inception.
    ppl-zfull, ppl-wfull, ppl-zend, ppl-wend    perceptual path length with LPIPS, whole pictures
    identity                  cosine of FaceNet embeddings of the same latents in two networks, or of photo and toon
    detection                 share of pictures in which MTCNN finds a face
    ppl-...-vgg, identity-dlib    the same with networks that ship

The published names always mean the published networks; with other networks, the name of the metric tells which.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from ..errors import ToonError, short
from ..features.extractors import NAMES, OFFLINE
from .perceptual_path import PATHS

DEFAULT = (f"fd-{OFFLINE}", f"kd-{OFFLINE}", f"pr-{OFFLINE}", "detection")
COMPARED = ("fd", "kd", "pr")  # kinds that compare features with those of real pictures: fd-NET and so on


@dataclass(frozen=True)
class Metric:
    """One metric.

    Attributes:
        name: as asked for.
        kind: "fd", "kd", "pr", "ppl", "identity" or "detection".
        network: whose features: a name in ``NAMES``, "lpips", "vgg", "facenet", "dlib" or "mtcnn".
        path: which of ``PATHS``, for ppl.
    """

    name: str
    kind: str
    network: str
    path: str = ""

    @property
    def results(self) -> tuple[str, ...]:
        """Names of the values it gives."""
        return (f"precision-{self.network}", f"recall-{self.network}") if self.kind == "pr" else (self.name,)

    @property
    def better(self) -> str:
        """ "higher" or "lower"."""
        return "higher" if self.kind in ("pr", "identity", "detection") else "lower"


def parse_metric(name: str, networks: Sequence[str] = NAMES) -> Metric:
    """The metric of a name; ``networks`` are the possible NETs.

    Raises:
        ToonError: there is no such metric.
    """
    text = {"fid": "fd-inception", "kid": "kd-inception"}.get(name, name)
    if match := re.fullmatch(rf"({'|'.join(COMPARED)})-(.+)", text):
        if match[2] in networks:
            return Metric(name, match[1], match[2])
    elif match := re.fullmatch(rf"ppl-({'|'.join(PATHS)})(-vgg)?", text):
        return Metric(name, "ppl", "vgg" if match[2] else "lpips", match[1])
    elif match := re.fullmatch(r"identity(-dlib)?", text):
        return Metric(name, "identity", "dlib" if match[1] else "facenet")
    elif text == "detection":
        return Metric(name, "detection", "mtcnn")
    raise ToonError(
        f"There is no metric named {short(repr(name))}: choose from fid, kid, "
        f"{', '.join(f'{kind}-NET' for kind in COMPARED)} (NET is one of {', '.join(networks)}), "
        f"{', '.join(f'ppl-{path}' for path in PATHS)}, each also with -vgg, identity, identity-dlib, detection."
    )
