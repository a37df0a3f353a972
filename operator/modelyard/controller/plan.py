"""The plan: from a model and what was observed of it to what shall be. Pure, so that `modelyard up` follows the same."""

from modelyard.api.inference_model import InferenceModel
from modelyard.controller import builders, status
from modelyard.controller.autoscaler import clamp
from modelyard.controller.types import BuildSettings, Manifest, ObjectId, Observed, Plan


def plan(model: InferenceModel, observed: Observed, settings: BuildSettings) -> Plan:
    """Returns the objects that shall exist, those that no longer belong, and what to tell the user.

    ``desired`` holds every child; whoever applies it skips those that do not differ. ``status`` is None when it says what
    ``observed.previous`` says.
    """
    live = _live_deployment(observed)
    wanted = replicas(model, observed, live)
    external = model.spec.scaling.mode == "External"
    desired = builders.children(model, settings, None if external else wanted)
    after = status.build(model, observed, live, wanted, settings)
    ready = status.ready_condition(after)
    assert ready is not None
    return Plan(
        desired=desired,
        delete=tuple(observed.children.keys() - {object_id(manifest) for manifest in desired}),
        status=None if after == observed.previous else after,
        events=status.transitions(observed.previous, after),
        ready=ready,
    )


def replicas(model: InferenceModel, observed: Observed, live: Manifest | None) -> int:
    """Returns how many replicas there shall be: the autoscaler's word, else what runs, else the fewest; within the bounds.

    Another autoscaler's number is taken as it is, and that of an earlier model of the same name is none of this one's.
    """
    running = None if live is None or not _owned(model, live) else live["spec"].get("replicas", 1)
    if model.spec.scaling.mode == "External":
        return 1 if running is None else running
    wanted = observed.desired_replicas if observed.desired_replicas is not None else running
    return clamp(model, model.spec.scaling.min_replicas if wanted is None else wanted)


def object_id(manifest: Manifest) -> ObjectId:
    """Returns an object's identity within its namespace."""
    return ObjectId(manifest["kind"], manifest["metadata"]["name"])


def _live_deployment(observed: Observed) -> Manifest | None:
    return next((child for (kind, _), child in observed.children.items() if kind == "Deployment"), None)


def _owned(model: InferenceModel, child: Manifest) -> bool:
    """Returns whether no other model owns the child; one whose owner was edited away is still this one's."""
    owners = child["metadata"].get("ownerReferences", ())
    return not owners or model.metadata.uid in [owner["uid"] for owner in owners]
