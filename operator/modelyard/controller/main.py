"""Entry point of `modelyard-operator`."""

import argparse
import logging
import sys
from collections.abc import Sequence

import uvloop
from pydantic import ValidationError

from modelyard.api.wording import said
from modelyard.controller import handlers, logs
from modelyard.controller.process import Operator
from modelyard.controller.settings import OperatorSettings
from modelyard.kube.client import KubeClient
from modelyard.kube.credentials import NoCluster

log = logging.getLogger(__name__)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the operator until SIGTERM; returns the exit code: 2 for a bad setting, 1 without a cluster."""
    try:
        settings = parse(arguments)
    except ValidationError as problem:
        for error in problem.errors():
            flag = "--" + str(error["loc"][0]).replace("_", "-")
            print(f"modelyard-operator: {flag}: {said(error)} (got {error['input']!r})", file=sys.stderr)
        return 2
    logs.configure(settings.log_level)
    try:
        uvloop.run(_run(settings))
    except NoCluster as problem:
        print(f"modelyard-operator: {problem}", file=sys.stderr)
        return 1
    return 0


def parse(arguments: Sequence[str] | None = None) -> OperatorSettings:
    """Returns the settings: flags over environment variables over defaults; raises ValidationError."""
    parser = argparse.ArgumentParser(
        prog="modelyard-operator",
        description="Turns InferenceModels into running pods. Finds the cluster by the pod's service account or $KUBECONFIG.",
        epilog="Each flag may also be given as an environment variable, MODELYARD_ and the flag in upper case with underscores.",
    )
    parser.add_argument("command", nargs="?", choices=["run"], default="run", help="run the operator (the default)")
    for name, field in OperatorSettings.model_fields.items():
        default = "this machine's host name" if field.default_factory else repr(field.default)
        parser.add_argument(f"--{name.replace('_', '-')}", default=argparse.SUPPRESS, help=f"{field.description} (default: {default})")
    given = vars(parser.parse_args(arguments))
    given.pop("command")
    return OperatorSettings(**given)


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
