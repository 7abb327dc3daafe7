"""Scorers of other projects, loaded by path and never installed: GAPBENCH_PEERS is a folder with the unpacked wheel

pip download --no-deps lmms-eval==0.7.3 -d "$GAPBENCH_PEERS" && unzip "$GAPBENCH_PEERS"/lmms_eval-*.whl

and, for those of VLMEvalKit, with the folder vlmeval/ of github.com/open-compass/VLMEvalKit at e8e78f0.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path
from types import ModuleType
from unittest.mock import MagicMock, patch

import pytest

CASES = 20_000


def lmms_eval(file: str, *needs: str) -> ModuleType:
    """A file of lmms-eval 0.7.3 as a module; `needs` are the files of it that it imports, the rest is stubbed."""
    folder = Path(os.environ.get("GAPBENCH_PEERS", "nowhere"))
    path = folder / "lmms_eval" / file
    if not path.is_file():
        pytest.skip(f"no {path}; set GAPBENCH_PEERS to the unpacked wheel of lmms-eval 0.7.3")
    registry = MagicMock()
    registry.register_metric = registry.register_aggregation = lambda *_, **__: lambda function: function
    stubs = {
        "loguru": MagicMock(),
        "sacrebleu": MagicMock(),
        "lmms_eval.api.registry": registry,
        "lmms_eval.tasks._task_utils.file_utils": MagicMock(),
        "lmms_eval.verifiers": MagicMock(),
        "lmms_eval.verifiers.openai": MagicMock(),
    }
    for parent in ("lmms_eval", "lmms_eval.api", "lmms_eval.tasks", "lmms_eval.tasks._task_utils"):
        stubs[parent] = MagicMock()
    for need in needs:
        stubs[f"lmms_eval.{need.removesuffix('.py').replace('/', '.')}"] = lmms_eval(need)
    spec = importlib.util.spec_from_file_location(f"peer_{path.parent.name}_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    with patch.dict(sys.modules, stubs):
        spec.loader.exec_module(module)
    return module


def vlmevalkit(file: str) -> ModuleType:
    """A file of VLMEvalKit's as a module, its imports stubbed."""
    path = Path(os.environ.get("GAPBENCH_PEERS", "nowhere")) / "vlmeval" / file
    if not path.is_file():
        pytest.skip(f"no {path}; set GAPBENCH_PEERS to a folder with VLMEvalKit's vlmeval/")
    spec = importlib.util.spec_from_file_location(f"peer_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    with patch.dict(sys.modules, {name: MagicMock() for name in ("vlmeval", "vlmeval.smp", "vlmeval.smp.log")}):
        spec.loader.exec_module(module)
    return module
