"""The local engine, for the registry."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, Final

from supervisor.engines.interface import Client, Engine, EngineFactory
from supervisor.engines.local.client import LocalClient
from supervisor.errors import InvalidArguments

__all__ = ["FACTORY"]


class _LocalFactory:
    def engine(self, root: str, python: str | os.PathLike[str] | None) -> Engine:
        from supervisor.engines.local.engine import LocalEngine

        return LocalEngine(root, python)

    def client(self) -> Client:
        return LocalClient()

    def accepted_options(self) -> dict[str, str]:
        return {}

    def check_options(self, options: Mapping[str, Any]) -> dict[str, Any]:
        for name in options:
            if name != "shared_dir":  # comes from the settings as well
                message = f"the local engine has no option {name!r:.80}"
                raise InvalidArguments(message)
        return {}


FACTORY: Final[EngineFactory] = _LocalFactory()
