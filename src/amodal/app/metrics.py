"""Counters of a server, written as text for Prometheus."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Metrics:
    """Numbers of requests, seconds and refusals since the start, and gauges that are read when they are asked for."""

    def __init__(self) -> None:
        self.requests: Counter[tuple[str, int]] = Counter()
        self.seconds: Counter[str] = Counter()
        self.refusals: Counter[int] = Counter()
        self.gauges: dict[str, Callable[[], float]] = {"amodal_memory_bytes": resident_bytes}

    def add(self, route: str, status: int, seconds: float) -> None:
        """Count an answered request.

        Args:
            route: path of the route, with its parameters as names.
            status: HTTP status of the response.
            seconds: time from the headers of the request to the end of the response.
        """
        self.requests[route, status] += 1
        self.seconds[route] += seconds  # type: ignore[assignment]  # a Counter also sums floats
        if status == 503:
            self.refusals[status] += 1

    def add_refusal(self, status: int) -> None:
        """Count a request that was refused before it reached a route."""
        self.refusals[status] += 1

    def text(self) -> str:
        """All numbers in Prometheus' text format."""
        counts: Counter[str] = Counter()
        for (route, _), count in self.requests.items():
            counts[route] += count
        lines = [
            *_series("amodal_requests_total", "counter", {
                f'route="{route}",status="{status}"': count for (route, status), count in self.requests.items()
            }),
            *_series("amodal_refusals_total", "counter", {f'status="{s}"': n for s, n in self.refusals.items()}),
            "# TYPE amodal_request_seconds summary",
            *(f'amodal_request_seconds_sum{{route="{route}"}} {value:.6f}' for route, value in self.seconds.items()),
            *(f'amodal_request_seconds_count{{route="{route}"}} {count}' for route, count in counts.items()),
        ]  # fmt: skip
        for name, read in self.gauges.items():
            lines += _series(name, "gauge", {"": read()})
        return "\n".join(lines) + "\n"


def resident_bytes() -> float:
    """Memory of this process that is in use now; 0 where the system does not tell."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except (OSError, ValueError, IndexError):
        return 0.0
    import resource

    return float(pages * resource.getpagesize())


def _series(name: str, kind: str, values: Mapping[str, float]) -> list[str]:
    rows = [f"{name}{{{labels}}} {value:g}" if labels else f"{name} {value:.0f}" for labels, value in values.items()]
    return [f"# TYPE {name} {kind}", *rows]
