"""Coverage-guided fuzzing of everything that reads networks (needs ``pip install atheris``; Linux).

Whatever the bytes, reading either gives networks or ends in a `ToonError`: no other exception, no hang (10 s), no
more than 1 GB, and none of the functions that hostile pickles call is ever called.

    python tests/fuzz/fuzz_pickles.py runs/corpus -max_total_time=3600
"""

from __future__ import annotations

import io
import os
import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["stylegan_toon.weights"]):
    from stylegan_toon.errors import ToonError
    from stylegan_toon.weights import read_networks, write_networks

import torch

from stylegan_toon.models import Discriminator, DiscriminatorConfig, Generator, GeneratorConfig


def seeds(folder: Path) -> None:
    """Small whole files of every kind that is read."""
    folder.mkdir(parents=True, exist_ok=True)
    size = dict(resolution=8, channel_base=16, channel_max=2)
    G = Generator(GeneratorConfig(z_dim=2, w_dim=2, mapping_layers=1, **size)).eval()
    D = Discriminator(DiscriminatorConfig(**size)).eval()
    G.provenance = {}
    for suffix in (".pkl", ".pt", ".safetensors"):
        write_networks(folder / f"family{suffix}", {"G_ema": G, "D": D}, overwrite=True)
    for zipped in (True, False):
        state = {"G_ema": G.state_dict(), "D": D.state_dict()}
        buffer = io.BytesIO()
        torch.save(state, buffer, _use_new_zipfile_serialization=zipped)
        (folder / f"state-{'zip' if zipped else 'old'}.pt").write_bytes(buffer.getvalue())


def _forbid(event: str, args: tuple) -> None:
    if event in ("os.system", "os.exec", "os.posix_spawn", "subprocess.Popen", "pickle.find_class") and reading:
        raise SystemExit(f"{event} {args} while reading")


reading = False
_path = Path(tempfile.mkdtemp(dir="/dev/shm" if os.path.isdir("/dev/shm") else None)) / "network.pkl"


def one_input(data: bytes) -> None:
    global reading
    _path.write_bytes(data)
    reading = True
    try:
        read_networks(_path)
    except ToonError:
        pass
    finally:
        reading = False


def main() -> None:
    torch.set_num_threads(1)
    corpus = Path(sys.argv[1] if len(sys.argv) > 1 and not sys.argv[1].startswith("-") else "runs/corpus")
    seeds(corpus)
    for seed in corpus.glob("*.*"):  # imports that happen on first use are over before watching begins
        one_input(seed.read_bytes())
    sys.addaudithook(_forbid)
    limits = ["-timeout=10", "-rss_limit_mb=1500", "-max_len=200000", f"-artifact_prefix={corpus.parent}/"]
    atheris.Setup([sys.argv[0], str(corpus), *limits, *sys.argv[2:]], one_input)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
