"""Package metadata and dependencies of videovit. The settings of tools are in pyproject.toml."""

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
VERSION = re.findall(r'^__version__ = "(.+)"$', (HERE / "videovit/__init__.py").read_text(encoding="utf-8"), re.M)[0]

# decord publishes wheels only for x86-64. On other machines PyAV is the default decoder.
DECORD = 'decord>=0.6.0; platform_machine == "x86_64" or platform_machine == "AMD64"'

setup(
    name="videovit",
    version=VERSION,
    description="Video understanding with multiscale vision transformers: train, test, shuffle-test, predict.",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    python_requires=">=3.11",
    packages=find_packages(include=["videovit", "videovit.*"]),
    # videovit/configs is a link to configs/; built packages contain copies of the files.
    package_data={"videovit": ["py.typed", "configs/*/*.yaml", "models/*.csv", "report/templates/**/*"]},
    entry_points={"console_scripts": ["videovit = videovit.cli:main"]},
    install_requires=[
        "torch>=2.8",
        "torchvision>=0.23",
        "pytorchvideo>=0.1.5",
        DECORD,
        "av>=18.1",
        "fvcore>=0.1.5.post20221221",
        "simplejson>=3.17",
        "submitit>=1.5.4",
        "numpy>=1.26",
        "pillow>=10.3",
        "opencv-python-headless>=4.8.0.76",
        "pyyaml>=6",
        "tqdm>=4.65",
        "filelock>=3.12",
        "safetensors>=0.4",
        "matplotlib>=3.7",
        "jinja2>=3.1",
    ],
    extras_require={
        "tensorboard": ["tensorboard>=2.14"],
        "hub": ["huggingface-hub>=1.0"],
        "timm": ["timm>=1.0.11"],
        "app": ["gradio>=6"],
        "browser": ["selenium>=4.11"],
        "hf": ["transformers>=5.24", "scipy>=1.11"],
        "onnx": ["onnx>=1.18", "onnxruntime>=1.22", "onnxscript>=0.5"],
        "openvino": ["openvino>=2025.2", "onnx>=1.18", "onnxscript>=0.5"],
        "int8": ["nncf>=3.0", "openvino>=2025.2", "onnx>=1.18", "onnxscript>=0.5"],
        "torchcodec": ["torchcodec>=0.7"],
        "remote": ["fsspec>=2024.6", "s3fs>=2024.6", "gcsfs>=2024.6", "huggingface-hub>=1.0", "aiohttp>=3.9"],
        "hdf5": ["h5py>=3.10"],
        "coco": ["pycocotools>=2.0.10"],
        "dev": [
            "setuptools>=70.1",
            "pytest>=8",
            "pytest-xdist>=3.8",
            "ruff>=0.8",
            "mypy>=1.13",
            "tensorboard>=2.14",
            "huggingface-hub>=1.0",
            "timm>=1.0.25",
            "scikit-image>=0.22",
            "scikit-learn>=1.4",
            "faster-coco-eval>=1.6.5",
            "pycocotools>=2.0.10",
            "nbclient>=0.10",
            "nbformat>=5.10",
            "ipykernel>=6.29",
            "types-PyYAML",
            "types-simplejson",
            "types-tqdm",
        ],
    },
)
