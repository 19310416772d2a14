from __future__ import annotations

from pathlib import Path

import pytest
from threads import one_thread  # noqa: F401 (a fixture)
from trainings import picture_set


@pytest.fixture
def pictures(tmp_path) -> Path:
    return picture_set(tmp_path / "set")
