"""Small data sets for the tests of this room."""

from pathlib import Path

import numpy as np
from PIL import Image

from library.config.run_config import DatasetConfig, DatasetPart, SubsetConfig
from library.data.plan import DatasetPlan, ScanRules
from library.data.scan import scan

TEMPLATE = SubsetConfig(image_dir=None, caption_extension=".txt")
PART = DatasetPart(subsets=(), resolution=(64, 64), enable_bucket=True, min_bucket_reso=32, max_bucket_reso=128,
                   bucket_reso_steps=32)
RULES = ScanRules(bucket_step=8)


def picture(path: Path, size: tuple[int, int] = (64, 64), caption: str | None = "a, b", seed: int = 0) -> Path:
    """A picture of noise with its caption beside it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.RandomState(seed).randint(0, 256, (size[1], size[0], 3)).astype(np.uint8)
    Image.fromarray(noise).save(path)
    if caption is not None:
        path.with_suffix(".txt").write_text(caption, encoding="utf-8")
    return path


def folder_config(root: Path, part: DatasetPart = PART, template: SubsetConfig = TEMPLATE, **more) -> DatasetConfig:
    """--train_data_dir=root/train, and root/reg where it is there."""
    reg = root / "reg"
    return DatasetConfig((part,), train_data_dir=root / "train", reg_data_dir=reg if reg.exists() else None, template=template,
                         **more)


def folder_plan(root: Path, part: DatasetPart = PART, template: SubsetConfig = TEMPLATE, rules: ScanRules = RULES,
                **more) -> DatasetPlan:
    return scan(folder_config(root, part, template, **more), rules)


def subsets_plan(*subsets: SubsetConfig, rules: ScanRules = RULES, kohya_order: bool = False, **part) -> DatasetPlan:
    """A plan of one data set as --dataset_config gives it."""
    from dataclasses import replace

    return scan(DatasetConfig((replace(PART, subsets=subsets, **part),), folder_mode=False, kohya_order=kohya_order), rules)
