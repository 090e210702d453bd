"""Part of every Python process of a fleet, but for keepers: parts of a second in place of the minutes at a reset."""

import importlib
from typing import Any

HALF_A_SECOND_NS = 500_000_000

limits: Any = importlib.import_module("supervisor.store.usage_limits")
limits._MARGIN_NS = limits._SPREAD_NS = HALF_A_SECOND_NS
limits._MINUTE_NS = HALF_A_SECOND_NS // 5  # of the pauses without a known end
