"""The operator's metrics. The API calls are counted by the client itself (`modelyard_kube_api_requests_total`)."""

from prometheus_client import Counter, Gauge, Histogram

QUEUE_DEPTH = Gauge("modelyard_operator_queue_depth", "Models that wait to be reconciled")
QUEUE_AGE = Gauge("modelyard_operator_queue_oldest_age_seconds", "Seconds that the longest-waiting model has been due")
MODELS = Gauge("modelyard_operator_models", "InferenceModels known")
LEADER = Gauge("modelyard_operator_leader", "1 where this process holds the Lease")
WATCH_AGE = Gauge("modelyard_operator_watch_age_seconds", "Seconds since the API server was last heard of on a watch", ["resource"])
RECONCILE_SECONDS = Histogram(
    "modelyard_operator_reconcile_duration_seconds",
    "Time of one reconciliation",
    buckets=(0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30),
)
RECONCILE_ERRORS = Counter("modelyard_operator_reconcile_errors_total", "Reconciliations that failed", ["reason"])
SCALE_DECISIONS = Counter("modelyard_operator_scale_decisions_total", "Decisions of the autoscaler", ["direction"])
