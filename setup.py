"""Puts configs, tools and the model index where ``mim`` and the Inferencers look: ``mmsparse/.mim``."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).parent
PARTS = ("configs", "tools", "model-index.yml")


class BuildWithMim(build_py):
    """Copies into wheels; links in editable installs, so that they follow the working tree."""

    def run(self) -> None:
        super().run()
        target = ROOT / "mmsparse" / ".mim" if self.editable_mode else Path(self.build_lib) / "mmsparse" / ".mim"
        target.mkdir(parents=True, exist_ok=True)
        for name in PARTS:
            source, place = ROOT / name, target / name
            if place.is_symlink() or place.is_file():
                place.unlink()
            elif place.is_dir():
                shutil.rmtree(place)
            if self.editable_mode:
                place.symlink_to(source, target_is_directory=source.is_dir())
            elif source.is_dir():
                shutil.copytree(source, place, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(source, place)


setup(cmdclass={"build_py": BuildWithMim})
