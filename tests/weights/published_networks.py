"""Saves networks of every kind that a checkout of stylegan2-ada-pytorch can make, with the outputs they compute.

python published_networks.py CHECKOUT FOLDER
"""

from __future__ import annotations

import copy
import pickle
import sys
from pathlib import Path

checkout, folder = sys.argv[1], Path(sys.argv[2])
sys.path.insert(0, checkout)

import torch  # noqa: E402
from training import networks  # noqa: E402

SAVE = {
    "plain": lambda family, file, protocol=None: pickle.dump(family, file, protocol=protocol),
    "alone": lambda family, file: pickle.dump(family["G_ema"], file),
    "zip": lambda family, file: torch.save(family, file),
    "old": lambda family, file: torch.save(family, file, _use_new_zipfile_serialization=False),
    "states": lambda family, file: torch.save({name: net.state_dict() for name, net in family.items()}, file),
}


def make(name, g=(), s=(), m=(), d=(), size=32, c=0, channels=3, save="plain", **options):
    torch.manual_seed(sum(map(ord, name)))
    common = dict(c_dim=c, img_resolution=size, img_channels=channels)
    width = dict(channel_base=512, channel_max=32)
    g, s, m, d = {"z_dim": 40, "w_dim": 48, **dict(g)}, {**width, **dict(s)}, dict(m), {**width, **dict(d)}
    G = networks.Generator(**common, **g, mapping_kwargs={"num_layers": 2, **m}, synthesis_kwargs=s)
    D = networks.Discriminator(**common, **d)
    for network in (G, D):
        for parameter in network.parameters():
            parameter.data += 0.3 * torch.randn_like(parameter)
    G.mapping.w_avg.normal_()
    family = {"G": G, "D": D, "G_ema": copy.deepcopy(G)}
    for parameter in family["G_ema"].parameters():
        parameter.data *= 1.1
    for network in family.values():
        network.eval().requires_grad_(False)
    with open(folder / f"{name}.pkl", "wb") as file:
        SAVE[save](family, file, **options)
    z, label = torch.randn(4, g["z_dim"]), torch.eye(c)[torch.arange(4) % c] if c else torch.zeros(4, 0)
    noise = {"noise_mode": "const"} if s.get("use_noise", True) else {}
    result = {"z": z, "c": label if c else None}
    for which in ("G", "G_ema"):
        result[which] = family[which](z, label, truncation_psi=0.7, truncation_cutoff=3, force_fp32=True, **noise)
    result["D"] = D(result["G_ema"], label, force_fp32=True)
    torch.save(result, folder / f"{name}.pt")


for protocol in (2, 3, 4, 5):
    make(f"protocol{protocol}", protocol=protocol)
for one in ("skip", "resnet", "orig"):
    for two in ("skip", "resnet", "orig"):
        make(f"{one}-{two}", s={"architecture": one}, d={"architecture": two})
for kind in SAVE:
    make(f"saved-{kind}", save=kind)
for layers in (1, 8):
    make(f"mapping{layers}", m={"num_layers": layers})
for clamp, half in ((256, 2), (256, 4), (0.8, 0)):
    make(f"clamp{clamp}-half{half}", s={"conv_clamp": clamp, "num_fp16_res": half}, d={"conv_clamp": clamp})
for size in (8, 64, 128):
    make(f"size{size}", size=size)
make("wide-mapping", m={"layer_features": 64, "num_layers": 3})
make("quick-mapping", m={"lr_multiplier": 1.0})
make("labels", c=5)
make("labels-mapped", c=4, d={"cmap_dim": 20})
make("grey", channels=1)
make("odd-widths", s={"channel_base": 777, "channel_max": 37}, d={"channel_base": 600, "channel_max": 500})
make("large-latents", g={"z_dim": 512, "w_dim": 512})
make("filter", s={"resample_filter": [1, 2, 1]})
make("no-noise", s={"use_noise": False})
make("groups", d={"epilogue_kwargs": {"mbstd_group_size": 2}})
make("no-groups", d={"epilogue_kwargs": {"mbstd_num_channels": 0}})
make("one-group", d={"epilogue_kwargs": {"mbstd_group_size": None, "mbstd_num_channels": 2}})
make("frozen", d={"block_kwargs": {"freeze_layers": 4}})
