"""The training folder in miniature, written once."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.training_data import write_training_folder


@pytest.fixture(scope="session")
def training_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_training_folder(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="session")
def empty_labels_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_training_folder(tmp_path_factory.mktemp("empty"), object_value=0)
