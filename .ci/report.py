"""Reads pytest's JUnit report: `report.py FILE AT_LEAST` fails unless at least so many tests were collected and each of them passed."""

import sys
from xml.etree import ElementTree

path, at_least = sys.argv[1], int(sys.argv[2])
suites = list(ElementTree.parse(path).getroot().iter("testsuite"))  # noqa: S314 (our own file)
total, *bad = (sum(int(suite.get(name, 0)) for suite in suites) for name in ("tests", "failures", "errors", "skipped"))
print(f"{total - sum(bad)} passed, {bad[0] + bad[1]} failed, {bad[2]} skipped")
if any(bad):
    cases = [case for suite in suites for case in suite.iter("testcase")]
    names = [case.get("name", "") for case in cases if {child.tag for child in case} & {"failure", "error", "skipped"}]
    sys.exit(f"every test must run and pass: {', '.join(names)}")
if total < at_least:
    sys.exit(f"only {total} tests were collected; at least {at_least} are expected")
