"""`modelyard validate`."""

from modelyard.cli.options import Files


def command(files: Files) -> None:
    """Check manifests without starting anything, in the words of the API server.

    \b
    Examples:
      modelyard validate examples/quickstart.yaml
      modelyard validate models/ && kubectl apply -f models/
    """
    from modelyard.local.project import load, shown_as  # noqa: PLC0415

    for path, models in load(files).files.items():
        for model in models:
            print(f"{shown_as(path)}: inferencemodel {model.metadata.namespace}/{model.metadata.name} is valid")
