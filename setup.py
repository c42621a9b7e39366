"""Build script: all metadata comes from settings.ini, the file that nbdev reads too."""

from configparser import ConfigParser
from pathlib import Path

from setuptools import find_packages, setup

here = Path(__file__).parent
config = ConfigParser(delimiters=["="], interpolation=None)
config.read(here / "settings.ini", encoding="utf-8")
meta = config["DEFAULT"]
extras = {
    key.removesuffix("_requirements"): value.split() for key, value in meta.items() if key.endswith("_requirements")
}

setup(
    name=meta["lib_name"],
    version=meta["version"],
    description=meta["description"],
    long_description=(here / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    author=meta["author"],
    author_email=meta["author_email"],
    url=meta["git_url"],
    keywords=meta["keywords"].split(),
    license="Apache-2.0",
    license_files=["LICENSE"],
    # The study templates are notebooks of the source tree; in the wheel they become package data.
    packages=[*find_packages(include=["taskspace", "taskspace.*"]), "taskspace.studies"],
    package_dir={"taskspace.studies": "nbs/studies"},
    package_data={
        "taskspace": ["py.typed", "assets/*"],
        "taskspace.studies": [
            *("*.ipynb", "*/*.yaml", "*/*.parquet", "*/*.csv"),
            *("english/*/*", "real/*/*", "languages/*/*"),
        ],
    },
    include_package_data=False,
    python_requires=">=" + meta["min_python"],
    install_requires=meta["requirements"].split(),
    extras_require=extras,
    # The second group lets the documentation of other nbdev projects link to our names.
    entry_points={"console_scripts": meta["console_scripts"].split("\n"), "nbdev": ["taskspace=taskspace._modidx:d"]},
    zip_safe=False,
    classifiers=[
        "Development Status :: 3 - Alpha",
        "Intended Audience :: Science/Research",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Topic :: Text Processing :: Linguistic",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
    ],
)
