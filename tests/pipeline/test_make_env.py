import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
UV = f"""#!/bin/sh
case "$1 $2" in
  "venv -q") exec {sys.executable} -m venv --without-pip .venv ;;
  "python find") echo {sys.executable} ;;
esac
"""
"""Stands in for uv: makes environments, installs nothing."""


@pytest.fixture
def checkout(tmp_path):
    folder = tmp_path / "checkout"
    (folder / "scripts").mkdir(parents=True)
    shutil.copy(ROOT / "scripts" / "make-env", folder / "scripts")
    (folder / "setup.py").touch()
    (folder / "locks").mkdir()
    for name in ("build", "tfx-1.16", "tfx-1.21"):
        (folder / "locks" / f"{name}.txt").write_text("one==1\n")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "uv").write_text(UV)
    (tmp_path / "bin" / "uv").chmod(0o755)
    return folder


def make_env(checkout):
    path = f"{checkout.parent / 'bin'}:{os.environ['PATH']}"
    env = {**os.environ, "PATH": path, "PYTHON": sys.executable}
    done = subprocess.run(
        [checkout / "scripts" / "make-env"], env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stderr


@pytest.mark.parametrize("take", [shutil.move, shutil.copytree], ids=["moved", "copied"])
def test_environment_of_a_checkout_elsewhere_is_made_anew(checkout, take):
    assert "done" in make_env(checkout)
    assert make_env(checkout) == ""
    (checkout / ".venv" / "kept").touch()
    (checkout / "setup.py").write_text("# changed")
    make_env(checkout)
    assert (checkout / ".venv" / "kept").exists()

    elsewhere = checkout.parent / "else where"
    take(checkout, elsewhere)
    make_env(elsewhere)
    assert not (elsewhere / ".venv" / "kept").exists()
    assert str(elsewhere) in (elsewhere / ".venv" / "bin" / "activate").read_text()
    assert make_env(elsewhere) == ""
