"""Entry point of `modelyard-operator`."""

import logging
import sys
from collections.abc import Sequence

import uvloop

from modelyard.controller import handlers, logs
from modelyard.controller.process import Operator
from modelyard.controller.settings import OperatorSettings
from modelyard.kube.client import KubeClient
from modelyard.kube.credentials import NoCluster
from modelyard.process import command_line

log = logging.getLogger(__name__)

_DESCRIPTION = "Turns InferenceModels into running pods. Finds the cluster by the pod's service account or $KUBECONFIG."


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the operator until SIGTERM; returns the exit code: 1 without a cluster. Raises SystemExit with 2 on a bad setting."""
    settings = parse(sys.argv[1:] if arguments is None else arguments)
    logs.configure(settings.log_level)
    try:
        uvloop.run(_run(settings))
    except NoCluster as problem:
        print(f"modelyard-operator: {problem}", file=sys.stderr)
        return 1
    return 0


def parse(arguments: Sequence[str]) -> OperatorSettings:
    """Returns the settings; raises SystemExit. The word ``run`` may come first."""
    return command_line.parse(OperatorSettings, "modelyard-operator", _DESCRIPTION, arguments[list(arguments[:1]) == ["run"] :])


async def _run(settings: OperatorSettings) -> None:
    async with await KubeClient.connect(connections=settings.workers + 4) as client:
        while True:
            operator = Operator(settings, client)
            try:
                await handlers.run(operator, settings.watch_namespace)
            except Exception:  # kopf ends by whatever the API server answered
                if not await operator.is_unserved():
                    raise
                log.warning("InferenceModels are no longer served; starting over once their CRD is back")
            else:
                return


if __name__ == "__main__":
    sys.exit(main())
