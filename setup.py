"""Two things that go beyond a package's modules.

Configs, tools and the model index lie where ``mim`` and the Inferencers look: ``mmsparse/.mim``. And by a line that
Python executes when it starts, whoever asks for mmcv's operators finds those of ``mmsparse/mmcv_ops`` if there are no
others.
"""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py
from setuptools.command.editable_wheel import editable_wheel

ROOT = Path(__file__).parent
PARTS = ("configs", "tools", "model-index.yml")
START = "mmsparse_mmcv_ops.pth"
LINE = (  # costs nothing before it is asked, and imports nothing
    "import sys; sys.meta_path.append(type('MmcvOps', (), {'find_spec': staticmethod(lambda name, *_: "
    "__import__('mmsparse.mmcv_ops').mmcv_ops.Finder.find_spec(name) if name == 'mmcv._ext' else None)}))\n"
)


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
        if not self.editable_mode:
            (Path(self.build_lib) / START).write_text(LINE)


class EditableWithStart(editable_wheel):
    """An editable wheel takes nothing from ``build_lib`` but what belongs to the package."""

    def _run_build_commands(
        self, dist_name: str, unpacked_wheel: str, *places: str
    ) -> tuple[list[str], dict[str, str]]:
        (Path(unpacked_wheel) / START).write_text(LINE)
        return super()._run_build_commands(dist_name, unpacked_wheel, *places)


setup(cmdclass={"build_py": BuildWithMim, "editable_wheel": EditableWithStart})
