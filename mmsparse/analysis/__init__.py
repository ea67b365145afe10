"""Numbers about models: executed arithmetic and time. Prints nothing."""

from .fit import fit_keep_ratio
from .latency import Latency, compare_latency
from .macs import Macs, count_macs

__all__ = ["Latency", "Macs", "compare_latency", "count_macs", "fit_keep_ratio"]
