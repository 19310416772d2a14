"""Settings of one thread do not change the others, and threads may share weights."""

from __future__ import annotations

import threading

import torch

from stylegan_toon import ops
from stylegan_toon.ops import library
from stylegan_toon.ops.conv3x3 import cached, no_weight_gradients, weight_gradients_wanted


def in_another_thread(function):
    results = []
    thread = threading.Thread(target=lambda: results.append(function()))
    thread.start()
    thread.join()
    return results[0]


def test_reference_is_thread_local():
    with ops.reference():
        assert library.reference_wanted() and not in_another_thread(library.reference_wanted)
    assert not library.reference_wanted()


def test_no_weight_gradients_is_thread_local():
    with no_weight_gradients():
        assert not weight_gradients_wanted() and in_another_thread(weight_gradients_wanted)
    assert weight_gradients_wanted()


def test_threads_share_packed_weights():
    w = torch.arange(6.0)
    barrier = threading.Barrier(4)
    results: list[torch.Tensor] = []

    def derive() -> None:
        barrier.wait()
        for name in ("a", "b", "c") * 100:
            results.append(cached(w, name, w.sum, True))

    threads = [threading.Thread(target=derive) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 1200 and all(result == 15 for result in results)
    assert cached(w, "a", lambda: torch.zeros(()), True) == 15
    w.add_(1)
    assert cached(w, "a", w.sum, True) == 21
