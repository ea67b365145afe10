"""Numbers about models: executed arithmetic and time. Prints nothing."""

from .latency import Latency, compare_latency
from .macs import Macs, count_macs

__all__ = ["Latency", "Macs", "compare_latency", "count_macs"]
