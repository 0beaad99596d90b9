"""A run as MLflow keeps runs, for those who have it: parameters, metrics, tags, outputs."""

from __future__ import annotations

import math
import os

from launcher.errors import UsageError
from launcher.jobs import index, metrics

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from launcher.jobs.state import Record

_STATUS = {"Completed": "FINISHED", "Failed": "FAILED", "Canceled": "KILLED"}

# How much MLflow takes in one request, and in one parameter.
_MOST_METRICS = 1000
_MOST_PARAMETERS = 100
_LONGEST_TEXT = 6000


def export(record: Record) -> str:
    """Write a run to where MLFLOW_TRACKING_URI points; return its id there."""
    try:
        from mlflow import MlflowClient
        from mlflow.entities import Metric, Param
    except ImportError:
        raise UsageError(
            "MLflow is not installed here.", hint="Type: pip install mlflow-skinny"
        ) from None
    client = MlflowClient()
    name = record.asked.get("experiment") or "Default"
    experiment = client.get_experiment_by_name(name)
    experiment_id = experiment.experiment_id if experiment else client.create_experiment(name)
    began = record.started or record.created
    tags = {key: str(value) for key, value in record.added.tags.items()}
    tags["launcher.run_id"] = record.run.run_id
    made = client.create_run(
        experiment_id,
        start_time=_milliseconds(began),
        tags=tags,
        run_name=record.added.display_name or record.run.run_id,
    )
    run_id: str = made.info.run_id
    arguments = (record.asked.get("definition") or {}).get("arguments") or []
    parameters = [
        Param(key, str(value)[:_LONGEST_TEXT])
        for key, value in index.read_arguments(arguments).items()
    ]
    for begin in range(0, len(parameters), _MOST_PARAMETERS):
        client.log_batch(run_id, params=parameters[begin : begin + _MOST_PARAMETERS])
    values = [Metric(*point) for point in _points(metrics.read(record.run.metrics))]
    for begin in range(0, len(values), _MOST_METRICS):
        client.log_batch(run_id, metrics=values[begin : begin + _MOST_METRICS])
    outputs = record.run.join("outputs")
    if os.listdir(outputs):
        client.log_artifacts(run_id, outputs, "outputs")
    status = _STATUS.get(record.status, "RUNNING")
    end_time = _milliseconds(record.ended) if record.ended else None
    client.set_terminated(run_id, status=status, end_time=end_time)
    return run_id


def _points(found: dict[str, metrics.Series]) -> list[tuple[str, float, int, int]]:
    """Return name, value, time and step of every number."""
    return [
        (name, float(value), _milliseconds(at), number if step is None else step)
        for name, series in found.items()
        if not series.kind
        for number, (value, step, at) in enumerate(
            zip(series.values, series.steps, series.times, strict=True)
        )
        if _is_number(value)
    ]


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _milliseconds(seconds: float) -> int:
    return int(seconds * 1000)
