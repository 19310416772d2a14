"""The workspace: no two tensors share memory, and it is freed."""

from __future__ import annotations

import threading

import pytest
import torch
from tiny import tiny_generator

from stylegan_toon import ops
from stylegan_toon.ops import bias_act, library, upfirdn2d, workspace
from stylegan_toon.ops.workspace import empty, release, reused

pytestmark = pytest.mark.skipif(not library.available("cpu"), reason=f"compiled kernels: {library.why_not('cpu')}")


@pytest.fixture(autouse=True)
def own_workspace():
    release()
    yield
    release()


SHAPE = (1, 16, 64, 64)


def test_memory_is_used_again_when_no_tensor_refers_to_it():
    first = empty(SHAPE)
    assert first.shape == SHAPE and first.is_contiguous(memory_format=torch.channels_last)
    at, view = first.data_ptr(), first[0, :, 3]
    del first
    second = empty(SHAPE)
    assert second.data_ptr() != at  # the view is still there
    del view
    half = empty((1, 16, 64, 48))
    assert half.data_ptr() == at
    del half
    assert empty((1, 32, 64, 64)).data_ptr() != second.data_ptr() and len(workspace._layers.buffers) == 2


def test_a_workspace_has_four_buffers():
    held = [empty(SHAPE) for _ in range(7)]
    assert len({t.data_ptr() for t in held}) == 7 and len(workspace._layers.buffers) == 4
    small = empty((1, 1, 4, 4))
    assert len(workspace._layers.buffers) == 4 and small.shape == (1, 1, 4, 4)


def test_networks_in_threads_do_not_share():
    G = tiny_generator()
    ws = torch.randn(3, G.num_ws, 32)
    with torch.no_grad():
        wanted = [G.synthesis(w[None]) for w in ws]
    images = [None] * len(ws)

    def synthesise(i):
        with torch.no_grad():
            for _ in range(5):
                images[i] = G.synthesis(ws[i][None])

    threads = [threading.Thread(target=synthesise, args=(i,)) for i in range(len(ws))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(torch.equal(a, b) for a, b in zip(images, wanted, strict=True))


def test_outputs_seen_by_hooks_are_not_overwritten():
    G = tiny_generator(resolution=64, channel_base=2048)  # large enough for the workspace
    seen, copies = [], []

    def listen(module, arguments, y):
        seen.append(y)
        copies.append(y.clone())

    for block in G.synthesis.blocks():
        block.conv1.register_forward_hook(listen)
    with torch.no_grad():
        for _ in range(2):
            G.synthesis(torch.randn(2, G.num_ws, 32))
    assert workspace._layers.buffers
    assert all(torch.equal(a, b) for a, b in zip(seen, copies, strict=True))


# ---------------------------------------------------------------- outputs

LARGE = (1, 16, 384, 384)  # 9.4 MB


def ops_on(x):
    return bias_act(x, act="lrelu"), upfirdn2d(x, ops.setup_filter([1, 3, 3, 1]), padding=(2, 1))


@pytest.mark.parametrize("which", [0, 1])
def test_an_output_reuses_the_memory_of_the_last_one(which):
    x = torch.randn(LARGE)
    first = ops_on(x)[which]
    at, kept = first.data_ptr(), first[0, 3]
    assert ops_on(x)[which].data_ptr() != at  # a view is enough to keep it
    del first, kept
    assert ops_on(x)[which].data_ptr() == at


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_a_reused_tensor_has_shape_strides_and_dtype(dtype):
    for wanted in (
        torch.empty(LARGE, dtype=dtype, memory_format=torch.channels_last),
        torch.empty(384, 16, 512, dtype=dtype).permute(2, 0, 1),
        torch.empty(1 << 22, dtype=dtype),
    ):
        y = reused(wanted)
        assert (y.shape, y.stride(), y.dtype) == (wanted.shape, wanted.stride(), dtype)
        assert y.data_ptr() != wanted.data_ptr() and y.data_ptr() % 64 == 0
        y.fill_(1)  # all of its memory is mapped
        del y
    assert len(workspace._outputs.buffers) == 1 and not workspace._layers.buffers


def test_small_and_giant_outputs_and_a_fifth_one_get_new_memory():
    for size in (1 << 10, 1 << 25):
        new = torch.empty(size, 2)
        assert reused(new) is new
    held = [reused(torch.empty(LARGE)) for _ in range(7)]
    assert len({t.data_ptr() for t in held}) == 7 and len(workspace._outputs.buffers) == 4
    ops.release()
    assert not workspace._outputs.buffers
    held[0].fill_(1)  # it is in use still


def test_saved_tensors_are_not_overwritten():
    x = torch.randn(LARGE, requires_grad=True)
    loss = sum(y.square().sum() for y in ops_on(x))
    for _ in range(6):
        with torch.no_grad():
            ops_on(torch.randn(LARGE))
    (dx,) = torch.autograd.grad(loss, x)
    exact = x.detach().double().requires_grad_()
    with ops.reference():
        (wanted,) = torch.autograd.grad(sum(y.square().sum() for y in ops_on(exact)), exact)
    torch.testing.assert_close(dx.double(), wanted, rtol=1e-4, atol=1e-4)
