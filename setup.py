"""Install the trainer's packages: `pip install -e .` (every script also runs uninstalled, from this folder)."""

from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
NEEDED = [line.strip() for line in (HERE / "requirements.txt").read_text(encoding="utf-8").splitlines()
          if line.strip() and not line.startswith("#")]

setup(
    name="lora-loom",
    version="0.1.0",
    description="LoRA training for diffusion image models with kohya sd-scripts' commands",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=find_packages(include=["library", "library.*", "networks", "networks.*"]),
    package_data={"library": ["**/assets/**/*", "util/languages/*.toml"]},
    install_requires=NEEDED,
    extras_require={
        "xformers": ["xformers"],
        "wandb": ["wandb"],
        "tagger": ["onnxruntime>=1.20,<2"],
        "optimizers": ["prodigyopt", "schedulefree", "lion-pytorch", "dadaptation", "pytorch-optimizer"],
        "lycoris": ["lycoris-lora>=4.1.3,<5"],
    },
)
