"""The command line: one module for each command, imported when it is used."""

import sys
from importlib.util import find_spec

if find_spec("typer") is None:  # the base install is the operator's and the gateway's
    sys.exit("modelyard: the command line is not installed here. Install it: pip install 'modelyard[runtime,local]'")
