"""The part setup.cfg cannot express: two files at the top of site-packages.

They register the models when RecBole is imported.
"""

from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

STARTUP_MODULE = "recbole_glintru_startup.py"
STARTUP_FILE = "recbole_glintru.pth"
STARTUP_LINE = (
    "import os; os.environ.get('RECBOLE_GLINTRU_AUTOLOAD') == '0' "
    "or __import__('recbole_glintru_startup').wait_for_recbole()\n"
)


class BuildWithStartup(build_py):
    """`build_py` that also installs the start-up line and its finder, except in an editable install."""

    def run(self):
        super().run()
        if not self.editable_mode:
            module, line = self._startup_targets()
            self.copy_file(str(Path("startup", STARTUP_MODULE)), module, preserve_mode=False)
            Path(line).write_text(STARTUP_LINE)

    def get_outputs(self, include_bytecode=True):
        return super().get_outputs(include_bytecode) + self._startup_targets()

    def _startup_targets(self):
        return [str(Path(self.build_lib, name)) for name in (STARTUP_MODULE, STARTUP_FILE)]


setup(cmdclass={"build_py": BuildWithStartup})
