"""What Prometheus reads at ``/metrics``."""

from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from components.serving.api.worker import Worker

_SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60)


class Metrics:
    """One server's numbers. The engine's own are read when they are asked for."""

    def __init__(self, worker: Callable[[], Worker]) -> None:
        self.registry = CollectorRegistry()
        self._worker = worker
        self.requests = Counter(
            "qwenforge_requests", "HTTP requests by path and status", ["path", "status"], registry=self.registry
        )
        self.rejected = Counter(
            "qwenforge_rejected", "Requests answered 429, the queue being full", registry=self.registry
        )
        self.cancelled = Counter(
            "qwenforge_cancelled_answers", "Answers whose client left before their end", registry=self.registry
        )
        self.swaps = Counter(
            "qwenforge_model_swaps", "Times the alias moved, by outcome", ["outcome"], registry=self.registry
        )
        self.first_token = Histogram(
            "qwenforge_first_token_seconds", "From the request to the first token", buckets=_SECONDS,
            registry=self.registry,
        )  # fmt: skip
        self.inter_token = Histogram(
            "qwenforge_inter_token_seconds", "From one token to the next of the same answer", buckets=_SECONDS,
            registry=self.registry,
        )  # fmt: skip
        self.registry.register(self)  # type: ignore[arg-type]

    def collect(self) -> Iterator[Metric]:
        worker = self._worker()
        now = worker.statistics
        gauges = {
            "running_answers": (now.running, "Answers being written"),
            "waiting_answers": (now.waiting, "Answers in the queue"),
            "cache_pages": (now.pages, "Pages of the key-value cache"),
            "cache_pages_used": (now.pages_used, "Pages held by answers"),
            "cache_pages_kept": (now.pages_cached, "Pages kept for prompts that begin alike"),
            "tokens_per_second": (now.tokens_per_second, "Tokens written, over the last ten seconds of work"),
        }
        for name, (value, text) in gauges.items():
            yield GaugeMetricFamily(f"qwenforge_{name}", text, value=value)
        model = GaugeMetricFamily("qwenforge_model", "The checkpoint that answers", labels=["name", "digest"])
        model.add_metric([worker.name, worker.digest], 1)
        yield model
        counters = {
            "prompt_tokens": (now.prompt_tokens, "Tokens of prompts, since this checkpoint was loaded"),
            "reused_tokens": (now.reused_tokens, "Of these, found in the cache"),
            "answer_tokens": (now.answer_tokens, "Tokens written, since this checkpoint was loaded"),
            "preemptions": (now.preemptions, "Answers that had to give their pages back for a while"),
        }
        for name, (value, text) in counters.items():
            yield CounterMetricFamily(f"qwenforge_{name}", text, value=value)
