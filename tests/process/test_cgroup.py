"""The files of control groups, as kernels, containers and pods show them."""

import pytest
from modelyard.process import cgroup
from modelyard.process.cgroup import Memory

GIB = 2**30
#: What version 1 says where there is no limit: the largest number of whole pages.
NONE_V1 = 9223372036854771712
V1 = {"memory.usage_in_bytes": "700\n", "memory.stat": "cache 9\ninactive_file 1\ntotal_inactive_file 100\n"}
V2 = {"memory.current": "700\n", "memory.stat": "anon 9\ninactive_file 100\nslab 3\n"}


@pytest.fixture
def tree(tmp_path):
    """Writes /proc/self/cgroup and the files of groups; returns where they are."""

    def write(own, groups):
        mount, file = tmp_path / "cgroup", tmp_path / "own"
        file.write_text(own)
        for folder, texts in groups.items():
            (mount / folder).mkdir(parents=True, exist_ok=True)
            for name, text in texts.items():
                (mount / folder / name).write_text(text)
        return mount, file

    return write


@pytest.mark.parametrize(
    ("own", "groups", "found"),
    [
        pytest.param("0::/\n", {"": V2 | {"memory.max": "1000\n"}}, Memory(1000, 400), id="a container of version 2"),
        pytest.param("0::/\n", {"": V2 | {"memory.max": "max\n"}}, None, id="version 2 without a limit"),
        pytest.param("0::/\n", {"": {}}, None, id="the root of version 2 has no such files"),
        pytest.param("0::/a/b\n", {"a/b": V2 | {"memory.max": "max\n"}, "a": V2 | {"memory.max": "900\n"}}, Memory(900, 300), id="above"),
        pytest.param("0::/a/b\n", {"a/b": V2 | {"memory.max": "800\n"}, "a": V2 | {"memory.max": "900\n"}}, Memory(800, 200), id="both"),
        pytest.param("4:memory:/x\n0::/\n", {"memory/x": V1 | {"memory.limit_in_bytes": "1000\n"}}, Memory(1000, 400), id="version 1"),
        pytest.param("4:memory:/pods/x\n", {"memory": V1 | {"memory.limit_in_bytes": "1000\n"}}, Memory(1000, 400), id="a pod of it"),
        pytest.param("4:memory:/\n", {"memory": V1 | {"memory.limit_in_bytes": f"{NONE_V1}\n"}}, Memory(NONE_V1, NONE_V1 - 600), id="none"),
        pytest.param("0::/\n", {"": V2 | {"memory.max": "600\n"}}, Memory(600, 0), id="more used than allowed"),
        pytest.param("", {"": V2}, None, id="no control groups"),
    ],
)
def test_the_memory_that_is_left(tree, own, groups, found):
    assert cgroup.memory(*tree(own, groups)) == found


@pytest.mark.parametrize(
    ("own", "groups", "found"),
    [
        ("0::/\n", {"": {"cpu.max": "50000 100000\n"}}, 0.5),
        ("0::/\n", {"": {"cpu.max": "max 100000\n"}}, None),
        ("0::/a/b\n", {"a/b": {"cpu.max": "400000 100000\n"}, "a": {"cpu.max": "200000 100000\n"}}, 2.0),
        ("3:cpu,cpuacct:/x\n0::/\n", {"cpu": {"cpu.cfs_quota_us": "150000\n", "cpu.cfs_period_us": "100000\n"}}, 1.5),
        ("3:cpu,cpuacct:/x\n0::/\n", {"cpu": {"cpu.cfs_quota_us": "-1\n", "cpu.cfs_period_us": "100000\n"}}, None),
        ("0::/\n", {"": {}}, None),
    ],
)
def test_the_cores_that_may_be_used(tree, own, groups, found):
    assert cgroup.cores(*tree(own, groups)) == found


def test_where_nothing_is_mounted_nothing_bounds(tmp_path):
    assert cgroup.memory(tmp_path / "none", tmp_path / "none") is None
    assert cgroup.cores(tmp_path / "none", tmp_path / "none") is None


def test_this_process_is_within_what_its_machine_tells():
    bound = cgroup.memory()
    assert bound is None or 0 < bound.free <= bound.limit
    assert cgroup.cores() is None or cgroup.cores() > 0
