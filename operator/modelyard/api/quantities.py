"""Kubernetes quantities: ``500m``, ``2``, ``16Gi``, ``1e3``.

https://kubernetes.io/docs/reference/kubernetes-api/common-definitions/quantity/
"""

import re
from decimal import Decimal

_BINARY = {unit: Decimal(1024) ** power for power, unit in enumerate(("Ki", "Mi", "Gi", "Ti", "Pi", "Ei"), start=1)}
_DECIMAL = {
    unit: Decimal(10) ** power for unit, power in (("n", -9), ("u", -6), ("m", -3), ("", 0), ("k", 3), ("M", 6), ("G", 9), ("T", 12))
}
_SCALES = _BINARY | _DECIMAL | {"P": Decimal(10) ** 15, "E": Decimal(10) ** 18}
_FORM = re.compile(r"([+-]?(?:\d+(?:\.\d*)?|\.\d+))(?:([eE][+-]?\d{1,3})|([KMGTPE]i|[numkMGTPE]?))")


def parse(text: object) -> Decimal:
    """Returns the value of a quantity; raises ValueError on anything else. YAML's numbers count as their decimal text."""
    found = _FORM.fullmatch(str(text)) if isinstance(text, str | int | float) and not isinstance(text, bool) else None
    if found is None:
        raise ValueError(f"{text!r} is not a quantity such as 500m, 2 or 16Gi")
    number, exponent, unit = found.groups()
    return Decimal(number + exponent) if exponent else Decimal(number) * _SCALES[unit]


def same(one: object, other: object) -> bool:
    """Returns whether two texts are quantities of one value, as 1000m and 1 are."""
    try:
        return parse(one) == parse(other)
    except ValueError:
        return False
