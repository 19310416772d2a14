"""A film made from known motion becomes a cartoon film: how steady it is, how alike, and what a frame costs.

    python benchmarks/film.py --out film                     # one face, then two; 5 s each
    python benchmarks/film.py --out film --seconds 1 --draw ink

The faces are made by the network `faces`: each walks between latents of its own (expression and a little pose), and is
pasted into a background along a known path, with film grain and a tone. Then, in the source and in the result:

- jitter: standard deviation of the second differences of the mesh's landmarks, in thousandths of the face's side, after
  the known motion has been taken out; and the ratio of the two;
- identity: standard deviation of the distance of dlib's vectors to their mean;
- sound: whether the packets are equal;
- processor time of one thread: finding faces and making the film for each frame, encoding and learning
  once for the film.
"""

from __future__ import annotations

import argparse
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import torch
from PIL import Image, ImageFilter
from timing import describe

from stylegan_toon import InversionConfig, load_network
from stylegan_toon.data.images import to_pil, to_tensor
from stylegan_toon.data.video import Film
from stylegan_toon.faces.align import Aligned, crop
from stylegan_toon.faces.mesh import face_mesh
from stylegan_toon.faces.paste import paste_back
from stylegan_toon.features.identity import DlibFaces
from stylegan_toon.pipelines.defaults import TOONIFY_STYLE
from stylegan_toon.pipelines.film import toonify_film
from stylegan_toon.pipelines.toonify import Toonifier

SIZE, RATE, SIDE = (854, 480), 25, 256


def path_of(face: int, faces: int, times: np.ndarray) -> np.ndarray:
    """Quads ``[T, 4, 2]`` of a face: it sways, nods, comes nearer and tilts."""
    middle = SIZE[0] * (face + 1) / (faces + 1)
    x = middle + 45 * np.sin(1.3 * times + face)
    y = 235 + 25 * np.sin(1.9 * times + 2 * face)
    side = 250 * (1 + 0.12 * np.sin(0.9 * times + face))
    angle = 0.12 * np.sin(1.1 * times + face)
    ax = side[:, None] / 2 * np.stack([np.cos(angle), np.sin(angle)], 1)
    ay = np.stack([-ax[:, 1], ax[:, 0]], 1)
    centre = np.stack([x, y], 1)
    return np.stack([centre - ax - ay, centre - ax + ay, centre + ax + ay, centre + ax - ay], 1)


@torch.no_grad()
def walk(seed: int, count: int) -> list[Image.Image]:
    """Pictures of one person: the rows of ws that carry expression and pose move towards other latents and back."""
    G = load_network("faces")
    z = torch.from_numpy(np.random.default_rng(seed).standard_normal((4, G.config.z_dim))).float()
    ws = G.mapping(z, psi=0.7)
    pictures = []
    for t in np.arange(count) / RATE:
        mixed = ws[:1].clone()
        for k, (speed, rows) in enumerate([(1.7, slice(3, 7)), (2.6, slice(4, 7)), (0.8, slice(0, 3))], 1):
            share = 0.22 * (1 - np.cos(speed * t))
            mixed[:, rows] += share * (ws[k : k + 1, rows] - ws[:1, rows])
        pictures.append(to_pil(G.synthesis(mixed, noise_mode="const", resolution=SIDE)))
    return pictures


def background(seed: int) -> Image.Image:
    """A blurred picture of soft colours."""
    colours = np.random.default_rng(seed).integers(60, 200, (5, 8, 3), np.uint8)
    return Image.fromarray(colours).resize(SIZE, Image.Resampling.BICUBIC).filter(ImageFilter.GaussianBlur(12))


def make(path: Path, seeds: list[int], count: int) -> np.ndarray:
    """Write the source; quads ``[faces, T, 4, 2]``."""
    times = np.arange(count) / RATE
    quads = np.stack([path_of(i, len(seeds), times) for i in range(len(seeds))])
    people, scene, rng = [walk(seed, count) for seed in seeds], background(0), np.random.default_rng(0)
    with av.open(str(path), "w") as container:
        track = container.add_stream("libx264", rate=RATE, options={"crf": "12"})
        track.width, track.height, track.pix_fmt = *SIZE, "yuv420p"
        sound = container.add_stream("aac", rate=48000)
        sound.codec_context.layout = "mono"
        wave = np.sin(2 * np.pi * 440 * np.arange(48000 * count // RATE) / 48000).astype(np.float32)[None]
        tone = av.AudioFrame.from_ndarray(wave, format="fltp", layout="mono")
        tone.sample_rate, tone.pts = 48000, 0
        resampler = av.AudioResampler(format="fltp", layout="mono", rate=48000, frame_size=1024)
        for t in range(count):
            picture = scene.copy()
            for person, quad in zip(people, quads[:, t]):
                picture = paste_back(picture, Aligned(person[t], quad), person[t])
            grain = rng.normal(0, 2.5, (SIZE[1], SIZE[0], 3))
            pixels = (np.asarray(picture) + grain).clip(0, 255).astype(np.uint8)
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24").reformat(
                format="yuv420p", dst_colorspace=5, dst_color_range=1
            )
            frame.pts, frame.time_base = t, Fraction(1, RATE)
            container.mux(track.encode(frame))
        container.mux(track.encode())
        for part in [*resampler.resample(tone), *resampler.resample(None)]:
            container.mux(sound.encode(part))
        container.mux(sound.encode())
    return quads


def measure(path: Path, quads: np.ndarray) -> tuple[list[float], list[float]]:
    """Jitter and the spread of identity of each face; the crops follow the known motion."""
    network = DlibFaces().eval()
    points: list[list[np.ndarray]] = [[] for _ in quads]
    vectors: list[list[np.ndarray]] = [[] for _ in quads]
    for t, frame in enumerate(Film(path)):
        for i, quad in enumerate(quads[:, t]):
            face = crop(frame.image, quad, SIDE)
            points[i].append(face_mesh(face).points / SIDE)
            with torch.no_grad():
                vectors[i].append(network.raw(to_tensor(face))[0].numpy())
    jitter = [1000 * float(np.diff(np.array(one), 2, axis=0).std()) for one in points]
    spread = []
    for one in vectors:
        apart = np.linalg.norm(np.array(one) - np.mean(one, axis=0), axis=1)
        spread.append(float(apart.std()))
    return jitter, spread


def packets(path: Path) -> list[bytes]:
    with av.open(str(path)) as container:
        return [bytes(packet) for packet in container.demux(container.streams.audio[0]) if packet.size]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="Folder for the films.")
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--faces", type=int, nargs="*", default=[1, 2], help="Films with so many faces.")
    parser.add_argument("--style", default=TOONIFY_STYLE)
    parser.add_argument("--draw", help="A drawing style in place of the network.")
    parser.add_argument("--steps", type=int, help="Of the search; as toonify if not given.")
    parser.add_argument("--tune", type=int, help="Steps of tuning; as toonify if not given.")
    args = parser.parse_args()
    torch.set_num_threads(1)
    args.out.mkdir(parents=True, exist_ok=True)
    print(describe())
    print("\n| film | jitter source | result | ratio | identity source | result | sound | find s | learn s | show s |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    for faces in args.faces:
        count = round(args.seconds * RATE)
        source, path = args.out / f"faces-{faces}.mp4", args.out / f"faces-{faces}-toon.mp4"
        quads = make(source, list(range(11, 11 + faces)), count)
        config = InversionConfig(steps=args.steps, tune_steps=args.tune)
        toonifier = args.draw or Toonifier.load("faces", args.style, config=config)
        result = toonify_film(source, path, toonifier, quiet=True)
        result.sheet.save(args.out / f"faces-{faces}-sheet.png")
        find, learn, show = result.seconds
        before, after = measure(source, quads), measure(path, quads)
        sound = "equal" if packets(source) == packets(path) else "DIFFERENT"
        for i in range(faces):
            (j, s), (k, r) = ((one[0][i], one[1][i]) for one in (before, after))
            print(
                f"| {faces} face(s), face {i + 1} | {j:.2f} | {k:.2f} | {k / j:.2f} | {s:.3f} | {r:.3f} | {sound} "
                f"| {find / count:.2f} | {learn:.0f} | {show / count:.2f} |", flush=True,
            )  # fmt: skip


if __name__ == "__main__":
    main()
