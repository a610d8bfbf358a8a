import pytest
from tfx.utils import dependency_utils

from pipeline.dag import with_code

DIRECT = "--direct_running_mode=in_memory"


@pytest.mark.parametrize("given", [(), (DIRECT,), ("--runner=DirectRunner", DIRECT)])
def test_tfx_packs_no_code_for_workers_of_the_direct_runner(given, monkeypatch):
    def pack():
        raise AssertionError("TFX packs itself")

    monkeypatch.setattr(dependency_utils, "build_ephemeral_package", pack)
    arguments = with_code(given)
    assert arguments[: len(given)] == list(given)
    if arguments:  # As `BaseBeamExecutor` does.
        assert dependency_utils.make_beam_dependency_flags(arguments) == arguments


@pytest.mark.parametrize(
    "given",
    [
        ["--runner=FlinkRunner"],
        ["--runner=PortableRunner", "--sdk_container_image=registry/worker"],
        [DIRECT, "--setup_file=/app/setup.py"],
    ],
)
def test_workers_elsewhere_get_what_the_options_say(given):
    assert with_code(given) == given
