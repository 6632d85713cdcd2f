"""The page that Prometheus reads: TensorFlow Serving's names, labels and buckets."""

from __future__ import annotations

from threading import Thread

import pytest
from prometheus_client.parser import text_string_to_metric_families

from serving.server import metrics
from serving.server.metrics import LATENCY_LIMITS, Metrics, loaded_versions


def lines(seen: Metrics) -> list[str]:
    return seen.page().decode().splitlines()


def test_requests_are_counted_by_status_and_only_good_ones_timed() -> None:
    seen = Metrics()
    for _ in range(3):
        seen.requested("m", "predict", "REST", "OK", 20e-6)
    seen.requested("m", "Predict", "GRPC", "NOT_FOUND", 1.0)
    page = lines(seen)
    assert "# TYPE :tensorflow:serving:request_count counter" in page
    assert ':tensorflow:serving:request_count{model_name="m",status="OK"} 3' in page
    assert ':tensorflow:serving:request_count{model_name="m",status="NOT_FOUND"} 1' in page
    assert ':tensorflow:serving:request_latency_count{model_name="m",API="predict",entrypoint="REST"} 3' in page
    assert not any('entrypoint="GRPC"' in line for line in page)


def test_buckets_are_those_of_tensorflow_serving() -> None:
    seen = Metrics()
    seen.ran("m", "Predict", 20e-6)
    seen.ran("m", "Predict", 5e-6)
    buckets = [line for line in lines(seen) if line.startswith(":tensorflow:serving:runtime_latency_bucket")]
    start = ':tensorflow:serving:runtime_latency_bucket{model_name="m",API="Predict",runtime="TF1",le='
    assert buckets[:4] == [f'{start}"10"}} 1', f'{start}"18"}} 1', f'{start}"32.4"}} 2', f'{start}"58.32"}} 2']
    assert buckets[-1] == f'{start}"+Inf"}} 2' and len(buckets) == 34
    assert f'{start}"188.957"}} 2' in buckets and len(LATENCY_LIMITS) == 33


def test_prometheus_own_parser_reads_the_page() -> None:
    seen = Metrics()
    seen.requested('a "quoted" \\ name\n', "predict", "REST", "OK", 0.001)
    seen.ran("m", "Predict", 0.0005)
    seen.examples("m", 3)
    seen.examples("m", 1)
    seen.watch(":tfline:serving:loaded_version", ("model_name", "version"), loaded_versions(lambda: {"m": [2, 1]}))
    found = {sample.name: sample for family in text_string_to_metric_families(seen.page().decode()) for sample in family.samples}
    assert found[":tensorflow:serving:request_example_counts_sum"].value == 4
    assert found[":tensorflow:serving:request_latency_count"].labels["model_name"] == 'a "quoted" \\ name\n'
    assert found[":tensorflow:serving:runtime_latency_sum"].value == pytest.approx(500)
    assert found[":tfline:serving:loaded_version"].labels == {"model_name": "m", "version": "1"}
    assert ':tensorflow:serving:request_example_count_total{model="m"} 4' in lines(seen)


def test_batches() -> None:
    seen = Metrics()
    seen.batched("pool", [3, 1], 8, [150e-6, 50e-6])
    seen.batched("pool", [8], 8, [0.0])
    page = lines(seen)
    assert ":tensorflow:serving:batching_session:wrapped_run_count{} 2" in page
    assert ':tensorflow:serving:batching_session:queuing_latency_bucket{thread_pool_name="pool",le="100"} 2' in page
    assert ':tensorflow:serving:batching_session:queuing_latency_count{thread_pool_name="pool"} 3' in page
    assert ':tfline:serving:batch_rows_sum{thread_pool_name="pool"} 12' in page
    assert ':tfline:serving:batch_padding_rows{thread_pool_name="pool"} 4' in page


def test_names_from_requests_cannot_fill_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "MAX_CELLS", 3)
    seen = Metrics()
    for index in range(10):
        seen.requested(f"m{index}", "predict", "REST", "OK", 0.001)
    seen.requested("m0", "predict", "REST", "OK", 0.001)
    counts = [line for line in lines(seen) if line.startswith(":tensorflow:serving:request_count{")]
    assert len(counts) == 3 and counts[0].endswith(" 2")


def test_many_threads() -> None:
    seen = Metrics()

    def count() -> None:
        for _ in range(500):
            seen.requested("m", "predict", "REST", "OK", 0.001)

    threads = [Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert ':tensorflow:serving:request_count{model_name="m",status="OK"} 2000' in lines(seen)
