import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(scope="module")
def benchmark(repo_root: Path) -> Iterator[Callable[[str], ModuleType]]:
    """Imports a module of the benchmarks."""
    folder = str(repo_root / "benchmarks")
    sys.path.append(folder)  # at the end: one of them is called as Kubernetes' client is
    yield importlib.import_module
    sys.path.remove(folder)
